//! A request, and the bytes of a reply taken apart.

use std::fmt;

use holdfast_protocol::resp::{encode_command, parse_value};

/// One request of a sequence.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Which of the sequence's connections sends it.
    pub connection: usize,
    pub words: Vec<Vec<u8>>,
    /// Must be sent as it is: [`crate::pen::Pen::spoil`] leaves it alone.
    pub intact: bool,
}

impl Request {
    pub fn new(name: impl AsRef<[u8]>) -> Request {
        Request { connection: 0, words: vec![name.as_ref().to_vec()], intact: false }
    }

    /// From words separated by spaces.
    pub fn of(line: &str) -> Request {
        let words = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        Request { connection: 0, words, intact: false }
    }

    pub fn arg(mut self, word: impl AsRef<[u8]>) -> Request {
        self.words.push(word.as_ref().to_vec());
        self
    }

    pub fn args<W: AsRef<[u8]>>(mut self, words: impl IntoIterator<Item = W>) -> Request {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_vec()));
        self
    }

    pub fn on(mut self, connection: usize) -> Request {
        self.connection = connection;
        self
    }

    pub fn intact(mut self) -> Request {
        self.intact = true;
        self
    }

    /// The command in lower case.
    pub fn name(&self) -> String {
        self.word(0)
    }

    /// A word in lower case; empty if there is none.
    pub fn word(&self, at: usize) -> String {
        let word = self.words.get(at).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(word).to_ascii_lowercase()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
        encode_command(out, &words);
    }

    pub fn bytes(&self) -> usize {
        self.words.iter().map(|word| word.len() + 16).sum()
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connection > 0 {
            write!(f, "({}) ", self.connection + 1)?;
        }
        for (at, word) in self.words.iter().enumerate() {
            let space = if at > 0 { " " } else { "" };
            write!(f, "{space}{}", shown(word))?;
        }
        Ok(())
    }
}

/// Bytes as a person reads them, cut where they get long.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 240;
    let plain = !bytes.is_empty() && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte));
    let text = bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii().to_string();
    let cut =
        if bytes.len() > SHOWN_MAX { format!("… {} bytes", bytes.len()) } else { String::new() };
    if plain { format!("{text}{cut}") } else { format!("\"{text}{cut}\"") }
}

/// The elements of an array, set, map or push, as bytes; `None` for anything else and for a null.
/// A map's keys and values follow one another.
pub fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let (marker, rest) = reply.split_first()?;
    let per_count = match marker {
        b'*' | b'~' | b'>' => 1,
        b'%' => 2,
        _ => return None,
    };
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let count: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let mut rest = &rest[end + 2..];
    let mut found = Vec::with_capacity(count * per_count);
    for _ in 0..count * per_count {
        let (_, bytes) = parse_value(rest).ok()??;
        let (element, after) = rest.split_at(bytes);
        found.push(element);
        rest = after;
    }
    Some(found)
}

/// An integer reply's number.
pub fn integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
}

/// What a bulk string or a status says.
pub fn text(reply: &[u8]) -> Option<&[u8]> {
    match reply.first()? {
        b'$' => {
            let start = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
            reply.get(start..reply.len().checked_sub(2)?)
        }
        b'+' => reply.get(1..reply.len().checked_sub(2)?),
        _ => None,
    }
}

/// The code word of an error reply.
pub fn error_code(reply: &[u8]) -> Option<&[u8]> {
    let text = reply.strip_prefix(b"-")?;
    text.split(|byte| byte.is_ascii_whitespace()).next()
}
