//! The log's half of the contract: opening, reading, trimming.

use std::{collections::BTreeMap, future::IntoFuture, sync::Arc, time::Instant};

use async_nats::jetstream::{
    context::{PublishAckFuture, PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
};
use bytes::Bytes;
use holdfast_base::{Epoch, Lsn, ShardId};
use holdfast_io::Random;
use holdfast_log::{
    Bounds, Caps, Corruption, Log, LogError, Position, ReadBatches, ReadError, Session, Sign,
    Space, place::Point,
};
use parking_lot::Mutex;

use crate::{
    JetStreamOptions,
    connection::{Connection, RETRY_AFTER, Stored, failed},
    message::{Content, Message},
    session::JetStreamSession,
    stream,
    tail::{Damage, Entry, Tail},
};

/// Bytes of the last calls that are kept for a follower, of each shard.
const RECENT_BYTES: usize = 8 << 20;

/// Calls of one session in flight.
pub(crate) const IN_FLIGHT_MAX: usize = 16;

/// The log of some shards on JetStream. Its calls wait for the network, and must not be made from
/// within an async runtime.
pub struct JetStreamLog {
    shared: Arc<Shared>,
    shards: BTreeMap<ShardId, Arc<Shard>>,
}

/// What sessions need as well.
pub(crate) struct Shared {
    pub connection: Connection,
    pub options: JetStreamOptions,
}

/// One shard's stream.
pub(crate) struct Shard {
    pub id: ShardId,
    pub stream: String,
    pub subject: String,
    /// Never held over the network.
    pub tail: Mutex<Tail>,
    /// Epoch of the last session that was opened here; 0 before the first. Locked behind `tail`.
    pub opened_here: Mutex<Epoch>,
}

impl JetStreamLog {
    /// Connects, checks the servers and the streams of all shards, and reads where each stands. `random`
    /// gives a new stream its identity.
    pub fn open(
        options: JetStreamOptions,
        random: &mut dyn Random,
    ) -> Result<JetStreamLog, LogError> {
        options.check()?;
        let connection = Connection::open(&options)?;
        let shared = Shared { connection, options };
        let mut shards = BTreeMap::new();
        for &id in &shared.options.shards {
            let opened = stream::open(&shared.connection, &shared.options, id, random)?;
            let tail = Tail::new(opened.log, id, opened.first_sequence);
            let shard = Shard {
                id,
                stream: shared.options.stream(id),
                subject: shared.options.subject(id),
                tail: Mutex::new(tail),
                opened_here: Mutex::new(Epoch(0)),
            };
            shared.catch_up_to_claim(&shard)?;
            shards.insert(id, Arc::new(shard));
        }
        Ok(JetStreamLog { shared: Arc::new(shared), shards })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn shard(&self, id: ShardId) -> Result<&Arc<Shard>, LogError> {
        let unknown = || LogError::Invalid(format!("shard {id} is not one of those opened here"));
        self.shards.get(&id).ok_or_else(unknown)
    }

    fn session(
        &self,
        shard: ShardId,
        after: Option<Sign>,
    ) -> Result<(Box<dyn Session>, Position), LogError> {
        let shard = self.shard(shard)?;
        let (epoch, point, last_sequence) = self.shared.begin(shard, after)?;
        let position = Position {
            next_lsn: point.next_lsn,
            next_n: 0,
            chain: point.chain,
            incarnation: point.incarnation,
            epoch,
            last_time: point.time,
        };
        let shared = Arc::clone(&self.shared);
        let session = JetStreamSession::new(shared, Arc::clone(shard), epoch, point, last_sequence);
        Ok((Box::new(session), position))
    }
}

impl Shard {
    /// The epoch of another process, if it came after the last session that was opened here.
    fn replaced_by(&self, tail: &Tail) -> Option<Epoch> {
        let here = *self.opened_here.lock();
        (here > Epoch(0) && tail.opened() > here).then(|| tail.opened())
    }

    /// Damage in this shard's stream.
    pub fn corrupt(&self, damage: Damage) -> Corruption {
        Corruption { file: self.stream.clone(), offset: damage.sequence, what: damage.what }
    }
}

impl Shared {
    /// Takes in what the stream holds behind the last message that is known.
    pub fn catch_up(&self, shard: &Shard) -> Result<(), LogError> {
        // A reply that was lost on its way looks like a message that the log has lost, but once.
        let mut doubted = 0;
        loop {
            let next = shard.tail.lock().last_sequence() + 1;
            let fetched = self.connection.fetch(&shard.stream, next)?;
            let Some(first) = fetched.first() else { return Ok(()) };
            if first.sequence > next
                && (!self.is_missing(shard, next)? || std::mem::replace(&mut doubted, next) != next)
            {
                continue;
            }
            let mut tail = shard.tail.lock();
            for Stored { sequence, bytes } in &fetched {
                tail.take(*sequence, bytes).map_err(|damage| shard.corrupt(damage))?;
            }
        }
    }

    /// Takes in the stream up to what is known to be in it: a copy that is behind may answer first.
    fn catch_up_to_claim(&self, shard: &Shard) -> Result<(), LogError> {
        let claim = self.options.claims.get(&shard.id).copied().unwrap_or(Lsn::ZERO);
        let deadline = Instant::now() + self.options.request_timeout;
        loop {
            self.catch_up(shard)?;
            let next = shard.tail.lock().point().next_lsn;
            if next > claim {
                return Ok(());
            }
            if Instant::now() > deadline {
                let sequence = shard.tail.lock().last_sequence();
                let what = format!("it ends before {claim}, which the engine holds");
                return Err(shard.corrupt(Damage { sequence, what }).into());
            }
            std::thread::sleep(RETRY_AFTER);
        }
    }

    /// Whether messages from `next` on are missing by mistake: taking the next one says so. Otherwise
    /// another process has trimmed them, and the reader begins anew behind that.
    fn is_missing(&self, shard: &Shard, next: u64) -> Result<bool, LogError> {
        let first = self.first_sequence(shard)?;
        if first <= next {
            return Ok(true);
        }
        shard.tail.lock().begin_anew(first);
        Ok(false)
    }

    /// Sequence of the first message that is kept.
    fn first_sequence(&self, shard: &Shard) -> Result<u64, LogError> {
        let context = self.connection.context();
        let stream = self.connection.ask(|| context.get_stream(&shard.stream), |_| false);
        let stream = stream.map_err(|error| failed("asking for the stream", error))?;
        Ok(stream.cached_info().state.first_sequence)
    }

    /// Makes a session begin: everything before is settled and known once this returns. The first one here
    /// takes the shard from whoever has it. A later one does not, if another process has taken it since: an
    /// owner that was cut off must not come back by itself. `after`: only if that is the last sign of life.
    fn begin(&self, shard: &Shard, after: Option<Sign>) -> Result<(Epoch, Point, u64), LogError> {
        let deadline = Instant::now() + self.options.request_timeout;
        loop {
            self.catch_up(shard)?;
            let (epoch, point, last) = {
                let tail = shard.tail.lock();
                if let Some(epoch) = shard.replaced_by(&tail) {
                    return Err(LogError::NotOwner(epoch));
                }
                if after.is_some_and(|sign| sign != tail.sign()) {
                    return Err(LogError::NotOwner(tail.opened()));
                }
                (
                    Epoch(tail.opened().max(tail.point().epoch).0 + 1),
                    tail.point(),
                    tail.last_sequence(),
                )
            };
            let content = Content::Barrier(point);
            let message =
                Message { shard: shard.id, incarnation: point.incarnation, epoch, content };
            let bytes = Bytes::from(message.encode());
            let why = match self.publish_and_wait(shard, bytes.clone(), last) {
                Ok(()) => {
                    let mut tail = shard.tail.lock();
                    tail.take(last + 1, &bytes).map_err(|damage| shard.corrupt(damage))?;
                    *shard.opened_here.lock() = epoch;
                    tail.keep_recent(0);
                    return Ok((epoch, point, last + 1));
                }
                Err(why) => why,
            };
            if Instant::now() > deadline {
                return Err(failed("taking the shard over in the log", why));
            }
            // Somebody was faster, or there is no leader: what happened is read from the log.
            std::thread::sleep(RETRY_AFTER);
        }
    }

    fn publish_and_wait(&self, shard: &Shard, bytes: Bytes, last: u64) -> Result<(), String> {
        let message = self.message(shard, bytes, last);
        let context = self.connection.context();
        let sent = context.send_publish(shard.subject.clone(), message);
        let sent = self.connection.wait(sent).map_err(|error| error.to_string())?;
        match self.answer(sent, Instant::now() + self.options.append_timeout) {
            Ok(ack) if ack.sequence == last + 1 && !ack.duplicate => Ok(()),
            Ok(ack) => Err(format!("acknowledged as {} in place of {}", ack.sequence, last + 1)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err("others append as well".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until then for the answer to a message.
    pub fn answer(
        &self,
        answer: PublishAckFuture,
        deadline: Instant,
    ) -> Result<PublishAck, PublishError> {
        let sent = Instant::now();
        let in_time =
            async { tokio::time::timeout_at(deadline.into(), answer.into_future()).await };
        let answered = self.connection.wait(in_time);
        let answered =
            answered.unwrap_or_else(|_| Err(PublishError::new(PublishErrorKind::TimedOut)));
        self.connection.note_append(sent, answered.is_ok());
        answered
    }

    /// A message that is to be the one behind `last`, or refused.
    pub fn message(&self, shard: &Shard, bytes: Bytes, last: u64) -> PublishMessage {
        PublishMessage::build()
            .expected_stream(&shard.stream)
            .expected_last_sequence(last)
            .payload(bytes)
    }

    /// The batches of these entries, which stand one behind the other in the log.
    fn fetch_calls(&self, shard: &Shard, entries: &[Entry]) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let mut wanted = entries.iter().peekable();
        let mut next = entries.first().map_or(0, |entry| entry.first_sequence);
        while wanted.peek().is_some() {
            let fetched = self.connection.fetch(&shard.stream, next).map_err(read_error)?;
            if fetched.first().is_none_or(|first| first.sequence != next) {
                // Trimmed in the meantime, or the copy that answered is behind.
                let what = format!("message {next} of {} is not there", shard.stream);
                return Err(ReadError::Io(std::io::Error::other(what)));
            }
            for stored in fetched {
                next = stored.sequence + 1;
                let Some(entry) = wanted.peek() else { break };
                let damage = |what: &str| {
                    shard.corrupt(Damage { sequence: stored.sequence, what: what.to_owned() })
                };
                let message = Message::decode(&stored.bytes).map_err(damage)?;
                if let Content::Part(part) = message.content
                    && (message.epoch, part.first_n) == (entry.epoch, entry.first_n)
                    && (entry.first_sequence..=entry.last_sequence).contains(&stored.sequence)
                {
                    bytes.extend_from_slice(part.bytes);
                }
                if stored.sequence >= entry.last_sequence {
                    wanted.next();
                }
            }
        }
        Ok(bytes)
    }
}

fn read_error(error: LogError) -> ReadError {
    match error {
        LogError::Corrupt(corruption) => ReadError::Corrupt(corruption),
        LogError::Io(error) | LogError::Full(error) => ReadError::Io(error),
        other => ReadError::Io(std::io::Error::other(other.to_string())),
    }
}

impl Log for JetStreamLog {
    fn open_session(&self, shard: ShardId) -> Result<(Box<dyn Session>, Position), LogError> {
        self.session(shard, None)
    }

    fn open_session_after(
        &self,
        shard: ShardId,
        sign: Sign,
    ) -> Result<(Box<dyn Session>, Position), LogError> {
        self.session(shard, Some(sign))
    }

    fn read(&self, shard: ShardId, from: Lsn, bytes_max: usize) -> Result<ReadBatches, ReadError> {
        let shard = self.shard(shard).map_err(read_error)?;
        if from >= shard.tail.lock().point().next_lsn {
            self.shared.catch_up(shard).map_err(read_error)?;
        }
        let entries = {
            let tail = shard.tail.lock();
            let (first, next) = (tail.first_lsn(), tail.point().next_lsn);
            if from < first {
                return Err(ReadError::Trimmed(first));
            }
            if from > next {
                return Err(ReadError::Beyond(next));
            }
            let mut bytes = 0;
            let enough = |entry: &&Entry| {
                let goes_on = bytes == 0 || bytes + entry.bytes <= bytes_max;
                bytes += entry.bytes;
                goes_on
            };
            tail.entries_from(from).take_while(enough).copied().collect::<Vec<_>>()
        };
        let next = entries.last().map_or(from, |entry| entry.next_lsn);
        let recent = shard.tail.lock().recent(&entries);
        let bytes = match recent {
            Some(bytes) => bytes,
            None => self.shared.fetch_calls(shard, &entries)?,
        };
        Ok(ReadBatches::new(from, next, bytes))
    }

    /// What this process knows; reading at the end learns what others appended.
    fn bounds(&self, shard: ShardId) -> Bounds {
        let Some(shard) = self.shards.get(&shard) else {
            let (first, next) = (Lsn(1), Lsn(1));
            return Bounds { first, next, epoch: Epoch(0), incarnation: Default::default() };
        };
        let tail = shard.tail.lock();
        let Point { next_lsn, epoch, incarnation, .. } = tail.point();
        Bounds { first: tail.first_lsn(), next: next_lsn, epoch, incarnation }
    }

    fn look(&self, shard: ShardId) -> Result<Sign, LogError> {
        let shard = self.shard(shard)?;
        // Who looks follows the log, and is about to read what comes in now.
        shard.tail.lock().keep_recent(RECENT_BYTES);
        self.shared.catch_up(shard)?;
        Ok(shard.tail.lock().sign())
    }

    fn bytes_from(&self, shard: ShardId, from: Lsn) -> u64 {
        let Some(shard) = self.shards.get(&shard) else { return 0 };
        let tail = shard.tail.lock();
        tail.entries_from(from).map(|entry| entry.bytes as u64).sum()
    }

    fn trim(&self, shard: ShardId, below: Lsn) -> Result<Lsn, LogError> {
        let shard = self.shard(shard)?;
        let (sequence, first) = {
            let mut tail = shard.tail.lock();
            (tail.trim(below), tail.first_lsn())
        };
        let context = self.shared.connection.context();
        let purge = || async {
            let stream = context.get_stream_no_info(&shard.stream).await;
            let stream = stream.map_err(|error| failed("trimming", error))?;
            stream.purge().sequence(sequence).await.map_err(|error| failed("trimming", error))
        };
        let purged = self.shared.connection.ask(purge, |_| false)?;
        if !purged.success {
            return Err(failed("trimming", "refused"));
        }
        Ok(first)
    }

    fn forget_trimmed(&self, shard: ShardId) -> Result<(), LogError> {
        let shard = self.shard(shard)?;
        let first = self.shared.first_sequence(shard)?;
        shard.tail.lock().forget_before(first);
        Ok(())
    }

    fn space(&self) -> Space {
        Space { free_bytes: u64::MAX, below_reserve: false }
    }

    fn caps(&self) -> Caps {
        Caps { in_flight_max: IN_FLIGHT_MAX, batch_bytes_max: self.shared.options.call_bytes_max }
    }
}
