//! Catalog entries: keyspaces and users, as they stand in records and rows. Bodies are JSON objects,
//! described in docs/formats.md, "Catalog".
//!
//! An entry's name is its row's key, not part of its body. Fields that this program does not know
//! are kept when the entry is written again; a body that must not be read without knowing them says
//! so by a higher `format`, and is refused. What the rules of a user mean is the server's concern.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, ErrorKind, KeyspaceId, varint::take_u64};

/// A keyspace: number, name, kind, quotas.
pub const KEYSPACE: u8 = 1;
/// A user: password hashes, categories, key patterns.
pub const USER: u8 = 2;

/// The body format that this program writes, and the highest that it reads.
pub const FORMAT: u32 = 1;
/// Longest name of an entry: it stands in a row's key and in metrics.
pub const NAME_BYTES_MAX: usize = 64;
/// Largest body: a user with the most passwords, rules and patterns that one would write by hand.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// What a keyspace promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyspaceKind {
    /// Every acknowledged write is kept.
    #[default]
    Durable,
    /// Entries may be thrown out for room.
    Cache,
}

/// A keyspace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Keyspace {
    /// See [`FORMAT`].
    pub format: u32,
    /// What SELECT takes besides the name.
    pub number: u16,
    /// What it promises.
    #[serde(default)]
    pub kind: KeyspaceKind,
    /// Bytes of keys and content that it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// Keys that it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_max: Option<u64>,
    /// Fields of later programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Keyspace {
    /// A durable keyspace without quotas.
    pub fn new(number: KeyspaceId) -> Keyspace {
        Keyspace {
            format: FORMAT,
            number: number.0,
            kind: KeyspaceKind::Durable,
            bytes_max: None,
            keys_max: None,
            unknown: Map::new(),
        }
    }

    /// Its number.
    pub fn id(&self) -> KeyspaceId {
        KeyspaceId(self.number)
    }
}

/// A user and what it may do. New ones are disabled and may do nothing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct User {
    /// See [`FORMAT`].
    pub format: u32,
    /// Whether it may log in, and act.
    pub enabled: bool,
    /// Any password is right.
    #[serde(default)]
    pub nopass: bool,
    /// SHA-256 of each valid password, as 64 lower-case hexadecimal digits.
    #[serde(default)]
    pub passwords: Vec<String>,
    /// Rules on commands, later ones win: `+get`, `-client|list`, `+@read`. Nothing is allowed
    /// before the first.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Glob patterns of keys.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Glob patterns of channels.
    #[serde(default)]
    pub channels: Vec<String>,
    /// Fields of later programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Default for User {
    fn default() -> User {
        User {
            format: FORMAT,
            enabled: false,
            nopass: false,
            passwords: Vec::new(),
            commands: Vec::new(),
            keys: Vec::new(),
            channels: Vec::new(),
            unknown: Map::new(),
        }
    }
}

/// A kind of entry with a JSON body.
pub trait Body: Serialize + serde::de::DeserializeOwned {
    /// Its kind, as stored.
    const KIND: u8;
    /// The format that its body names.
    fn format(&self) -> u32;
}

impl Body for Keyspace {
    const KIND: u8 = KEYSPACE;
    fn format(&self) -> u32 {
        self.format
    }
}

impl Body for User {
    const KIND: u8 = USER;
    fn format(&self) -> u32 {
        self.format
    }
}

/// The stored body. An error says that it is too large.
pub fn encode<B: Body>(body: &B) -> Result<Vec<u8>, Error> {
    let stored = serde_json::to_vec(body)
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
    if stored.len() > BODY_BYTES_MAX {
        let text = format!("a catalog entry may have at most {BODY_BYTES_MAX} bytes");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    Ok(stored)
}

/// Reads a stored body: corrupt if it is none, unsupported if it needs a later program.
pub fn decode<B: Body>(stored: &[u8]) -> Result<B, Error> {
    /// What every format has.
    #[derive(Deserialize)]
    struct Any {
        format: u32,
    }
    let corrupt = |error: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("a catalog entry does not decode: {error}"))
    };
    let Any { format } = serde_json::from_slice(stored).map_err(corrupt)?;
    if format > FORMAT {
        let text =
            format!("a catalog entry has format {format}: this program reads up to {FORMAT}");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    serde_json::from_slice(stored).map_err(corrupt)
}

/// Version and body of a catalog row's value.
pub fn parse_row(mut value: &[u8]) -> Option<(u64, &[u8])> {
    let version = take_u64(&mut value)?;
    Some((version, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keyspaces_read_back(number: u16, bytes_max: Option<u64>, keys_max: Option<u64>) {
            let keyspace = Keyspace { bytes_max, keys_max, ..Keyspace::new(KeyspaceId(number)) };
            let stored = encode(&keyspace).expect("it is small");
            prop_assert_eq!(decode::<Keyspace>(&stored).ok(), Some(keyspace));
        }

        #[test]
        fn users_read_back(
            enabled: bool, nopass: bool, passwords: Vec<String>, commands: Vec<String>,
            keys: Vec<String>, channels: Vec<String>,
        ) {
            let user = User {
                enabled, nopass, passwords, commands, keys, channels, ..User::default()
            };
            if let Ok(stored) = encode(&user) {
                prop_assert_eq!(decode::<User>(&stored).ok(), Some(user));
            }
        }

        #[test]
        fn hostile_bodies_do_not_panic(stored: Vec<u8>) {
            let _ = (decode::<User>(&stored), decode::<Keyspace>(&stored), parse_row(&stored));
        }
    }

    #[test]
    fn unknown_fields_are_kept() -> Result<(), Error> {
        let stored = br#"{"format":1,"number":17,"expiry":{"max_ms":5}}"#;
        let mut keyspace: Keyspace = decode(stored)?;
        keyspace.keys_max = Some(3);
        let again: Keyspace = decode(&encode(&keyspace)?)?;
        let text = String::from_utf8(encode(&again)?).expect("JSON is text");
        assert!(text.contains(r#""expiry":{"max_ms":5}"#) && again.keys_max == Some(3), "{text}");
        Ok(())
    }

    #[test]
    fn bodies_that_need_a_later_program_are_refused() {
        let stored = br#"{"format":2,"enabled":"by moonlight"}"#;
        let error = decode::<User>(stored).expect_err("of a later format");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn damaged_and_oversized_bodies_are_refused() {
        for stored in [&b""[..], b"{}", br#"{"format":1}"#, br#"{"format":1,"enabled":1}"#] {
            let error = decode::<User>(stored).expect_err("it is no user");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let user = User { keys: vec!["k".repeat(BODY_BYTES_MAX)], ..User::default() };
        assert_eq!(encode(&user).expect_err("too large").kind(), ErrorKind::Invalid);
    }
}
