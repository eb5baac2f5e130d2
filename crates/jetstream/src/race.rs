//! Owners that replace each other over a simulated server, by seed.
//!
//! The server does what JetStream does: it takes a message if it expects the last sequence, whoever
//! sends it, and answers; messages and answers of a connection keep their order and may be late by any
//! time or never come. So old owners append behind their successors' barriers. Held: what an owner
//! acknowledges by the session's rule is in the log that every reader sees, once and in order.

use std::collections::VecDeque;

use holdfast_base::{
    Effect, Epoch, Hlc, LogId, Lsn, ShardId,
    record::{BatchBuilder, BatchHeader},
};
use holdfast_io::{Random, SeededRandom};
use holdfast_log::{Owner as Owned, place::Point};

use crate::{
    message::{Content, Message, Part},
    tail::{Tail, Taken},
};

const LOG: LogId = LogId(5);
const SHARD: ShardId = ShardId(1);
const STEPS: usize = 400;

/// What the owners do wrong.
#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// An owner goes on after a refusal.
    NotPoisoned,
    /// An owner begins without a barrier, behind what it has read.
    NoBarrier,
}

struct Sent {
    expected: u64,
    bytes: Vec<u8>,
    /// Positions of its records, of the call's last part.
    lsns: Option<(Lsn, Lsn)>,
}

/// The sequence of a message if it was accepted, and the positions that it was sent with.
type Answer = (Option<u64>, Option<(Lsn, Lsn)>);

struct Owner {
    epoch: Epoch,
    point: Point,
    last_sequence: u64,
    /// On the way to the server, in order.
    sent: VecDeque<Sent>,
    /// On the way back, in order.
    answers: VecDeque<Answer>,
    poisoned: bool,
}

#[derive(Default)]
struct Server {
    messages: Vec<Vec<u8>>,
    late: usize,
}

impl Server {
    fn offer(&mut self, expected: u64, bytes: Vec<u8>) -> bool {
        let accepted = self.messages.len() as u64 == expected;
        if accepted {
            self.messages.push(bytes);
        }
        accepted
    }

    fn read(&self, messages: usize) -> Result<Tail, String> {
        let mut tail = Tail::new(LOG, SHARD, 1);
        for (bytes, sequence) in self.messages.iter().take(messages).zip(1..) {
            tail.take(sequence, bytes).map_err(|damage| damage.what)?;
        }
        Ok(tail)
    }
}

/// The records of one call, in parts.
fn call(owner: &mut Owner, records: u64, parts: usize) -> Vec<Sent> {
    let point = owner.point;
    let first_n = if point.epoch == owner.epoch { point.next_n } else { 0 };
    let mut builder = BatchBuilder::new(
        BatchHeader {
            shard: SHARD,
            incarnation: point.incarnation,
            epoch: owner.epoch,
            first_n,
            first_lsn: point.next_lsn,
            chain_before: point.chain,
            count: 0,
        },
        Vec::new(),
    );
    for at in 0..records {
        builder.begin(Hlc(point.time.0 + at + 1), None);
        builder.push(&Effect::TakeOver { epoch: owner.epoch, owner: b"somebody" });
        builder.finish();
    }
    let batch = builder.seal();
    owner.point = Point {
        next_lsn: batch.last_lsn().next(),
        epoch: owner.epoch,
        next_n: first_n + records,
        time: Hlc(point.time.0 + records),
        chain: batch.chain_after,
        ..point
    };
    let chunk = batch.bytes.len().div_ceil(parts);
    let pieces: Vec<&[u8]> = batch.bytes.chunks(chunk).collect();
    let count = pieces.len() as u32;
    let mut sent = Vec::new();
    for (bytes, index) in pieces.into_iter().zip(0..) {
        let part = Part { first_n, index, count, bytes };
        let content = Content::Part(part);
        let message =
            Message { shard: SHARD, incarnation: point.incarnation, epoch: owner.epoch, content };
        let lsns = (index + 1 == count).then_some((point.next_lsn, batch.last_lsn()));
        sent.push(Sent { expected: owner.last_sequence, bytes: message.encode(), lsns });
        owner.last_sequence += 1;
    }
    sent
}

/// A sign of life.
fn renewal(owner: &mut Owner) -> Sent {
    let (incarnation, epoch) = (owner.point.incarnation, owner.epoch);
    let message = Message { shard: SHARD, incarnation, epoch, content: Content::Renewal };
    owner.last_sequence += 1;
    Sent { expected: owner.last_sequence - 1, bytes: message.encode(), lsns: None }
}

/// One seed; gives how many messages of replaced owners the server took.
fn run(seed: u64, bug: Bug) -> Result<usize, String> {
    let mut random = SeededRandom::new(seed);
    let mut server = Server::default();
    let mut owners: Vec<Owner> = Vec::new();
    let mut acknowledged = Vec::new();
    let mut counted = Vec::new();
    for _ in 0..STEPS {
        let at = random.below(owners.len().max(1) as u64) as usize;
        match random.below(40) {
            0 => owners.extend(begin(&mut server, &mut random, bug)?),
            1..12 => {
                if let Some(owner) = owners.get_mut(at).filter(|owner| !owner.poisoned)
                    && owner.sent.len() + owner.answers.len() < 16
                {
                    if random.chance(0.3) {
                        let sent = renewal(owner);
                        owner.sent.push_back(sent);
                        continue;
                    }
                    let (records, parts) = (1 + random.below(3), 1 + random.below(3) as usize);
                    let sent = call(owner, records, parts);
                    owner.sent.extend(sent);
                }
            }
            12..26 => {
                let newest = at + 1 == owners.len();
                let Some(owner) = owners.get_mut(at) else { continue };
                let Some(sent) = owner.sent.pop_front() else { continue };
                // A connection that breaks loses what is on its way; a time-out is all that comes back.
                if random.chance(0.01) {
                    owner.answers.push_back((None, None));
                    continue;
                }
                let accepted = server.offer(sent.expected, sent.bytes);
                server.late += usize::from(accepted && !newest);
                owner.answers.push_back((accepted.then_some(sent.expected + 1), sent.lsns));
            }
            _ => {
                let Some(owner) = owners.get_mut(at) else { continue };
                let Some((accepted, lsns)) = owner.answers.pop_front() else { continue };
                owner.poisoned |= accepted.is_none() && bug != Bug::NotPoisoned;
                if let Some(sequence) = accepted.filter(|_| !owner.poisoned) {
                    counted.push((owner.epoch, sequence));
                    acknowledged.extend(lsns.map(|lsns| (owner.epoch, lsns)));
                }
            }
        }
    }
    // A lease stands on what counts. Its end is bounded by the last sign before a successor's barrier,
    // so nothing may count that stands behind one.
    for (epoch, sequence) in counted {
        let before = server.messages.iter().take(sequence as usize - 1);
        let later = |bytes: &&Vec<u8>| {
            let message = Message::decode(bytes);
            message.is_ok_and(|m| matches!(m.content, Content::Barrier(_)) && m.epoch > epoch)
        };
        if before.into_iter().any(|bytes| later(&bytes)) {
            return Err(format!("message {sequence} of epoch {epoch} counts behind a successor's"));
        }
    }
    let log = server.read(usize::MAX)?;
    for (epoch, (first, last)) in acknowledged {
        let held = log.entries_from(first).next();
        if held.is_none_or(|e| (e.epoch, e.first_lsn, e.next_lsn) != (epoch, first, last.next())) {
            return Err(format!(
                "{first} to {last} of epoch {epoch} is acknowledged and not there"
            ));
        }
    }
    Ok(server.late)
}

/// A new owner reads the log, perhaps from a copy that is behind, and puts its barrier there.
fn begin(server: &mut Server, random: &mut dyn Random, bug: Bug) -> Result<Option<Owner>, String> {
    let behind = if random.chance(0.3) { random.below(3) as usize } else { 0 };
    let known = server.messages.len().saturating_sub(behind);
    let tail = server.read(known)?;
    let epoch = Epoch(tail.opened().max(tail.point().epoch).0 + 1);
    let point = tail.point();
    let mut last_sequence = known as u64;
    if bug != Bug::NoBarrier || server.messages.is_empty() {
        let content = Content::Barrier(point);
        let barrier = Message { shard: SHARD, incarnation: point.incarnation, epoch, content };
        if !server.offer(last_sequence, barrier.encode()) {
            return Ok(None);
        }
        last_sequence += 1;
    }
    let (sent, answers) = (VecDeque::new(), VecDeque::new());
    Ok(Some(Owner { epoch, point, last_sequence, sent, answers, poisoned: false }))
}

#[test]
fn what_is_acknowledged_is_in_the_log_whoever_appends() {
    let mut late = 0;
    for seed in 0..2_000 {
        late += run(seed, Bug::None).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    assert!(
        late > 500,
        "the server took {late} messages of replaced owners: too few to show anything"
    );
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::NotPoisoned, Bug::NoBarrier] {
        assert!((0..500).any(|seed| run(seed, bug).is_err()));
    }
}

fn begin_at_last(server: &mut Server) -> Result<Owner, String> {
    let mut random = SeededRandom::new(1);
    loop {
        if let Some(owner) = begin(server, &mut random, Bug::None)? {
            return Ok(owner);
        }
    }
}

#[test]
fn a_message_twice_and_a_message_missing_are_told_apart() -> Result<(), String> {
    let mut server = Server::default();
    let mut owner = begin_at_last(&mut server)?;
    for sent in call(&mut owner, 2, 3) {
        assert!(server.offer(sent.expected, sent.bytes));
    }
    let mut tail = Tail::new(LOG, SHARD, 1);
    let take = |tail: &mut Tail, at: usize| tail.take(at as u64 + 1, &server.messages[at]);
    assert_eq!(take(&mut tail, 0), Ok(Taken::Whole));
    assert_eq!(take(&mut tail, 1), Ok(Taken::Part));
    assert_eq!(take(&mut tail, 1), Ok(Taken::Known));
    assert!(take(&mut tail, 3).is_err_and(|damage| damage.what.contains("missing")));
    assert_eq!(take(&mut tail, 2), Ok(Taken::Part));
    assert_eq!(take(&mut tail, 3), Ok(Taken::Whole));
    assert_eq!(tail.point(), owner.point);
    Ok(())
}

#[test]
fn a_log_that_lost_its_end_is_noticed_by_who_had_read_it() -> Result<(), String> {
    let mut server = Server::default();
    let mut owner = begin_at_last(&mut server)?;
    for _ in 0..2 {
        let sent = call(&mut owner, 1, 1).remove(0);
        assert!(server.offer(sent.expected, sent.bytes));
    }
    let mut tail = server.read(3)?;
    server.messages.pop();
    let mut other = begin_at_last(&mut server)?;
    let sent = call(&mut other, 1, 1).remove(0);
    assert!(server.offer(sent.expected, sent.bytes));
    assert_eq!(server.read(4)?.point(), other.point, "to all others nothing is missing");
    let noticed = tail.take(4, &server.messages[3]);
    assert!(noticed.is_err_and(|damage| damage.what.contains("beginning is missing")));
    Ok(())
}

#[test]
fn a_sign_counts_only_in_the_epoch_that_is_open() -> Result<(), String> {
    let mut server = Server::default();
    let mut owner = begin_at_last(&mut server)?;
    let own = |epoch| Owned::Session(epoch);
    let alive = server.read(usize::MAX)?.sign();
    let sent = renewal(&mut owner);
    assert!(server.offer(sent.expected, sent.bytes));
    let renewed = server.read(usize::MAX)?.sign();
    assert_eq!((alive.owner, renewed.owner), (own(owner.epoch), own(owner.epoch)));
    assert!(renewed.number > alive.number);
    let other = begin_at_last(&mut server)?;
    let taken = server.read(usize::MAX)?.sign();
    assert_eq!(taken.owner, own(other.epoch));
    // The old owner's next one is where the server expects it, and counts for nothing.
    owner.last_sequence = other.last_sequence;
    let (incarnation, epoch) = (owner.point.incarnation, owner.epoch);
    for content in [Content::Renewal, Content::Parting] {
        let message = Message { shard: SHARD, incarnation, epoch, content };
        assert!(server.offer(owner.last_sequence, message.encode()));
        owner.last_sequence += 1;
        assert_eq!(server.read(usize::MAX)?.sign(), taken);
    }
    let epoch = other.epoch;
    let message = Message { shard: SHARD, incarnation, epoch, content: Content::Parting };
    assert!(server.offer(owner.last_sequence, message.encode()));
    assert_eq!(server.read(usize::MAX)?.sign().owner, Owned::Nobody);
    Ok(())
}

#[test]
fn a_follower_has_the_bytes_of_the_last_calls_within_its_bound() -> Result<(), String> {
    let mut server = Server::default();
    let mut owner = begin_at_last(&mut server)?;
    let (mut tail, mut calls) = (Tail::new(LOG, SHARD, 1), Vec::new());
    tail.keep_recent(1 << 20);
    for parts in [1, 3, 2] {
        let mut bytes = Vec::new();
        for sent in call(&mut owner, 2, parts) {
            if let Ok(Message { content: Content::Part(part), .. }) = Message::decode(&sent.bytes) {
                bytes.extend_from_slice(part.bytes);
            }
            assert!(server.offer(sent.expected, sent.bytes));
        }
        calls.push(bytes);
    }
    for (bytes, sequence) in server.messages.iter().zip(1..) {
        tail.take(sequence, bytes).map_err(|damage| damage.what)?;
    }
    let entries: Vec<_> = tail.entries_from(Lsn(1)).copied().collect();
    assert_eq!(tail.recent(&entries), Some(calls.concat()));
    assert_eq!(tail.recent(&entries[1..2]), Some(calls[1].clone()));
    tail.keep_recent(calls[2].len());
    assert_eq!(tail.recent(&entries[1..]), None, "the second is not kept any more");
    assert_eq!(tail.recent(&entries[2..]), Some(calls[2].clone()));
    Ok(())
}
