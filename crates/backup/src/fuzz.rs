//! Random and damaged bytes into every decoder of what a store or a person gives: no panic, and
//! what is read is written back to something that reads the same.
//!
//! Run as ordinary tests these take the corpus beside this file and some random inputs (a failure
//! prints its seed); under `cargo bolero` the same targets are fuzzed by coverage.

use sha2::{Digest, Sha256};

use crate::{
    BackupId, Location, Manifest,
    archive::{HEADER_BYTES, Header, Span},
    manifest::hex,
    parse_time, show_time,
};

fn read_manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    let again = manifest.encode().and_then(|stored| Manifest::decode(&stored));
    assert_eq!(again, Ok(manifest));
}

#[test]
fn any_bytes_are_a_manifest_or_refused() {
    bolero::check!(name = "manifest").for_each(|input: &[u8]| {
        read_manifest(input);
        // Past the checksum, too.
        let mut signed = format!("holdfast-backup 1 {}\n", hex(Sha256::digest(input))).into_bytes();
        signed.extend_from_slice(input);
        read_manifest(&signed);
    });
}

fn read_object(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else { return };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    if let Ok(payload) = header.payload(bytes) {
        assert_eq!(HEADER_BYTES + payload.len(), bytes.len());
    }
}

#[test]
fn any_bytes_are_an_object_of_the_archive_or_refused() {
    bolero::check!(name = "archive_object").for_each(|input: &[u8]| {
        read_object(input);
        if let Some((head, payload)) = input.split_at_checked(HEADER_BYTES) {
            let head = head.get(..HEADER_BYTES - 4).unwrap_or_default();
            read_object(&[head, &crc32c::crc32c(head).to_le_bytes(), payload].concat());
        }
        let _batches = Header::of(input);
        let name = String::from_utf8_lossy(input);
        if let Some(span) = Span::parse(&name) {
            assert_eq!(Span::parse(&span.name()), Some(span));
        }
    });
}

#[test]
fn any_text_is_a_place_for_backups_or_refused() {
    bolero::check!(name = "location").for_each(|input: &[u8]| {
        let url = String::from_utf8_lossy(input);
        for url in [url.clone().into_owned(), format!("s3://{url}"), format!("file:///{url}")] {
            if let Ok(location) = Location::parse(&url) {
                assert_eq!(Location::parse(&location.to_string()), Ok(location));
            }
        }
    });
}

#[test]
fn any_text_is_a_moment_or_a_backup_or_refused() {
    bolero::check!(name = "moment").for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        if let Ok(ms) = parse_time(&text) {
            assert_eq!(parse_time(&show_time(ms)), Ok(ms));
        }
        if let Ok(id) = BackupId::parse(&text) {
            assert_eq!(id.to_string(), text);
        }
    });
}
