//! A session: appends in order, each message where the one before it ends, and dead at the first
//! answer that is not the one that was due.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use bytes::Bytes;
use holdfast_base::{Epoch, Lsn, record::Batch};
use holdfast_log::{
    Completion, Outcome, Refused, Session,
    place::{Point, Step, steps_of},
};

use crate::{
    log::{IN_FLIGHT_MAX, Shard, Shared},
    message::{Content, Message, Part},
    tail::Taken,
};

/// A call whose messages are on their way.
struct Call {
    last_lsns: Vec<Lsn>,
    /// Sequence that the first message is to have.
    first_sequence: u64,
    /// When its outcome becomes unknown.
    deadline: Instant,
    messages: Vec<(Bytes, Option<PublishAckFuture>)>,
}

/// See the module's head.
pub(crate) struct JetStreamSession {
    shared: Arc<Shared>,
    shard: Arc<Shard>,
    epoch: Epoch,
    /// Behind the last batch that was submitted.
    point: Point,
    /// Sequence of the last message that was sent.
    last_sequence: u64,
    in_flight: VecDeque<Call>,
    took_over: bool,
    closed: Option<Refused>,
}

impl JetStreamSession {
    /// Begins behind the barrier with this sequence.
    pub fn new(
        shared: Arc<Shared>,
        shard: Arc<Shard>,
        epoch: Epoch,
        point: Point,
        last_sequence: u64,
    ) -> JetStreamSession {
        JetStreamSession {
            shared,
            shard,
            epoch,
            point,
            last_sequence,
            in_flight: VecDeque::new(),
            took_over: false,
            closed: None,
        }
    }

    /// The epoch that has replaced this session's, as far as this process has heard of it.
    fn successor(&self) -> Option<Epoch> {
        let opened = self.shard.tail.lock().opened();
        (opened > self.epoch).then_some(opened)
    }

    /// Refuses everything once it is known that the session is over.
    fn must_be_open(&mut self) -> Result<(), Refused> {
        if let Some(epoch) = self.successor() {
            self.closed.get_or_insert(Refused::Fenced(epoch));
        }
        self.closed.clone().map_or(Ok(()), Err)
    }

    /// The first outcome that is not durable closes the session.
    fn note(&mut self, outcome: &Outcome) {
        let closed = match outcome {
            Outcome::Durable => return,
            Outcome::Fenced(epoch) => Refused::Fenced(*epoch),
            Outcome::Unknown(why) => Refused::Poisoned(why.clone()),
        };
        self.closed.get_or_insert(closed);
    }

    /// Cuts a call into messages.
    fn messages(&self, batches: &[Batch], first_n: u64) -> Vec<Bytes> {
        let all;
        let bytes = match batches {
            [only] => only.bytes.as_slice(),
            _ => {
                all = batches.iter().flat_map(|batch| &batch.bytes).copied().collect::<Vec<u8>>();
                all.as_slice()
            }
        };
        let parts = bytes.chunks(self.shared.options.message_bytes_max);
        // Bounded by the bytes of a call.
        let count = parts.len() as u32;
        let message = |(index, bytes): (usize, &[u8])| {
            let part = Part { first_n, index: index as u32, count, bytes };
            let (incarnation, epoch) = (self.point.incarnation, self.epoch);
            let content = Content::Part(part);
            Bytes::from(Message { shard: self.shard.id, incarnation, epoch, content }.encode())
        };
        parts.enumerate().map(message).collect()
    }

    /// Sends a message and gives what its answer arrives through, or nothing if it cannot be sent.
    fn send(&mut self, bytes: Bytes) -> Option<PublishAckFuture> {
        let message = self.shared.message(&self.shard, bytes, self.last_sequence);
        self.last_sequence += 1;
        let context = self.shared.connection.context();
        let sent = context.send_publish(self.shard.subject.clone(), message);
        self.shared.connection.wait(sent).ok()
    }

    /// Waits for the answers to a call's messages.
    fn resolve(&self, call: &mut Call) -> Outcome {
        for (sequence, (_, answer)) in (call.first_sequence..).zip(&mut call.messages) {
            let Some(answer) = answer.take() else {
                return Outcome::Unknown("it could not be sent to the log".to_owned());
            };
            match self.shared.answer(answer, call.deadline) {
                Ok(ack) if ack.sequence == sequence && !ack.duplicate => {}
                Ok(ack) => {
                    let what = format!("the log stored it as {}, not {sequence}", ack.sequence);
                    return Outcome::Unknown(what);
                }
                Err(error) => return self.refused(&error),
            }
        }
        self.take_in(call)
    }

    /// A message was not acknowledged. One that the server refused is not in the log, nor is its call.
    fn refused(&self, error: &PublishError) -> Outcome {
        if error.kind() == PublishErrorKind::WrongLastSequence {
            let _known_or_not = self.shared.catch_up(&self.shard);
            if let Some(epoch) = self.successor() {
                return Outcome::Fenced(epoch);
            }
        }
        Outcome::Unknown(format!("the log did not acknowledge it: {error}"))
    }

    /// All of a call is stored: makes it visible here, if it is in the log.
    fn take_in(&self, call: &Call) -> Outcome {
        let mut taken = Ok(Taken::Known);
        if self.shard.tail.lock().last_sequence() + 1 < call.first_sequence {
            // Something of an older session stands before it.
            if let Err(error) = self.shared.catch_up(&self.shard) {
                return Outcome::Unknown(error.to_string());
            }
        }
        let mut tail = self.shard.tail.lock();
        for (sequence, (bytes, _)) in (call.first_sequence..).zip(&call.messages) {
            taken = tail.take(sequence, bytes);
        }
        // A renewal has no position, and is in the log if it was taken.
        let is_last = call.last_lsns.last().is_none_or(|last| *last < tail.point().next_lsn);
        match taken {
            Err(damage) => Outcome::Unknown(self.shard.corrupt(damage).to_string()),
            // True as it was, but a session that knows of its successor acknowledges nothing.
            Ok(_) if tail.opened() > self.epoch => {
                Outcome::Unknown(format!("epoch {} took over", tail.opened()))
            }
            Ok(Taken::Whole | Taken::Known) if is_last => Outcome::Durable,
            Ok(taken) => Outcome::Unknown(format!("the log does not hold it: {taken:?}")),
        }
    }
}

impl Session for JetStreamSession {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn submit(&mut self, batches: Vec<Batch>) -> Result<(), Refused> {
        let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let bytes_max = self.shared.options.call_bytes_max;
        if bytes > bytes_max {
            return Err(Refused::TooLarge { bytes, bytes_max });
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(Refused::Busy);
        }
        let steps = steps_of(&batches, self.shard.id, self.epoch, self.took_over)?;
        self.must_be_open()?;
        let first_n = steps.first().map_or(0, |step| step.first_n);
        self.point = steps.iter().try_fold(self.point, |point, step| {
            let stale = Refused::Stale { expected: point.next_lsn, found: step.first_lsn };
            point.advance(step).ok_or(stale)
        })?;
        let first_sequence = self.last_sequence + 1;
        let messages = self.messages(&batches, first_n);
        let messages =
            messages.into_iter().map(|bytes| (bytes.clone(), self.send(bytes))).collect();
        let last_lsns = steps.iter().map(Step::last_lsn).collect();
        let deadline = Instant::now() + self.shared.options.append_timeout;
        self.in_flight.push_back(Call { last_lsns, first_sequence, deadline, messages });
        self.took_over = true;
        Ok(())
    }

    fn complete(&mut self) -> Option<Completion> {
        let mut call = self.in_flight.pop_front()?;
        let outcome = match &self.closed {
            None => self.resolve(&mut call),
            Some(_) => Outcome::Unknown("an append before it failed".to_owned()),
        };
        self.note(&outcome);
        Some(Completion { last_lsns: call.last_lsns, outcome })
    }

    fn renew(&mut self, parting: bool) -> Result<(), Refused> {
        if !self.in_flight.is_empty() {
            return Err(Refused::Busy);
        }
        self.must_be_open()?;
        let content = if parting { Content::Parting } else { Content::Renewal };
        let (shard, incarnation, epoch) = (self.shard.id, self.point.incarnation, self.epoch);
        let bytes = Bytes::from(Message { shard, incarnation, epoch, content }.encode());
        let first_sequence = self.last_sequence + 1;
        let messages = vec![(bytes.clone(), self.send(bytes))];
        let deadline = Instant::now() + self.shared.options.append_timeout;
        let mut call = Call { last_lsns: Vec::new(), first_sequence, deadline, messages };
        let outcome = self.resolve(&mut call);
        self.note(&outcome);
        self.must_be_open()
    }
}
