//! Records and batches: what a shard's log holds.
//!
//! A *batch* is a run of consecutive records of one shard from one session of one owner; it is what
//! is appended. A *record* is one op, one transaction or one script: its shard time, optional
//! idempotency key and effects, under a checksum chained from the log's first record. Layouts:
//! docs/formats.md, "Batches" and "Records". Decoders check everything and never panic.

use std::fmt;

use crate::{
    Effect, Epoch, Hlc, Incarnation, Lsn, ShardId,
    limits::RECORD_BYTES_MAX,
    varint::{take_array, take_exact, take_u8},
};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 52;
/// Bytes of a record before its body: length and chain.
pub const RECORD_HEADER_BYTES: usize = 8;
/// Bytes of a body before its effects, without an idempotency key.
const BODY_HEADER_BYTES: usize = 10;

/// Version of the batch layout.
const BATCH_VERSION: u8 = 1;
/// Version of the record body and its effects.
pub const SCHEMA_VERSION: u8 = 1;

const HAS_IDEMPOTENCY: u8 = 1;

/// Where a batch stands in its shard's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Whose log.
    pub shard: ShardId,
    /// Life of that log.
    pub incarnation: Incarnation,
    /// Epoch of the owner.
    pub epoch: Epoch,
    /// Place of the first record within the epoch, from 0.
    pub first_n: u64,
    /// Position of the first record.
    pub first_lsn: Lsn,
    /// Chained checksum before the first record.
    pub chain_before: u32,
    /// Number of records.
    pub count: u32,
}

impl BatchHeader {
    /// The header at the front of a batch; its checksum is verified, the records are not looked at.
    pub fn decode(mut bytes: &[u8]) -> Result<BatchHeader, Damaged> {
        decode_header(&mut bytes).map(|(header, _)| header)
    }
}

/// A client's own name for a write, so that a retry is not applied twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IdempotencyKey {
    /// Which client.
    pub client: u64,
    /// Which of its writes.
    pub sequence: u64,
}

/// The bytes of a batch or record fail their checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damaged {
    /// Shorter than it says.
    Short,
    /// A checksum does not match.
    Checksum,
    /// A version or flag that this program does not know.
    Version,
    /// An effect does not decode.
    Effect,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damaged::Short => "shorter than it says",
            Damaged::Checksum => "checksum does not match",
            Damaged::Version => "written by a later version",
            Damaged::Effect => "an effect does not decode",
        })
    }
}

impl std::error::Error for Damaged {}

/// One record, borrowed from its batch; its checksum has been verified.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Position.
    pub lsn: Lsn,
    /// Epoch of the owner.
    pub epoch: Epoch,
    /// Place within the epoch.
    pub n: u64,
    /// Chained checksum before this record.
    pub chain_before: u32,
    /// Chained checksum after this record.
    pub chain: u32,
    /// Shard time.
    pub time: Hlc,
    /// The client's name for the write, if it gave one.
    pub idempotency: Option<IdempotencyKey>,
    effects: &'a [u8],
}

impl<'a> Record<'a> {
    /// The effects in order; an error ends the iteration.
    pub fn effects(&self) -> impl Iterator<Item = Result<Effect<'a>, Damaged>> + use<'a> {
        let mut rest = self.effects;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let effect = Effect::decode(&mut rest);
            if effect.is_none() {
                rest = &[];
            }
            Some(effect.ok_or(Damaged::Effect))
        })
    }
}

fn chained(before: u32, lsn: Lsn, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(before, &lsn.0.to_le_bytes()), body)
}

/// Collects records into one batch. Effects are encoded once, straight into the batch.
#[derive(Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    chain: u32,
    out: Vec<u8>,
    open: Option<usize>,
}

impl BatchBuilder {
    /// An empty batch that continues the log at `header` (its `count` is ignored). `buffer` is
    /// reused for its capacity.
    pub fn new(header: BatchHeader, mut buffer: Vec<u8>) -> BatchBuilder {
        buffer.clear();
        buffer.resize(BATCH_HEADER_BYTES, 0);
        let header = BatchHeader { count: 0, ..header };
        BatchBuilder { header, chain: header.chain_before, out: buffer, open: None }
    }

    /// Where the batch stands; `count` is the number of finished records.
    pub fn header(&self) -> BatchHeader {
        self.header
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no record is finished yet.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Position that the next finished record will have.
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.header.first_lsn.0 + u64::from(self.header.count))
    }

    /// Place within the epoch that the next finished record will have.
    pub fn next_n(&self) -> u64 {
        self.header.first_n + u64::from(self.header.count)
    }

    /// Chained checksum after the last finished record.
    pub fn chain(&self) -> u32 {
        self.chain
    }

    /// Opens a record; [`Self::push`] adds to it until [`Self::finish`] or [`Self::abandon`].
    pub fn begin(&mut self, time: Hlc, idempotency: Option<IdempotencyKey>) {
        self.abandon();
        self.open = Some(self.out.len());
        self.out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        self.out.push(SCHEMA_VERSION);
        self.out.push(if idempotency.is_some() { HAS_IDEMPOTENCY } else { 0 });
        self.out.extend_from_slice(&time.0.to_le_bytes());
        if let Some(key) = idempotency {
            self.out.extend_from_slice(&key.client.to_le_bytes());
            self.out.extend_from_slice(&key.sequence.to_le_bytes());
        }
    }

    /// Adds an effect to the open record.
    pub fn push(&mut self, effect: &Effect<'_>) {
        debug_assert!(self.open.is_some(), "push belongs between begin and finish");
        effect.encode(&mut self.out);
    }

    /// Adds effects that are encoded already to the open record.
    pub fn push_encoded(&mut self, effects: &[u8]) {
        debug_assert!(self.open.is_some(), "push belongs between begin and finish");
        self.out.extend_from_slice(effects);
    }

    /// Bytes of the open record so far.
    pub fn open_bytes(&self) -> usize {
        self.open.map_or(0, |start| self.out.len() - start)
    }

    /// Drops the open record, if any.
    pub fn abandon(&mut self) {
        if let Some(start) = self.open.take() {
            self.out.truncate(start);
        }
    }

    /// Closes the open record and gives its position. `None` if none is open.
    pub fn finish(&mut self) -> Option<Lsn> {
        let start = self.open.take()?;
        let lsn = self.next_lsn();
        let (head, body) = self.out.get_mut(start..)?.split_at_mut(RECORD_HEADER_BYTES);
        self.chain = chained(self.chain, lsn, body);
        let (len, chain) = head.split_at_mut(4);
        len.copy_from_slice(&(body.len() as u32).to_le_bytes());
        chain.copy_from_slice(&self.chain.to_le_bytes());
        self.header.count += 1;
        Some(lsn)
    }

    /// The finished batch: header and bytes.
    pub fn seal(mut self) -> Batch {
        self.abandon();
        let payload = (self.out.len() - BATCH_HEADER_BYTES) as u32;
        let h = &self.header;
        let mut header = Vec::with_capacity(BATCH_HEADER_BYTES);
        header.extend_from_slice(&[BATCH_VERSION, 0]);
        header.extend_from_slice(&h.shard.0.to_le_bytes());
        header.extend_from_slice(&h.count.to_le_bytes());
        header.extend_from_slice(&h.incarnation.0.to_le_bytes());
        header.extend_from_slice(&h.epoch.0.to_le_bytes());
        header.extend_from_slice(&h.first_n.to_le_bytes());
        header.extend_from_slice(&h.first_lsn.0.to_le_bytes());
        header.extend_from_slice(&h.chain_before.to_le_bytes());
        header.extend_from_slice(&payload.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        self.out.splice(..BATCH_HEADER_BYTES, header);
        Batch { header: self.header, chain_after: self.chain, bytes: self.out }
    }
}

/// A sealed batch, ready to be appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Where it stands.
    pub header: BatchHeader,
    /// Chained checksum after its last record.
    pub chain_after: u32,
    /// Its stored form, header included.
    pub bytes: Vec<u8>,
}

impl Batch {
    /// Position of the last record.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.header.first_lsn.0 + u64::from(self.header.count) - 1)
    }
}

/// A decoded batch whose header and every record's chain have been verified.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// Where it stands.
    pub header: BatchHeader,
    /// Chained checksum after its last record.
    pub chain_after: u32,
    records: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Takes one batch off the front of `input` and verifies it.
    pub fn decode(input: &mut &'a [u8]) -> Result<BatchView<'a>, Damaged> {
        let (header, payload) = decode_header(input)?;
        let records = take_exact(input, payload).ok_or(Damaged::Short)?;
        let mut view = BatchView { header, chain_after: header.chain_before, records };
        let mut count = 0;
        for record in view.checked_records() {
            view.chain_after = record?.chain;
            count += 1;
        }
        if count != header.count {
            return Err(Damaged::Short);
        }
        Ok(view)
    }

    /// Position of the last record; one before the first if the batch is empty.
    pub fn last_lsn(&self) -> Lsn {
        Lsn((self.header.first_lsn.0 + u64::from(self.header.count)).saturating_sub(1))
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        self.checked_records().filter_map(Result::ok)
    }

    fn checked_records(&self) -> impl Iterator<Item = Result<Record<'a>, Damaged>> + use<'a> {
        let mut rest = self.records;
        let (mut at, header) = (0u64, self.header);
        let mut chain = header.chain_before;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let record = decode_record(&mut rest, header, at, chain);
            match &record {
                Ok(record) => chain = record.chain,
                Err(_) => rest = &[],
            }
            at += 1;
            Some(record)
        })
    }
}

/// Reads a batch's header and the length of its records.
fn decode_header(input: &mut &[u8]) -> Result<(BatchHeader, usize), Damaged> {
    let bytes = take_exact(input, BATCH_HEADER_BYTES).ok_or(Damaged::Short)?;
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(Damaged::Short)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(Damaged::Checksum);
    }
    parse_header(body).ok_or(Damaged::Version)
}

fn parse_header(mut body: &[u8]) -> Option<(BatchHeader, usize)> {
    let input = &mut body;
    if take_u8(input)? != BATCH_VERSION || take_u8(input)? != 0 {
        return None;
    }
    let shard = ShardId(u16::from_le_bytes(take_array(input)?));
    let count = u32::from_le_bytes(take_array(input)?);
    let header = BatchHeader {
        shard,
        count,
        incarnation: Incarnation(u64::from_le_bytes(take_array(input)?)),
        epoch: Epoch(u64::from_le_bytes(take_array(input)?)),
        first_n: u64::from_le_bytes(take_array(input)?),
        first_lsn: Lsn(u64::from_le_bytes(take_array(input)?)),
        chain_before: u32::from_le_bytes(take_array(input)?),
    };
    // The header's checksum covers these, but a hostile header may carry a right checksum.
    header.first_lsn.0.checked_add(count.into())?;
    header.first_n.checked_add(count.into())?;
    let payload = u32::from_le_bytes(take_array(input)?);
    Some((header, payload as usize))
}

fn decode_record<'a>(
    input: &mut &'a [u8],
    header: BatchHeader,
    at: u64,
    chain_before: u32,
) -> Result<Record<'a>, Damaged> {
    let len = u32::from_le_bytes(take_array(input).ok_or(Damaged::Short)?) as usize;
    let chain = u32::from_le_bytes(take_array(input).ok_or(Damaged::Short)?);
    if !(BODY_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&len) {
        return Err(Damaged::Short);
    }
    let mut body = take_exact(input, len).ok_or(Damaged::Short)?;
    let lsn = Lsn(header.first_lsn.0.wrapping_add(at));
    if chained(chain_before, lsn, body) != chain {
        return Err(Damaged::Checksum);
    }
    let body = &mut body;
    let version = take_u8(body).ok_or(Damaged::Short)?;
    let flags = take_u8(body).ok_or(Damaged::Short)?;
    if version != SCHEMA_VERSION || flags & !HAS_IDEMPOTENCY != 0 {
        return Err(Damaged::Version);
    }
    let mut number = || take_array(body).map(u64::from_le_bytes).ok_or(Damaged::Short);
    let time = Hlc(number()?);
    let idempotency = if flags & HAS_IDEMPOTENCY != 0 {
        Some(IdempotencyKey { client: number()?, sequence: number()? })
    } else {
        None
    };
    let n = header.first_n.wrapping_add(at);
    let epoch = header.epoch;
    Ok(Record { lsn, epoch, n, chain_before, chain, time, idempotency, effects: body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyspaceId;
    use proptest::prelude::*;

    fn header() -> BatchHeader {
        BatchHeader {
            shard: ShardId(3),
            incarnation: Incarnation(77),
            epoch: Epoch(4),
            first_n: 10,
            first_lsn: Lsn(100),
            chain_before: 0xdead_beef,
            count: 0,
        }
    }

    fn sample() -> Batch {
        let mut builder = BatchBuilder::new(header(), Vec::new());
        builder.begin(Hlc(5), None);
        builder.push(&Effect::Usage { keyspace: KeyspaceId(0), keys: 1, bytes: 2 });
        assert_eq!(builder.finish(), Some(Lsn(100)));
        builder.begin(Hlc(6), None);
        builder.push(&Effect::Usage { keyspace: KeyspaceId(9), keys: 1, bytes: 2 });
        builder.abandon();
        builder.begin(Hlc(7), Some(IdempotencyKey { client: 1, sequence: 2 }));
        assert_eq!(builder.finish(), Some(Lsn(101)));
        builder.seal()
    }

    #[test]
    fn a_batch_reads_back_without_the_abandoned_record() -> Result<(), Damaged> {
        let batch = sample();
        let mut input = batch.bytes.as_slice();
        let view = BatchView::decode(&mut input)?;
        assert!(input.is_empty());
        assert_eq!(view.header, batch.header);
        assert_eq!((view.chain_after, view.last_lsn()), (batch.chain_after, batch.last_lsn()));
        let read: Vec<_> = view
            .records()
            .map(|r| (r.lsn, r.n, r.time, r.idempotency.is_some(), r.effects().count()))
            .collect();
        let expected = [(Lsn(100), 10, Hlc(5), false, 1), (Lsn(101), 11, Hlc(7), true, 0)];
        assert_eq!(read, expected);
        Ok(())
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_seen() {
        let batch = sample();
        for bit in 0..batch.bytes.len() * 8 {
            let mut damaged = batch.bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchView::decode(&mut damaged.as_slice()).is_err(), "bit {bit}");
        }
        for len in 0..batch.bytes.len() {
            assert!(BatchView::decode(&mut &batch.bytes[..len]).is_err(), "cut at {len}");
        }
    }

    proptest! {
        #[test]
        fn hostile_batches_do_not_panic(bytes: Vec<u8>) {
            if let Ok(view) = BatchView::decode(&mut bytes.as_slice()) {
                for record in view.records() {
                    let _ = record.effects().count();
                }
            }
        }
    }
}
