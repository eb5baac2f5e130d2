//! The stored form of the log: identity file, segment header, group header.
//!
//! Layouts to the byte: docs/formats.md, "Log". Every checksum of a group is salted with the log's
//! identity and the segment's number, so that bytes of another log or of a segment's earlier life
//! never pass. Decoders check everything, do not panic and do not allocate by a claimed length.

use std::collections::BTreeMap;

use holdfast_base::{Epoch, Hlc, Incarnation, LogId, Lsn, ShardId, varint::take_array};

use crate::place::Point;

const VERSION: u32 = 1;
/// Version of segments. The first one let groups begin at every multiple of 8; no release wrote it.
const SEGMENT_VERSION: u32 = 2;

const IDENTITY_MAGIC: [u8; 8] = *b"hfLogId\n";
/// Bytes of the identity file.
pub(super) const IDENTITY_BYTES: usize = 28;

const SEGMENT_MAGIC: [u8; 8] = *b"hfSeg\r\n\0";
/// A segment's header is a multiple of this.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Bytes before the table of shards.
const SEGMENT_FIXED_BYTES: usize = 64;
/// Bytes of one shard in the table.
const POINT_BYTES: usize = 46;
/// A header with all 65,536 shards stays below this.
const SEGMENT_HEADER_BYTES_MAX: usize = 4 << 20;

const GROUP_MAGIC: [u8; 4] = *b"hfGr";
/// Bytes of a group before its batches.
pub(super) const GROUP_HEADER_BYTES: usize = 32;
/// Groups start at multiples of this, and recovery looks for them there: no two groups share a sector,
/// so writing one cannot damage another, and they can be written past the page cache.
pub(super) const GROUP_ALIGN: usize = holdfast_io::DIRECT_ALIGN;

/// All shards that were ever appended to.
pub(super) type Points = BTreeMap<ShardId, Point>;

/// Start value of a segment's checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Salt(u32);

impl Salt {
    pub fn new(log: LogId, segment: u64) -> Salt {
        let mut bytes = [0; 16];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&log.0.to_le_bytes());
        second.copy_from_slice(&segment.to_le_bytes());
        Salt(crc32c::crc32c(&bytes))
    }
}

pub(super) fn encode_identity(log: LogId) -> Vec<u8> {
    let mut out = Vec::with_capacity(IDENTITY_BYTES);
    out.extend_from_slice(&IDENTITY_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&log.0.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

pub(super) fn decode_identity(stored: &[u8]) -> Result<LogId, &'static str> {
    const DAMAGED: &str = "the log's identity fails its checks";
    let (mut body, checksum) = stored.split_last_chunk::<4>().ok_or(DAMAGED)?;
    if stored.len() != IDENTITY_BYTES || crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(DAMAGED);
    }
    if take_array(&mut body) != Some(IDENTITY_MAGIC) {
        return Err(DAMAGED);
    }
    if take_array(&mut body).map(u32::from_le_bytes) != Some(VERSION) {
        return Err("written by a later version of the program");
    }
    take_array::<4>(&mut body).ok_or(DAMAGED)?;
    take_array(&mut body).map(|id| LogId(u64::from_le_bytes(id))).ok_or(DAMAGED)
}

/// The head of a segment file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub log: LogId,
    pub number: u64,
    /// Bytes that the segment may use, this header included.
    pub bytes: u64,
    /// Whether everything behind the header was zero at first; else it is an earlier life's.
    pub zeroed: bool,
    /// Sequence of its first group.
    pub first_sequence: u64,
    /// Where the groups of segment `number - 1` end; what lies behind was cut off.
    pub previous_end: u64,
    /// Where every shard stands before its first group.
    pub points: Points,
}

impl SegmentHeader {
    /// Bytes of the header with so many shards: whole blocks.
    pub fn bytes_for(shards: usize) -> usize {
        (SEGMENT_FIXED_BYTES + shards * POINT_BYTES).next_multiple_of(BLOCK_BYTES)
    }

    pub fn header_bytes(&self) -> u64 {
        Self::bytes_for(self.points.len()) as u64
    }

    pub fn encode(&self) -> Vec<u8> {
        let len = Self::bytes_for(self.points.len());
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out.extend_from_slice(&(len as u32).to_le_bytes());
        for value in [self.log.0, self.number, self.bytes, self.first_sequence, self.previous_end] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        // The table's length leaves room for the flag: shards number at most 65,536.
        let count = self.points.len() as u32;
        out.extend_from_slice(&(count | u32::from(self.zeroed) << 31).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for (shard, point) in &self.points {
            out.extend_from_slice(&shard.0.to_le_bytes());
            for value in
                [point.next_lsn.0, point.epoch.0, point.next_n, point.incarnation.0, point.time.0]
            {
                out.extend_from_slice(&value.to_le_bytes());
            }
            out.extend_from_slice(&point.chain.to_le_bytes());
        }
        out.resize(len, 0);
        let checksum = segment_checksum(&out).to_le_bytes();
        if let Some(place) = out.get_mut(CHECKSUM_AT..SEGMENT_FIXED_BYTES) {
            place.copy_from_slice(&checksum);
        }
        out
    }

    /// Bytes of the whole header, from its first block. Not verified yet.
    pub fn claimed_bytes(block: &[u8]) -> Option<usize> {
        let mut input = block;
        (take_array(&mut input)? == SEGMENT_MAGIC).then_some(())?;
        take_array::<4>(&mut input)?;
        let bytes = u32::from_le_bytes(take_array(&mut input)?) as usize;
        let sane = bytes.is_multiple_of(BLOCK_BYTES)
            && (BLOCK_BYTES..=SEGMENT_HEADER_BYTES_MAX).contains(&bytes);
        sane.then_some(bytes)
    }

    /// Reads a whole header.
    pub fn decode(stored: &[u8]) -> Result<SegmentHeader, &'static str> {
        const DAMAGED: &str = "the segment's header fails its checks";
        if Self::claimed_bytes(stored) != Some(stored.len()) {
            return Err(DAMAGED);
        }
        let checksum = stored.get(CHECKSUM_AT..SEGMENT_FIXED_BYTES).ok_or(DAMAGED)?;
        if segment_checksum(stored).to_le_bytes() != checksum {
            return Err(DAMAGED);
        }
        let version = stored.get(8..12).ok_or(DAMAGED)?;
        if version != SEGMENT_VERSION.to_le_bytes() {
            return Err("written by another version of the program");
        }
        stored.get(16..).and_then(parse_segment_header).ok_or(DAMAGED)
    }
}

const CHECKSUM_AT: usize = SEGMENT_FIXED_BYTES - 4;

/// Over the whole header without the checksum's own place.
fn segment_checksum(header: &[u8]) -> u32 {
    let before = crc32c::crc32c(header.get(..CHECKSUM_AT).unwrap_or_default());
    crc32c::crc32c_append(before, header.get(SEGMENT_FIXED_BYTES..).unwrap_or_default())
}

fn parse_segment_header(mut input: &[u8]) -> Option<SegmentHeader> {
    let input = &mut input;
    let mut number = || take_array(input).map(u64::from_le_bytes);
    let (log, segment, bytes) = (LogId(number()?), number()?, number()?);
    let (first_sequence, previous_end) = (number()?, number()?);
    let count_and_flag = u32::from_le_bytes(take_array(input)?);
    take_array::<4>(input)?;
    let mut points = Points::new();
    for _ in 0..count_and_flag & !(1 << 31) {
        let shard = ShardId(u16::from_le_bytes(take_array(input)?));
        let mut number = || take_array(input).map(u64::from_le_bytes);
        let point = Point {
            next_lsn: Lsn(number()?),
            epoch: Epoch(number()?),
            next_n: number()?,
            incarnation: Incarnation(number()?),
            time: Hlc(number()?),
            chain: u32::from_le_bytes(take_array(input)?),
        };
        points.insert(shard, point);
    }
    Some(SegmentHeader {
        log,
        number: segment,
        bytes,
        zeroed: count_and_flag >> 31 == 1,
        first_sequence,
        previous_end,
        points,
    })
}

/// The head of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GroupHeader {
    /// Bytes of the batches.
    pub payload_bytes: u32,
    /// Dense over the whole log.
    pub sequence: u64,
    /// The last group that was durable before this one was written; 0 before the first.
    pub durable_before: u64,
    /// How many batches; none in a watermark.
    pub batches: u32,
}

impl GroupHeader {
    /// The stored form, with the checksum over it and the batches.
    pub fn encode<'a>(
        &self,
        salt: Salt,
        batches: impl Iterator<Item = &'a [u8]>,
    ) -> [u8; GROUP_HEADER_BYTES] {
        let mut out = [0; GROUP_HEADER_BYTES];
        let (body, checksum) = out.split_at_mut(GROUP_HEADER_BYTES - 4);
        let fields = GROUP_MAGIC
            .into_iter()
            .chain(self.payload_bytes.to_le_bytes())
            .chain(self.sequence.to_le_bytes())
            .chain(self.durable_before.to_le_bytes())
            .chain(self.batches.to_le_bytes());
        body.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
        let sum = batches.fold(crc32c::crc32c_append(salt.0, body), crc32c::crc32c_append);
        checksum.copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The claims of something that may be a group. Nothing is verified but the magic.
    pub fn claimed(mut header: &[u8]) -> Option<GroupHeader> {
        let input = &mut header;
        (take_array(input)? == GROUP_MAGIC).then_some(())?;
        Some(GroupHeader {
            payload_bytes: u32::from_le_bytes(take_array(input)?),
            sequence: u64::from_le_bytes(take_array(input)?),
            durable_before: u64::from_le_bytes(take_array(input)?),
            batches: u32::from_le_bytes(take_array(input)?),
        })
    }

    /// Whether header and payload are what was written into this segment.
    pub fn verify(header: &[u8], payload: &[u8], salt: Salt) -> bool {
        let Some((body, checksum)) = header.split_last_chunk::<4>() else { return false };
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(salt.0, body), payload);
        sum == u32::from_le_bytes(*checksum)
    }
}

/// Bytes that a group with so many bytes of batches takes in the file.
pub(super) fn group_bytes(payload_bytes: u64) -> u64 {
    (GROUP_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(GROUP_ALIGN as u64)
}

/// Whether a byte string begins like a group.
pub(super) fn has_group_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&GROUP_MAGIC)
}

#[cfg(test)]
impl SegmentHeader {
    /// A header for tests, with so many shards at their start.
    pub fn sample(shards: u16) -> SegmentHeader {
        let log = LogId(0x1122_3344_5566_7788);
        let points = (0..shards).map(|shard| (ShardId(shard), Point::start(log, ShardId(shard))));
        SegmentHeader {
            log,
            number: 7,
            bytes: 65_536,
            zeroed: true,
            first_sequence: 19,
            previous_end: 5_000,
            points: points.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segment_headers_of_one_and_of_several_blocks_read_back() {
        for (shards, blocks) in [(0, 1), (87, 1), (88, 2), (1_000, 12)] {
            let header = SegmentHeader::sample(shards);
            let stored = header.encode();
            assert_eq!(stored.len(), blocks * BLOCK_BYTES, "{shards} shards");
            assert_eq!(SegmentHeader::claimed_bytes(&stored), Some(stored.len()));
            assert_eq!(SegmentHeader::decode(&stored), Ok(header));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let stored = SegmentHeader::sample(2).encode();
        let identity = encode_identity(LogId(9));
        assert_eq!(decode_identity(&identity), Ok(LogId(9)));
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged).is_err(), "segment bit {bit}");
        }
        for bit in 0..identity.len() * 8 {
            let mut damaged = identity.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_identity(&damaged).is_err(), "identity bit {bit}");
        }
    }

    #[test]
    fn a_group_passes_only_in_its_own_segment_of_its_own_log() {
        let salt = Salt::new(LogId(1), 5);
        let group = GroupHeader { payload_bytes: 3, sequence: 8, durable_before: 7, batches: 1 };
        let stored = group.encode(salt, [b"a".as_slice(), b"bc".as_slice()].into_iter());
        assert_eq!(GroupHeader::claimed(&stored), Some(group));
        assert!(GroupHeader::verify(&stored, b"abc", salt));
        assert!(!GroupHeader::verify(&stored, b"abd", salt));
        assert!(!GroupHeader::verify(&stored, b"abc", Salt::new(LogId(1), 6)));
        assert!(!GroupHeader::verify(&stored, b"abc", Salt::new(LogId(2), 5)));
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = GroupHeader::claimed(&bytes);
            let _ = decode_identity(&bytes);
            bytes.resize(BLOCK_BYTES, 0);
            let _ = SegmentHeader::decode(&bytes);
            let _ = parse_segment_header(&bytes);
        }
    }
}
