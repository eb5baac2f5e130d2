//! Random and damaged bytes into every decoder of the log's files: no panic, and what is read is
//! written back to the same bytes. A whole log with damage, right checksums or not, opens and reads
//! without a panic and never gives what was not appended.
//!
//! Run as ordinary tests these take the corpus beside this file and some random inputs (a failure
//! prints its seed); under `cargo bolero` the same targets are fuzzed by coverage.

use std::collections::BTreeMap;

use holdfast_base::{LogId, Lsn};
use holdfast_io::{Disk, SeededRandom, SimDisk};

use super::{SHARD, append, open, options, verify};
use crate::{
    Log, OpenMode,
    embedded::{
        EmbeddedLog,
        format::{
            BLOCK_BYTES, GROUP_ALIGN, GROUP_HEADER_BYTES, GroupHeader, Salt, SegmentHeader,
            decode_identity, encode_identity,
        },
    },
    suite::Owner,
};

const LOG: LogId = LogId(0x1122_3344_5566_7788);
const SEGMENT: &str = "log/0000000000000001.seg";

/// Changes one byte for each three of the input: its place in two, then what is flipped in it.
fn damage(bytes: &mut [u8], input: &[u8]) {
    for change in input.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= change[2];
        }
    }
}

/// With the checksum of a segment header that a faulty writer would have given it.
fn resealed(mut header: Vec<u8>) -> Vec<u8> {
    let before = crc32c::crc32c(header.get(..60).unwrap_or_default());
    let checksum = crc32c::crc32c_append(before, header.get(64..).unwrap_or_default());
    if let Some(place) = header.get_mut(60..64) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    header
}

#[test]
fn any_bytes_are_an_identity_or_refused() {
    bolero::check!(name = "identity").for_each(|input: &[u8]| {
        let mut damaged = encode_identity(LOG);
        damage(&mut damaged, input);
        for bytes in [input, &damaged] {
            if let Ok(log) = decode_identity(bytes) {
                assert_eq!(encode_identity(log), bytes);
            }
        }
    });
}

#[test]
fn any_bytes_are_a_segment_header_or_refused() {
    let samples = [2, 88].map(|shards| SegmentHeader::sample(shards).encode());
    bolero::check!(name = "segment_header").for_each(|input: &[u8]| {
        let mut inputs = vec![input.to_vec()];
        for sample in &samples {
            let mut damaged = sample.clone();
            damage(&mut damaged, input);
            inputs.extend([resealed(damaged.clone()), damaged]);
        }
        for bytes in inputs {
            assert!(SegmentHeader::claimed_bytes(&bytes).is_none_or(|len| len >= BLOCK_BYTES));
            let Ok(header) = SegmentHeader::decode(&bytes) else { continue };
            let again = SegmentHeader::decode(&header.encode());
            // Not the same bytes: a table with a shard twice, or in another order, reads as well.
            assert_eq!(again, Ok(header));
        }
    });
}

#[test]
fn any_bytes_are_a_group_or_refused() {
    let salt = Salt::new(LOG, 7);
    bolero::check!(name = "group").for_each(|input: &[u8]| {
        let Some(group) = GroupHeader::claimed(input) else { return };
        let (header, payload) = input.split_at(GROUP_HEADER_BYTES.min(input.len()));
        let encoded = group.encode(salt, std::iter::once(payload));
        assert_eq!(GroupHeader::verify(header, payload, salt), encoded == header);
    });
}

/// A small log, and what stands in it.
fn small_log() -> (BTreeMap<String, Vec<u8>>, Vec<Vec<u8>>) {
    let disk = SimDisk::new();
    let log = open(&disk).expect("an empty disk takes a log");
    let mut owner = Owner::open(&log, SHARD).expect("a fresh log has no owner");
    let batches = (0..4).map(|_| append(&mut owner, 2, 40).expect("it fits").bytes).collect();
    let files = disk.list("log").expect("it is there").into_iter().map(|name| {
        let file = disk.open_read(&format!("log/{name}")).expect("it is listed");
        let mut bytes = vec![0; file.len().expect("it is open") as usize];
        file.read_exact_at(&mut bytes, 0).expect("it is so long");
        (name, bytes)
    });
    (files.collect(), batches)
}

#[test]
fn any_damage_to_a_log_is_refused_or_leaves_a_prefix() {
    let (files, batches) = small_log();
    // Damage where something stands: the header, and the groups behind it, one sector each.
    let used = BLOCK_BYTES + batches.len() * GROUP_ALIGN;
    bolero::check!(name = "log_folder").for_each(|input: &[u8]| {
        let disk = SimDisk::new();
        disk.create_dir("log").expect("it is a new disk");
        for (name, bytes) in &files {
            let mut bytes = bytes.clone();
            if SEGMENT.ends_with(name.as_str()) {
                damage(&mut bytes[..used], input);
            }
            let file = disk.create(&format!("log/{name}")).expect("it is a new disk");
            file.write_at(&bytes, 0).expect("it has room");
        }
        let _report = verify(&disk, "log");
        let disk = std::sync::Arc::new(disk);
        let opened =
            EmbeddedLog::open(disk, options(OpenMode::Existing), &mut SeededRandom::new(1));
        let Ok(log) = opened else { return };
        // An error may tell of damage; what is given must be what was appended.
        let read = log.read(SHARD, Lsn(1), 1 << 20);
        assert!(read.iter().all(|read| batches.concat().starts_with(read.as_bytes())));
    });
}
