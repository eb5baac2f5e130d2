//! The stored form of one message: a barrier, a part of a call's batches, or a sign of life.
//!
//! Layout to the byte: docs/formats.md, "Replicated log". The decoder checks everything, does not
//! panic and borrows the payload. Pure.

use holdfast_base::{
    Epoch, Hlc, Incarnation, Lsn, ShardId,
    varint::{take_array, take_exact, take_u8},
};
use holdfast_log::place::Point;

const VERSION: u8 = 1;
/// Bytes before a message's payload.
pub(crate) const HEADER_BYTES: usize = 40;
const BARRIER_BYTES: usize = 36;

/// One message, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Whose log.
    pub shard: ShardId,
    /// Life of the shard's log.
    pub incarnation: Incarnation,
    /// Epoch of the session that sent it.
    pub epoch: Epoch,
    /// What it is.
    pub content: Content<'a>,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// A session begins here, behind this point. Everything before is settled.
    Barrier(Point),
    /// A part of a call.
    Part(Part<'a>),
    /// The session's owner lives.
    Renewal,
    /// The session's owner gives the shard up.
    Parting,
}

/// A part of a call's batches. Only a call with all its parts, in order, is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    /// Place of the call's first record within the epoch.
    pub first_n: u64,
    /// Which part, from 0.
    pub index: u32,
    /// Parts of the call.
    pub count: u32,
    /// Its piece of the call's batches.
    pub bytes: &'a [u8],
}

/// Why bytes are no message of ours.
pub type Wrong = &'static str;

impl Message<'_> {
    /// The message's stored form.
    pub fn encode(&self) -> Vec<u8> {
        let barrier;
        let (kind, index, count, first_n, payload) = match self.content {
            Content::Barrier(point) => {
                barrier = encode_point(&point);
                (1, 0, 0, 0, barrier.as_slice())
            }
            Content::Part(part) => (2, part.index, part.count, part.first_n, part.bytes),
            Content::Renewal => (3, 0, 0, 0, &[][..]),
            Content::Parting => (4, 0, 0, 0, &[][..]),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
        out.extend_from_slice(&[VERSION, kind]);
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&first_n.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), payload);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(payload);
        out
    }
}

impl<'a> Message<'a> {
    /// Reads a message and verifies its checksum. What the batches hold is not looked at.
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, Wrong> {
        let short = "shorter than a message";
        let (mut header, payload) = bytes.split_at_checked(HEADER_BYTES).ok_or(short)?;
        let (checked, checksum) = header.split_last_chunk::<4>().ok_or(short)?;
        if crc32c::crc32c_append(crc32c::crc32c(checked), payload) != u32::from_le_bytes(*checksum)
        {
            return Err("its checksum does not match");
        }
        let input = &mut header;
        if take_u8(input) != Some(VERSION) {
            return Err("written by a later version");
        }
        let kind = take_u8(input).ok_or(short)?;
        let shard = ShardId(u16::from_le_bytes(take_array(input).ok_or(short)?));
        let index = u32::from_le_bytes(take_array(input).ok_or(short)?);
        let count = u32::from_le_bytes(take_array(input).ok_or(short)?);
        let mut number = || take_array(input).map(u64::from_le_bytes).ok_or(short);
        let incarnation = Incarnation(number()?);
        let epoch = Epoch(number()?);
        let first_n = number()?;
        let content = match kind {
            1 if (index, count, first_n) == (0, 0, 0) => Content::Barrier(
                decode_point(payload, incarnation).ok_or("a barrier of odd length")?,
            ),
            2 if index < count && !payload.is_empty() => {
                Content::Part(Part { first_n, index, count, bytes: payload })
            }
            3 if (index, count, first_n, payload) == (0, 0, 0, &[]) => Content::Renewal,
            4 if (index, count, first_n, payload) == (0, 0, 0, &[]) => Content::Parting,
            _ => return Err("no kind of message"),
        };
        Ok(Message { shard, incarnation, epoch, content })
    }
}

fn encode_point(point: &Point) -> Vec<u8> {
    let mut out = Vec::with_capacity(BARRIER_BYTES);
    for number in [point.next_lsn.0, point.epoch.0, point.next_n, point.time.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&point.chain.to_le_bytes());
    out
}

fn decode_point(mut payload: &[u8], incarnation: Incarnation) -> Option<Point> {
    let input = &mut payload;
    let mut number = || take_array(input).map(u64::from_le_bytes);
    let (next_lsn, epoch) = (Lsn(number()?), Epoch(number()?));
    let (next_n, time) = (number()?, Hlc(number()?));
    let chain = u32::from_le_bytes(take_array(input)?);
    let point = Point { next_lsn, epoch, next_n, incarnation, time, chain };
    (take_exact(input, 1).is_none()).then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [Vec<u8>; 4] {
        let incarnation = Incarnation(0x1234);
        let point = Point {
            next_lsn: Lsn(7),
            epoch: Epoch(3),
            next_n: 5,
            incarnation,
            time: Hlc(99),
            chain: 0xabcd,
        };
        let part = Part { first_n: 5, index: 1, count: 3, bytes: b"some batches" };
        let contents =
            [Content::Barrier(point), Content::Part(part), Content::Renewal, Content::Parting];
        contents.map(|content| {
            let message = Message { shard: ShardId(9), incarnation, epoch: Epoch(4), content };
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            bytes
        })
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_seen() {
        for bytes in samples() {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Message::decode(&damaged).is_err(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(Message::decode(&bytes[..len]).is_err(), "cut at {len}");
            }
        }
    }
}
