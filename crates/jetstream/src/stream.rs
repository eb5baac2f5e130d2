//! The stream of a shard: made once, checked whenever it is opened.
//!
//! A stream that could lose records by its settings is not used, and is not changed either: a person
//! decides.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    context::{CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType},
};
use holdfast_base::{LogId, ShardId};
use holdfast_io::Random;
use holdfast_log::{LogError, OpenMode};

use crate::{
    JetStreamOptions,
    connection::{Connection, failed},
};

/// Where a stream says which log it holds.
const IDENTITY: &str = "holdfast-log";

/// A stream that was opened.
pub(crate) struct Opened {
    /// Which log it holds. One that was removed and made anew is another.
    pub log: LogId,
    /// Sequence of the first message that is kept.
    pub first_sequence: u64,
}

/// Opens the stream of a shard, or makes it.
pub(crate) fn open(
    connection: &Connection,
    options: &JetStreamOptions,
    shard: ShardId,
    random: &mut dyn Random,
) -> Result<Opened, LogError> {
    let name = options.stream(shard);
    let info = match options.mode {
        OpenMode::Existing => existing(connection, &name)?,
        OpenMode::Create => {
            let wanted = config(options, shard, LogId(random.next_u64()));
            let make = || connection.context().create_stream(wanted.clone());
            // Somebody made it before, with another identity.
            let is_there = |error: &CreateStreamError| {
                matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST)
            };
            match connection.ask(make, is_there) {
                Ok(stream) => stream.cached_info().clone(),
                Err(error) if is_there(&error) => existing(connection, &name)?,
                Err(error) => return Err(failed(&format!("making the stream {name}"), error)),
            }
        }
    };
    check(options, shard, &info)
}

fn existing(connection: &Connection, name: &str) -> Result<Info, LogError> {
    let is_absent = |error: &GetStreamError| {
        matches!(error.kind(), GetStreamErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
    };
    match connection.ask(|| connection.context().get_stream(name), is_absent) {
        Ok(stream) => Ok(stream.cached_info().clone()),
        Err(error) if is_absent(&error) => Err(LogError::Missing(format!("the stream {name}"))),
        Err(error) => Err(failed(&format!("opening the stream {name}"), error)),
    }
}

fn config(options: &JetStreamOptions, shard: ShardId, log: LogId) -> Config {
    Config {
        name: options.stream(shard),
        subjects: vec![options.subject(shard)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: options.replicas,
        discard: DiscardPolicy::New,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        max_age: Duration::ZERO,
        duplicate_window: Duration::from_secs(120),
        allow_direct: true,
        deny_delete: true,
        deny_purge: false,
        metadata: HashMap::from([(IDENTITY.to_owned(), format!("{:016x}", log.0))]),
        ..Config::default()
    }
}

/// Refuses a stream that is not what [`config`] makes, in what matters.
fn check(options: &JetStreamOptions, shard: ShardId, info: &Info) -> Result<Opened, LogError> {
    let found = &info.config;
    let identity = found.metadata.get(IDENTITY).and_then(|text| u64::from_str_radix(text, 16).ok());
    let unlimited = |number: i64| number <= 0;
    let rules = [
        (found.subjects == [options.subject(shard)], "its subject is another one"),
        (found.storage == StorageType::File, "it is not stored in files"),
        (found.retention == RetentionPolicy::Limits, "its retention is not by limits"),
        (found.discard == DiscardPolicy::New, "it discards old messages when it is full"),
        (found.max_age.is_zero(), "it forgets messages by their age"),
        (unlimited(found.max_messages), "it holds a number of messages only"),
        (unlimited(found.max_messages_per_subject), "it holds a number of messages only"),
        (found.num_replicas == options.replicas, "it has another number of copies"),
        (found.allow_direct, "it does not allow direct reads"),
        (found.deny_delete, "it lets single messages be deleted"),
        (!found.deny_purge, "it cannot be trimmed"),
        (!found.no_ack && !found.sealed, "it takes no acknowledged messages"),
        (found.mirror.is_none() && found.sources.is_none(), "it copies another stream"),
        (found.persist_mode != Some(PersistenceMode::Async), "it acknowledges before it syncs"),
    ];
    if let Some((_, why)) = rules.into_iter().find(|(holds, _)| !holds) {
        let what = format!("the stream {}: {why}; correct it, or take another name", found.name);
        return Err(LogError::Invalid(what));
    }
    let Some(log) = identity else {
        let what = format!("the stream {} was not made by holdfast", found.name);
        return Err(LogError::Invalid(what));
    };
    Ok(Opened { log: LogId(log), first_sequence: info.state.first_sequence.max(1) })
}
