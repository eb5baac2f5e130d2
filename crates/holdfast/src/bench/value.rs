//! The values that the load writes, and how a value read back is checked.
//!
//! Bytes come from a ring of random letters and digits, at a place that the key and a sequence
//! number choose, so a store that compresses gains little. In verify mode a value starts with a
//! stamp `key.member.length.sequence.` in hexadecimal; the rest then follows from the stamp, so a
//! value of another key, a mixed-up one and a torn one are all seen. Lost updates are not.

use super::random::{Rng, mix};

/// Bytes of the stamp: 16 + 8 + 8 + 16 digits, each followed by a dot.
const STAMP_BYTES: usize = 52;
/// Shortest value that can be verified: twelve letters (72 bits) behind the stamp vouch for it.
pub const VERIFIED_BYTES_MIN: usize = 64;
const RING_BYTES: usize = 64 * 1024;
/// Fixed, so that one run can verify what another wrote.
const RING_SEED: u64 = 0x686f_6c64_6661_7374;

/// Writes and checks values.
#[derive(Debug)]
pub struct Values {
    ring: Vec<u8>,
    len: usize,
    stamped: bool,
}

impl Values {
    /// Values of `len` bytes; with stamps (then at least [`VERIFIED_BYTES_MIN`] long) or without.
    pub fn new(len: usize, stamped: bool) -> Values {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut rng = Rng::new(RING_SEED, 0);
        let ring = (0..RING_BYTES).map(|_| letters[(rng.bits() >> 58) as usize]).collect();
        Values { ring, len, stamped }
    }

    /// Length of each value in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends the value of a key (and member) with this sequence number.
    pub fn write(&self, key: u64, member: u64, sequence: u64, out: &mut Vec<u8>) {
        let mut left = self.len;
        if self.stamped {
            out.extend_from_slice(&stamp(key, member, self.len, sequence));
            left -= STAMP_BYTES;
        }
        let mut at = place(key, member, sequence);
        while left > 0 {
            let piece = &self.ring[at..self.ring.len().min(at + left)];
            out.extend_from_slice(piece);
            left -= piece.len();
            at = 0;
        }
    }

    /// Whether `value` is whole and was written for this key and member.
    pub fn check(&self, key: u64, member: u64, value: &[u8]) -> Result<(), String> {
        let wrong = |what: &str| {
            let head = String::from_utf8_lossy(value.get(..STAMP_BYTES).unwrap_or(value));
            Err(format!("key {key} (hex {key:x}) member {member}: {what}: {head:?}"))
        };
        if value.len() < VERIFIED_BYTES_MIN {
            return wrong("value without stamp");
        }
        let (head, body) = value.split_at(STAMP_BYTES);
        let Some(sequence) = head.get(35..51).and_then(parse_hex) else {
            return wrong("value without stamp");
        };
        if head != stamp(key, member, value.len(), sequence) {
            return wrong("value of another key or length");
        }
        let mut at = place(key, member, sequence);
        let mut rest = body;
        while !rest.is_empty() {
            let piece = &self.ring[at..self.ring.len().min(at + rest.len())];
            match rest.strip_prefix(piece) {
                Some(after) => rest = after,
                None => return wrong("damaged value"),
            }
            at = 0;
        }
        Ok(())
    }
}

fn place(key: u64, member: u64, sequence: u64) -> usize {
    mix(key ^ member.rotate_left(40) ^ sequence.rotate_left(20)) as usize % RING_BYTES
}

fn stamp(key: u64, member: u64, len: usize, sequence: u64) -> [u8; STAMP_BYTES] {
    let mut text = [b'.'; STAMP_BYTES];
    hex(key, &mut text[..16]);
    hex(member, &mut text[17..25]);
    hex(len as u64, &mut text[26..34]);
    hex(sequence, &mut text[35..51]);
    text
}

fn hex(mut number: u64, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn parse_hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}
