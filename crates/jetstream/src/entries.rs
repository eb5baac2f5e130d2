//! Small values under names, for all nodes of a cluster to see: each has a version, and a change names the
//! version that it replaces.
//!
//! Laid out as a bucket of JetStream's key-value store with one value a key (NATS, ADR-8), so that the `nats`
//! program shows it. Any copy may answer a read, so an answer may be old; versions tell.

use std::{sync::Arc, time::Instant};

use async_nats::jetstream::{
    ErrorCode,
    context::{CreateStreamErrorKind, PublishErrorKind},
    message::PublishMessage,
    stream::{Config, DiscardPolicy, StorageType},
};
use bytes::Bytes;
use holdfast_log::LogError;

use crate::{JetStreamLog, connection::failed, log::Shared};

/// Bytes of one value.
pub const ENTRY_BYTES_MAX: usize = 4 << 10;
/// Bytes of the whole bucket: a stray writer does not fill the log servers' disks with it.
const BUCKET_BYTES_MAX: i64 = 16 << 20;

/// The entries of a cluster. Calls wait for the network, each for about 2 s at most.
pub struct Entries {
    shared: Arc<Shared>,
    stream: String,
    prefix: String,
}

/// One entry, as a copy of the bucket has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Grows with each change of any entry.
    pub version: u64,
    /// What it says.
    pub value: Bytes,
}

impl JetStreamLog {
    /// The entries beside this log.
    pub fn entries(&self) -> Entries {
        let shared = self.shared();
        let name = &shared.options.name;
        Entries {
            stream: format!("KV_{name}"),
            prefix: format!("$KV.{name}."),
            shared: Arc::clone(shared),
        }
    }
}

impl Entries {
    /// Makes the bucket, if there is none.
    pub fn make(&self) -> Result<(), LogError> {
        let wanted = Config {
            name: self.stream.clone(),
            subjects: vec![format!("{}>", self.prefix)],
            storage: StorageType::File,
            num_replicas: self.shared.options.replicas,
            discard: DiscardPolicy::New,
            max_messages_per_subject: 1,
            max_bytes: BUCKET_BYTES_MAX,
            max_message_size: ENTRY_BYTES_MAX as i32 + 1024,
            allow_direct: true,
            allow_rollup: true,
            deny_delete: true,
            ..Config::default()
        };
        let connection = &self.shared.connection;
        match connection.wait(connection.context().create_stream(wanted)) {
            Ok(_) => Ok(()),
            // Made before, perhaps with other bounds.
            Err(error)
                if matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(&format!("making the bucket {}", self.stream), error)),
        }
    }

    /// All entries.
    pub fn all(&self) -> Result<Vec<Entry>, LogError> {
        let wish = serde_json::json!({ "multi_last": [format!("{}>", self.prefix)] });
        let found = self.shared.connection.get_direct(&self.stream, &wish);
        let found = found.map_err(|error| failed("reading the cluster's entries", error))?;
        let entries = found.into_iter().filter_map(|message| {
            let headers = message.headers.as_ref()?;
            let header = |name: &str| headers.get(name).map(|value| value.as_str());
            // Removed by the `nats` program.
            if header("KV-Operation").is_some() {
                return None;
            }
            Some(Entry {
                key: header("Nats-Subject")?.strip_prefix(&self.prefix)?.to_owned(),
                version: header("Nats-Sequence")?.parse().ok()?,
                value: message.payload,
            })
        });
        Ok(entries.collect())
    }

    /// Changes the entry if its version is still this one (0: there is none) and gives the new version.
    /// `None`: somebody else has changed it.
    pub fn put(&self, key: &str, value: Bytes, version: u64) -> Result<Option<u64>, LogError> {
        let connection = &self.shared.connection;
        let message =
            PublishMessage::build().expected_last_subject_sequence(version).payload(value);
        let sent = connection.context().send_publish(format!("{}{key}", self.prefix), message);
        let told = |error: &dyn std::fmt::Display| failed("changing a cluster's entry", error);
        let sent = connection.wait(sent).map_err(|error| told(&error))?;
        match self.shared.answer(sent, Instant::now() + crate::connection::TRY_FOR) {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(told(&error)),
        }
    }
}
