//! Plays one sequence of requests to both servers and finds the first difference; makes a
//! sequence that shows one as short as it gets.
//!
//! Requests of one connection in a row are pipelined; where the connection changes, all replies
//! are awaited first, so that both servers see one order. SPOP and SRANDMEMBER draw what they like:
//! their replies are checked against the members before, and then both servers lose what either
//! popped.

use std::time::{Duration, Instant};

use crate::{
    compare::{self, Slack},
    connection::{Connection, SILENCE_MAX},
    request::{Request, elements, text},
    servers::Pair,
    state,
};

/// What Redis and Holdfast answered differently.
pub struct Difference {
    pub request: Request,
    pub redis: Vec<u8>,
    pub ours: Vec<u8>,
}

impl Difference {
    /// Whether our server gave no reply at all.
    pub fn is_stuck(&self) -> bool {
        self.ours.starts_with(b"!")
    }
}

/// A sequence and how it is played.
pub struct Sequence {
    /// 2 or 3.
    pub protocol: u8,
    pub databases: usize,
    pub requests: Vec<Request>,
}

/// Requests on their way at once: what fits the buffers of two sockets.
const PIPELINE_MAX: usize = 32;
const PIPELINE_BYTES_MAX: usize = 64 << 10;

/// Clocks of one machine, read by two processes.
const CLOCK_SLACK_MS: i64 = 50;

/// Both ends of one of the sequence's connections, and the transaction open on it.
struct Line {
    redis: Connection,
    ours: Connection,
    queued: Option<Vec<Request>>,
}

/// Plays the sequence on empty servers; the number of requests played before the difference.
///
/// A server that did not answer is replaced by a new one: it may be stuck for ever.
pub fn play(pair: &mut Pair, sequence: &Sequence) -> Option<(usize, Difference)> {
    let found = play_once(pair, sequence);
    if found.as_ref().is_some_and(|(_, difference)| difference.is_stuck()) {
        pair.replace_ours();
    }
    found
}

fn play_once(pair: &Pair, sequence: &Sequence) -> Option<(usize, Difference)> {
    for address in [pair.redis.address, pair.ours.address] {
        Connection::open(address).ask(Request::of("flushall"));
    }
    let count = sequence.requests.iter().map(|request| request.connection + 1).max().unwrap_or(0);
    let mut lines: Vec<Line> = (0..count).map(|_| Line::open(pair, sequence.protocol)).collect();
    let mut slack = Slack(CLOCK_SLACK_MS);
    let mut done = 0;
    while done < sequence.requests.len() {
        let batch = batch(&sequence.requests[done..]);
        let line = &mut lines[batch[0].connection];
        let started = Instant::now();
        let found = if is_drawn(&batch[0]) {
            line.draw(&batch[0]).map(|difference| (0, difference))
        } else {
            line.exchange(batch, slack)
        };
        if let Some((at, difference)) = found {
            return Some((done + at, difference));
        }
        done += batch.len();
        // A relative deadline starts at some time within its batch.
        let took = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        slack = Slack(slack.0.max(CLOCK_SLACK_MS + took));
    }
    state::difference(pair, sequence.databases, slack).map(|difference| (done, difference))
}

/// Whether chance decides the reply.
fn is_drawn(request: &Request) -> bool {
    ["spop", "srandmember"].contains(&request.name().as_str())
}

fn batch(requests: &[Request]) -> &[Request] {
    let (connection, mut bytes) = (requests[0].connection, 0);
    let fits = |request: &&Request| {
        bytes += request.bytes();
        request.connection == connection && !is_drawn(request) && bytes <= PIPELINE_BYTES_MAX
    };
    let len = requests.iter().take(PIPELINE_MAX).take_while(fits).count();
    &requests[..len.max(1)]
}

impl Line {
    fn open(pair: &Pair, protocol: u8) -> Line {
        let open = |address| {
            let mut connection = Connection::open_for(address, pair.silence);
            if protocol == 3 {
                connection.ask(Request::of("hello 3"));
            }
            connection
        };
        Line { redis: open(pair.redis.address), ours: open(pair.ours.address), queued: None }
    }

    fn both(&mut self, request: &Request) -> (Vec<u8>, Vec<u8>) {
        self.redis.send(std::slice::from_ref(request));
        self.ours.send(std::slice::from_ref(request));
        (self.redis.receive(), self.ours.receive())
    }

    fn exchange(&mut self, batch: &[Request], slack: Slack) -> Option<(usize, Difference)> {
        let started = Instant::now();
        self.redis.send(batch);
        self.ours.send(batch);
        let replies: Vec<_> =
            batch.iter().map(|_| (self.redis.receive(), self.ours.receive())).collect();
        let took = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let slack = Slack(slack.0.max(CLOCK_SLACK_MS + took));
        for (at, (request, (redis, ours))) in batch.iter().zip(replies).enumerate() {
            if !self.is_same(request, &redis, &ours, slack) {
                return Some((at, Difference { request: request.clone(), redis, ours }));
            }
        }
        None
    }

    /// Compares, and follows the transaction that is open.
    fn is_same(&mut self, request: &Request, redis: &[u8], ours: &[u8], slack: Slack) -> bool {
        let alone = request.words.len() == 1;
        if redis == b"+QUEUED\r\n" && ours == redis {
            self.queued.get_or_insert_default().push(request.clone());
            return true;
        }
        match request.name().as_str() {
            "exec" if alone => match self.queued.take() {
                Some(queued) if redis.starts_with(b"*") => {
                    compare::same_transaction(&queued, redis, ours, slack)
                }
                _ => compare::same(request, redis, ours, slack),
            },
            "discard" | "reset" if alone => {
                self.queued = None;
                compare::same(request, redis, ours, slack)
            }
            _ => compare::same(request, redis, ours, slack),
        }
    }

    fn draw(&mut self, request: &Request) -> Option<Difference> {
        let key = request.words.get(1).cloned().unwrap_or_default();
        let before = self.redis.ask(Request::new("smembers").arg(&key));
        let (redis, ours) = self.both(request);
        // A negative count draws with repetition.
        let repeats = request.words.get(2).is_some_and(|count| count.starts_with(b"-"));
        let fair = match (drawn(&before, &redis, repeats), drawn(&before, &ours, repeats)) {
            (Some(theirs), Some(own)) => {
                let fair = redis.first() == ours.first() && theirs.len() == own.len();
                let lost = [theirs, own].concat();
                if request.name() == "spop" && !lost.is_empty() {
                    self.both(&Request::new("srem").arg(&key).args(lost));
                }
                fair
            }
            _ => redis == ours,
        };
        (!fair).then(|| Difference { request: request.clone(), redis, ours })
    }
}

/// The members that were drawn, if they were members and, unless it may repeat, are named once.
fn drawn(before: &[u8], reply: &[u8], repeats: bool) -> Option<Vec<Vec<u8>>> {
    let before = elements(before)?;
    let mut members = match reply.first()? {
        b'*' | b'~' => elements(reply)?,
        b'_' => vec![],
        b'$' if reply.starts_with(b"$-1") => vec![],
        b'$' => vec![reply],
        _ => return None,
    };
    members.sort_unstable();
    let named = members.len();
    if !repeats {
        members.dedup();
    }
    (named == members.len() && members.iter().all(|member| before.contains(member)))
        .then(|| members.iter().filter_map(|member| text(member)).map(<[u8]>::to_vec).collect())
}

/// A sequence that got a server stuck is repeated many times while it is shortened.
const SHRINK_SILENCE: Duration = Duration::from_secs(1);
/// How long a sequence may be shortened.
const SHRINK_MAX: Duration = Duration::from_secs(100);

/// Drops requests for as long as the same command still answers differently.
pub fn shrink(
    pair: &mut Pair,
    mut sequence: Sequence,
    (mut at, mut difference): (usize, Difference),
) -> (Sequence, Difference) {
    let started = Instant::now();
    let command = difference.request.name();
    pair.silence = SHRINK_SILENCE;
    sequence.requests.truncate(at + 1);
    let mut width = sequence.requests.len().div_ceil(2);
    while width > 0 && started.elapsed() < SHRINK_MAX {
        let (mut from, mut shorter) = (0, false);
        while from < sequence.requests.len() && started.elapsed() < SHRINK_MAX {
            let mut requests = sequence.requests.clone();
            requests.drain(from..(from + width).min(requests.len()));
            let candidate = Sequence { requests, ..sequence };
            match play(pair, &candidate) {
                Some(found) if found.1.request.name() == command => {
                    (at, difference) = found;
                    sequence = candidate;
                    sequence.requests.truncate(at + 1);
                    shorter = true;
                }
                _ => from += width,
            }
        }
        if !(shorter && width == 1) {
            width /= 2;
        }
    }
    pair.silence = SILENCE_MAX;
    (sequence, difference)
}
