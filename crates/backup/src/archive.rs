//! The archive: the log's durable records in the store, for a restore to go on behind a backup.
//!
//! An object is a run of whole batches under a header; its name tells its first and last position,
//! so what is missing shows in a listing. Where archiving goes on is read from the store, never
//! remembered elsewhere. Layout: docs/formats.md, "Archive". Decoding verifies everything.

use holdfast_base::{
    Error, ErrorKind, Hlc, Incarnation, Lsn, ShardId,
    record::{BatchView, Damaged},
    varint::take_array,
};
use holdfast_io::ObjectStore;
use holdfast_log::{Log, ReadError};

use crate::{corrupt, manifest::read_whole, store_error};

const MAGIC: [u8; 8] = *b"hfArch\r\n";
const VERSION: u32 = 1;
/// Bytes of an object before its batches.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of batches that go into one object; one batch may be larger.
const OBJECT_BYTES: usize = 1 << 20;
/// Largest object read: one batch of the largest record.
pub(crate) const OBJECT_BYTES_MAX: usize = 80 << 20;

/// Folder of one life's records.
pub fn archive_folder(incarnation: Incarnation) -> String {
    format!("archive/{:016x}", incarnation.0)
}

/// One object by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Span {
    pub first: Lsn,
    pub last: Lsn,
}

impl Span {
    pub fn name(self) -> String {
        format!("{:016x}-{:016x}", self.first.0, self.last.0)
    }

    pub fn parse(name: &str) -> Option<Span> {
        let (first, last) = name.split_once('-')?;
        let number = |digits: &str| {
            let fits = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let span = Span { first: Lsn(number(first)?), last: Lsn(number(last)?) };
        // Nobody gets to the last number there is, and what follows it could not be told.
        let fits = span.first > Lsn::ZERO && span.first <= span.last && span.last < Lsn(u64::MAX);
        fits.then_some(span)
    }
}

/// What is archived of a life, by position.
pub(crate) fn spans(store: &dyn ObjectStore, incarnation: Incarnation) -> Result<Vec<Span>, Error> {
    let entries =
        store.list(&archive_folder(incarnation)).map_err(store_error("listing the archive"))?;
    let mut spans: Vec<_> = entries.iter().filter_map(|entry| Span::parse(&entry.name)).collect();
    spans.sort_unstable();
    Ok(spans)
}

/// The head of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub incarnation: Incarnation,
    pub span: Span,
    /// Shard time of the last record.
    pub last_time: Hlc,
    chain_before: u32,
    bytes: u32,
    checksum: u32,
}

impl Header {
    /// The head of these batches, which must be whole and follow each other.
    pub fn of(batches: &[u8]) -> Result<Header, Error> {
        let failed = |damaged: Damaged| corrupt(format!("a batch of the log: {damaged}"));
        let mut rest = batches;
        let first = BatchView::decode(&mut rest).map_err(failed)?;
        let (mut last, mut header) = (first, first.header);
        while !rest.is_empty() {
            last = BatchView::decode(&mut rest).map_err(failed)?;
            header = last.header;
        }
        let span = Span { first: first.header.first_lsn, last: last.last_lsn() };
        let bytes = u32::try_from(batches.len()).map_err(|_| corrupt("too much for one object"))?;
        Ok(Header {
            incarnation: header.incarnation,
            span,
            last_time: last.records().last().map_or(Hlc(0), |record| record.time),
            chain_before: first.header.chain_before,
            bytes,
            checksum: crc32c::crc32c(batches),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.bytes as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        let Span { first, last } = self.span;
        for value in [self.incarnation.0, first.0, last.0, self.last_time.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [self.chain_before, self.bytes, self.checksum] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    pub fn decode(stored: &[u8]) -> Result<Header, &'static str> {
        const DAMAGED: &str = "its head fails its checks";
        let (head, checksum) = stored
            .get(..HEADER_BYTES)
            .and_then(|head| head.split_last_chunk::<4>())
            .ok_or("it is shorter than its head")?;
        if crc32c::crc32c(head) != u32::from_le_bytes(*checksum) {
            return Err(DAMAGED);
        }
        let mut input = head;
        if take_array(&mut input) != Some(MAGIC) {
            return Err(DAMAGED);
        }
        if take_array(&mut input).map(u32::from_le_bytes) != Some(VERSION) {
            return Err("it was written by a later version of the program");
        }
        take_array::<4>(&mut input).ok_or(DAMAGED)?;
        let mut number = || take_array(&mut input).map(u64::from_le_bytes).ok_or(DAMAGED);
        let (incarnation, first, last) = (Incarnation(number()?), Lsn(number()?), Lsn(number()?));
        let last_time = Hlc(number()?);
        let mut number = || take_array(&mut input).map(u32::from_le_bytes).ok_or(DAMAGED);
        Ok(Header {
            incarnation,
            span: Span { first, last },
            last_time,
            chain_before: number()?,
            bytes: number()?,
            checksum: number()?,
        })
    }

    /// The batches behind the head, verified against it; their own checks come on decoding.
    pub fn payload<'a>(&self, stored: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let payload = stored.get(HEADER_BYTES..).unwrap_or_default();
        if payload.len() != self.bytes as usize {
            return Err("its length is not what its head says");
        }
        if crc32c::crc32c(payload) != self.checksum {
            return Err("its batches do not match their checksum");
        }
        Ok(payload)
    }
}

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Archived {
    /// Everything durable is archived.
    Nothing,
    /// Records were stored: so many, of so many bytes.
    Stored {
        /// How many.
        records: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The log no longer had these: the archive has a gap, and goes on behind it.
    Gap {
        /// First record that is missing.
        first: Lsn,
        /// Last record that is missing.
        last: Lsn,
    },
}

/// Archives one life of a log.
pub struct Archiver {
    folder: String,
    incarnation: Incarnation,
    next: Lsn,
    /// Chained checksum before `next`, if what is archived reaches there.
    chain: Option<u32>,
}

impl Archiver {
    /// Goes on where the store's archive of this log's life ends, or begins at the log's first
    /// record. Refused if the archive holds what the log does not: then this is an older copy.
    pub fn open(store: &dyn ObjectStore, log: &dyn Log, shard: ShardId) -> Result<Archiver, Error> {
        let bounds = log.bounds(shard);
        let folder = archive_folder(bounds.incarnation);
        let last = spans(store, bounds.incarnation)?.into_iter().max_by_key(|span| span.last);
        let next = last.map_or(bounds.first, |span| span.last.next());
        if next > bounds.next {
            return Err(older_copy(next, bounds.next));
        }
        let chain = match last {
            Some(span) => Some(chain_after(store, &format!("{folder}/{}", span.name()))?),
            None => None,
        };
        Ok(Archiver { folder, incarnation: bounds.incarnation, next, chain })
    }

    /// The first record that is not archived.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Stores the next run of records.
    pub fn step(
        &mut self,
        store: &dyn ObjectStore,
        log: &dyn Log,
        shard: ShardId,
    ) -> Result<Archived, Error> {
        let read = match log.read(shard, self.next, OBJECT_BYTES) {
            Ok(read) if read.is_empty() => return Ok(Archived::Nothing),
            Ok(read) => read,
            Err(ReadError::Trimmed(first)) => {
                let gap = Archived::Gap { first: self.next, last: Lsn(first.0 - 1) };
                (self.next, self.chain) = (first, None);
                return Ok(gap);
            }
            Err(ReadError::Io(error)) => {
                return Err(Error::new(ErrorKind::Unavailable, error.to_string()));
            }
            Err(other) => return Err(corrupt(other.to_string())),
        };
        let header = Header::of(read.as_bytes())?;
        if header.incarnation != self.incarnation {
            return Err(corrupt("the log has changed its life while it was archived"));
        }
        // Whole batches are archived, so the next one begins where the last one ended.
        if self.chain.is_some_and(|chain| chain != header.chain_before) {
            return Err(older_copy(self.next, header.span.first));
        }
        let mut object = header.encode();
        object.extend_from_slice(read.as_bytes());
        store
            .put(&format!("{}/{}", self.folder, header.span.name()), &object)
            .map_err(store_error("archiving"))?;
        let records = read.next().0 - self.next.0;
        self.next = read.next();
        self.chain = read.batches().last().map(|batch| batch.chain_after);
        Ok(Archived::Stored { records, bytes: read.as_bytes().len() as u64 })
    }
}

/// The log lacks or contradicts what is archived of its own life.
fn older_copy(archived: Lsn, log: Lsn) -> Error {
    corrupt(format!(
        "the archive holds records before {archived} that the log, at {log}, has not: this data \
         folder is an older copy"
    ))
}

/// Chained checksum after an object's last record.
fn chain_after(store: &dyn ObjectStore, name: &str) -> Result<u32, Error> {
    let stored = read_whole(store, name, OBJECT_BYTES_MAX)?;
    let damaged = |why: &str| corrupt(format!("the archive is damaged: {name}: {why}"));
    let header = Header::decode(&stored).map_err(damaged)?;
    let mut rest = header.payload(&stored).map_err(damaged)?;
    let mut chain = header.chain_before;
    while !rest.is_empty() {
        let batch = BatchView::decode(&mut rest).map_err(|why| damaged(&why.to_string()))?;
        chain = batch.chain_after;
    }
    Ok(chain)
}
