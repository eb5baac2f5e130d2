//! Random and damaged bytes into every decoder of stored forms: no panic, and what is read is
//! written back to something that reads the same.
//!
//! Run as ordinary tests these take the corpus beside this file and some random inputs (a failure
//! prints its seed); under `cargo bolero` the same targets are fuzzed by coverage. Each input is
//! tried as it is, and as damage to a sample: alone, random bytes rarely get past a checksum.
//! The corpus is one sample of each form as it was stored; `HOLDFAST_UPDATE=1` writes new ones.

use std::{collections::BTreeMap, path::PathBuf};

use holdfast_base::{
    ByteSize, CollectionId, DeleteReason, Effect, Epoch, Generation, Head, Hlc, Incarnation,
    KeyspaceId, Kind, Lsn, Payload, ShardId, Slot,
    catalog::{self, Body, Keyspace, User},
    key,
    record::{BatchBuilder, BatchHeader, BatchView, IdempotencyKey},
    row::{AppliedState, KeyspaceUsage},
    varint::{put_i64, put_u64, take_bytes, take_i64, take_u64},
};

const ID: CollectionId = CollectionId(300);

fn heads() -> Vec<Vec<u8>> {
    let (id, count, bytes) = (ID, 12, 345);
    let payloads = [
        Payload::Inline(b"value"),
        Payload::Chunked { id, len: 1 << 20 },
        Payload::Collection { kind: Kind::Hash, id, count, bytes },
        Payload::Collection { kind: Kind::SortedSet, id, count, bytes },
        Payload::List { id, count, bytes, first: -4 },
    ];
    let deadlines = [None, Some(1_700_000_000_000)];
    let all = payloads.into_iter().flat_map(|payload| {
        deadlines.map(|deadline_ms| Head { deadline_ms, payload: payload.clone() })
    });
    all.map(|head| stored(|out| head.encode(out))).collect()
}

fn effects() -> Vec<Vec<u8>> {
    let (id, member, value) = (ID, b"member".as_slice(), b"value".as_slice());
    let (keyspace, generation) = (KeyspaceId(3), Generation(70));
    let head = Head { deadline_ms: Some(99), payload: Payload::Inline(value) };
    let all = [
        Effect::Key { keyspace, generation, key: b"key" },
        Effect::PutHead { head, old_deadline_ms: Some(5) },
        Effect::DeleteHead { reason: DeleteReason::Expired, old_deadline_ms: None },
        Effect::PutField { id, field: member, value },
        Effect::DeleteField { id, field: member },
        Effect::PutMember { id, member },
        Effect::DeleteMember { id, member },
        Effect::PutScore { id, member, score: 1.5, old_score: Some(-0.0) },
        Effect::DeleteScore { id, member, old_score: f64::INFINITY },
        Effect::PutRankChunk { id, score: -1e300, member, count: 128 },
        Effect::DeleteRankChunk { id, score: 0.0, member },
        Effect::PutElement { id, index: -1, value },
        Effect::DeleteElement { id, index: i64::MAX },
        Effect::PutStringChunk { id, number: 2, bytes: value },
        Effect::DeleteStringChunk { id, number: u32::MAX },
        Effect::DropCollection { id },
        Effect::FlushKeyspace { keyspace, old: Some(generation), new: Generation(71) },
        Effect::Usage { keyspace, keys: -1, bytes: 1 << 40 },
        Effect::TakeOver { epoch: Epoch(4), owner: b"node" },
        Effect::Genesis { hash_seed: [7; 16] },
        Effect::PutCatalog { kind: catalog::USER, name: b"ann", version: 2, body: b"{}" },
        Effect::DeleteCatalog { kind: catalog::KEYSPACE, name: b"cold", version: 3 },
    ];
    all.iter().map(|effect| stored(|out| effect.encode(out))).collect()
}

/// A batch of a record with these bytes as its effects and an empty one, every checksum right.
fn batch_of(effects: &[u8]) -> Vec<u8> {
    let header = BatchHeader {
        shard: ShardId(3),
        incarnation: Incarnation(77),
        epoch: Epoch(4),
        first_n: 10,
        first_lsn: Lsn(100),
        chain_before: 9,
        count: 0,
    };
    let mut batch = BatchBuilder::new(header, Vec::new());
    batch.begin(Hlc(5), Some(IdempotencyKey { client: 1, sequence: 2 }));
    batch.push_encoded(effects);
    batch.finish();
    batch.begin(Hlc(7), None);
    batch.finish();
    batch.seal().bytes
}

fn applied_states() -> Vec<Vec<u8>> {
    let usage = KeyspaceUsage { generation: Generation(3), keys: 5, bytes: -6 };
    let state = AppliedState {
        lsn: Lsn(1_000),
        chain: 0xdead_beef,
        epoch: Epoch(2),
        hash_seed: [9; 16],
        next_collection: ID,
        keyspaces: BTreeMap::from([(KeyspaceId(0), usage), (KeyspaceId(900), usage)]),
        ..AppliedState::default()
    };
    vec![AppliedState::default().encode(), state.encode()]
}

fn rows() -> Vec<Vec<u8>> {
    let (slot, generation, hash) = (Slot(16_383), Generation(7), 0xabcd_ef01_2345);
    vec![
        stored(|out| key::head(out, generation, slot, hash, b"key")),
        stored(|out| key::member(out, slot, ID, hash, b"member")),
        stored(|out| key::scored(out, slot, ID, key::MemberKind::ByScore, -1.5, b"member")),
        stored(|out| key::element(out, slot, ID, -9)),
        stored(|out| key::deadline(out, 1_700_000_000_000, generation, slot, hash, b"key")),
        stored(|out| key::dropped_collection(out, slot, ID)),
        stored(|out| key::dropped_generation(out, ShardId(1), generation)),
    ]
}

fn catalog_bodies() -> Vec<Vec<u8>> {
    let user = User { keys: vec!["a*".into()], commands: vec!["+@read".into()], ..User::default() };
    let keyspace = Keyspace { bytes_max: Some(1 << 30), ..Keyspace::new(KeyspaceId(17)) };
    let bodies = [catalog::encode(&user), catalog::encode(&keyspace)];
    bodies.into_iter().map(|body| body.expect("it is small")).collect()
}

fn stored(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// A sample with damage: the first byte picks it, each further pair changes one byte; a place of
/// 255 cuts the rest off.
fn damaged(samples: &[Vec<u8>], input: &[u8]) -> Vec<u8> {
    let Some((pick, changes)) = input.split_first() else { return Vec::new() };
    let mut bytes = samples[usize::from(*pick) % samples.len()].clone();
    for change in changes.chunks_exact(2) {
        let place = usize::from(change[0]) % bytes.len().max(1);
        match bytes.get_mut(place) {
            Some(byte) if change[0] != 255 => *byte ^= change[1],
            _ => bytes.truncate(place),
        }
    }
    bytes
}

/// Writes the corpus if told to; else what lies there must be what would be written.
fn keep_corpus(target: &str, samples: &[Vec<u8>]) {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__");
    let folder = here.join(target).join("corpus");
    for (number, sample) in samples.iter().enumerate() {
        let path = folder.join(format!("sample_{number:02}"));
        if std::env::var_os("HOLDFAST_UPDATE").is_some() {
            std::fs::create_dir_all(&folder).expect("the folder can be made");
            std::fs::write(&path, sample).expect("the sample can be written");
        }
        let kept = std::fs::read(&path).expect("HOLDFAST_UPDATE=1 writes what is missing");
        assert_eq!(&kept, sample, "{}: the stored form has changed", path.display());
    }
}

/// Fuzzes one decoder with inputs as they are and with damaged samples. A macro, because bolero
/// takes the target's name as a literal and its corpus from the file in which it stands.
macro_rules! fuzz {
    ($name:literal, $samples:expr, $read:expr) => {
        let samples: Vec<Vec<u8>> = $samples;
        keep_corpus($name, &samples);
        let read = $read;
        bolero::check!(name = $name).for_each(|input: &[u8]| {
            read(input);
            read(&damaged(&samples, input));
        });
    };
}

#[test]
fn any_bytes_are_effects_or_refused() {
    fuzz!("effect", effects(), |bytes: &[u8]| {
        let mut rest = bytes;
        let Some(effect) = Effect::decode(&mut rest) else { return };
        assert!(rest.len() < bytes.len());
        let again = stored(|out| effect.encode(out));
        assert_eq!(Effect::decode(&mut again.as_slice()), Some(effect));
    });
}

#[test]
fn any_bytes_are_heads_or_refused() {
    fuzz!("head", heads(), |bytes: &[u8]| {
        let Some(head) = Head::decode(bytes) else { return };
        assert_eq!(Head::decode(&stored(|out| head.encode(out))), Some(head));
    });
}

#[test]
fn any_bytes_are_batches_or_refused() {
    fn read(bytes: &[u8]) {
        let Ok(view) = BatchView::decode(&mut &*bytes) else { return };
        assert_eq!(view.records().count() as u32, view.header.count);
        view.records().for_each(|record| assert!(record.effects().count() <= bytes.len()));
        let _position = view.last_lsn();
    }
    let all = effects().concat();
    fuzz!("batch", vec![batch_of(&all), batch_of(&[])], |bytes: &[u8]| {
        read(bytes);
        // Damage behind right checksums, as a faulty writer would leave it: in the effects, and in
        // the batch's header.
        read(&batch_of(&damaged(std::slice::from_ref(&all), bytes)));
        if let Some((header, records)) = bytes.split_at_checked(52) {
            let header = header.get(..48).unwrap_or_default();
            read(&[header, &crc32c::crc32c(header).to_le_bytes(), records].concat());
        }
    });
}

#[test]
fn any_bytes_are_an_applied_state_or_refused() {
    fn read(bytes: &[u8]) {
        let Some(state) = AppliedState::decode(bytes) else { return };
        assert_eq!(AppliedState::decode(&state.encode()), Some(state));
    }
    fuzz!("applied_state", applied_states(), |bytes: &[u8]| {
        read(bytes);
        let body = bytes.split_last_chunk::<4>().map_or(bytes, |(body, _)| body);
        read(&[body, &crc32c::crc32c(body).to_le_bytes()].concat());
    });
}

#[test]
fn any_bytes_are_row_keys_or_refused() {
    fuzz!("row_key", rows(), |row: &[u8]| {
        if let Some((slot, generation, hash, name)) = key::parse_head(row) {
            assert_eq!(stored(|out| key::head(out, generation, slot, hash, name)), row);
        }
        if let Some((deadline_ms, head)) = key::parse_deadline(row) {
            let deadline = stored(|out| key::deadline_position(out, deadline_ms));
            assert_eq!([&deadline, head].concat(), row);
        }
        if let Some((slot, id)) = key::parse_dropped_collection(row) {
            assert_eq!(stored(|out| key::dropped_collection(out, slot, id)), row);
        }
        if let Some((hash, member)) = key::parse_member(row) {
            assert!(hash < 1 << key::HASH_BITS && row.ends_with(member));
        }
        if let Some((score, member)) = key::parse_scored(row) {
            let sortable = key::sortable_score(score);
            assert_eq!(key::sortable_score(key::score_of_sortable(sortable)), sortable);
            assert!(row.ends_with(member));
        }
        let _ = (key::parse_element(row), key::parse_dropped_generation(row));
        if let Some(cursor) = row.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) {
            let (slot, hash) = key::parse_cursor(cursor);
            assert_eq!(key::cursor(slot, hash), cursor);
        }
    });
}

#[test]
fn any_bytes_are_catalog_entries_or_refused() {
    fn read<B: Body + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        let Ok(body) = catalog::decode::<B>(bytes) else { return };
        let Ok(stored) = catalog::encode(&body) else { return };
        assert_eq!(catalog::decode::<B>(&stored).ok(), Some(body));
    }
    fuzz!("catalog", catalog_bodies(), |bytes: &[u8]| {
        read::<User>(bytes);
        read::<Keyspace>(bytes);
        if let Some((version, body)) = catalog::parse_row(bytes) {
            let again = [stored(|out| put_u64(out, version)), body.to_vec()].concat();
            assert_eq!(catalog::parse_row(&again), Some((version, body)));
        }
    });
}

#[test]
fn any_bytes_are_numbers_and_lengths_or_refused() {
    let samples =
        [0, 1, -1, 300, i64::MAX, i64::MIN].map(|value| stored(|out| put_i64(out, value)));
    fuzz!("varint", samples.to_vec(), |bytes: &[u8]| {
        if let Some(value) = take_u64(&mut &*bytes) {
            assert_eq!(take_u64(&mut stored(|out| put_u64(out, value)).as_slice()), Some(value));
        }
        if let Some(value) = take_i64(&mut &*bytes) {
            assert_eq!(take_i64(&mut stored(|out| put_i64(out, value)).as_slice()), Some(value));
        }
        assert!(take_bytes(&mut &*bytes).is_none_or(|taken| taken.len() < bytes.len()));
    });
}

#[test]
fn any_text_is_a_size_or_refused() {
    let samples = ["64MiB", "2gb", "1 KiB", "18446744073709551615", "16777216TiB", "K"];
    let samples = samples.map(|text| text.as_bytes().to_vec());
    fuzz!("byte_size", samples.to_vec(), |bytes: &[u8]| {
        let Ok(size) = String::from_utf8_lossy(bytes).parse::<ByteSize>() else { return };
        assert_eq!(size.to_string().parse(), Ok(size));
    });
}
