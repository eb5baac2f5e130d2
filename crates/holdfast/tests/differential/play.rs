//! Plays one sequence of requests to both servers and finds the first difference; makes a
//! sequence that shows one as short as it gets.
//!
//! Requests of one connection in a row are pipelined; where the connection changes, all replies
//! are awaited first, so that both servers see one order. SPOP removes what it likes: its reply
//! is checked against the members before, and then both servers lose what either popped.

use std::time::{Duration, Instant};

use crate::{
    compare::{self, Slack},
    connection::Connection,
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
pub fn play(pair: &Pair, sequence: &Sequence) -> Option<(usize, Difference)> {
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
        let found = if is_pop(&batch[0]) {
            line.pop(&batch[0]).map(|difference| (0, difference))
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

fn is_pop(request: &Request) -> bool {
    request.name() == "spop"
}

fn batch(requests: &[Request]) -> &[Request] {
    let (connection, mut bytes) = (requests[0].connection, 0);
    let fits = |request: &&Request| {
        bytes += request.bytes();
        request.connection == connection && !is_pop(request) && bytes <= PIPELINE_BYTES_MAX
    };
    let len = requests.iter().take(PIPELINE_MAX).take_while(fits).count();
    &requests[..len.max(1)]
}

impl Line {
    fn open(pair: &Pair, protocol: u8) -> Line {
        let open = |address| {
            let mut connection = Connection::open(address);
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

    fn pop(&mut self, request: &Request) -> Option<Difference> {
        let key = request.words.get(1).cloned().unwrap_or_default();
        let before = self.redis.ask(Request::new("smembers").arg(&key));
        let (redis, ours) = self.both(request);
        let fair = match (popped(&before, &redis), popped(&before, &ours)) {
            (Some(theirs), Some(own)) => {
                let fair = redis.first() == ours.first() && theirs.len() == own.len();
                let lost = [theirs, own].concat();
                if !lost.is_empty() {
                    self.both(&Request::new("srem").arg(&key).args(lost));
                }
                fair
            }
            _ => redis == ours,
        };
        (!fair).then(|| Difference { request: request.clone(), redis, ours })
    }
}

/// The members that an SPOP says it removed, if they were members and are named once.
fn popped(before: &[u8], reply: &[u8]) -> Option<Vec<Vec<u8>>> {
    let before = elements(before)?;
    let mut members = match reply.first()? {
        b'*' | b'~' => elements(reply)?,
        b'$' if reply.starts_with(b"$-1") => vec![],
        b'$' => vec![reply],
        _ => return None,
    };
    members.sort_unstable();
    let named = members.len();
    members.dedup();
    (named == members.len() && members.iter().all(|member| before.contains(member)))
        .then(|| members.iter().filter_map(|member| text(member)).map(<[u8]>::to_vec).collect())
}

/// How long a sequence may be shortened.
const SHRINK_MAX: Duration = Duration::from_secs(20);

/// Drops requests for as long as the same command still answers differently.
pub fn shrink(
    pair: &Pair,
    mut sequence: Sequence,
    (mut at, mut difference): (usize, Difference),
) -> (Sequence, Difference) {
    let started = Instant::now();
    let command = difference.request.name();
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
    (sequence, difference)
}
