//! The log servers, as one stream: what JetStream does, and what it does not promise.
//!
//! A message is stored if its sender expects the last sequence, whoever it is, and the answer may never come. Messages of
//! a connection that broke arrive in their order, at any time or never. A look may be answered by a copy that
//! lags. Trimming is by sequence.

use std::collections::VecDeque;

use holdfast_io::Random;

/// On the way to the stream.
#[derive(Clone)]
pub(super) struct Request {
    /// Stored only if this is the last sequence.
    pub expected: u64,
    pub bytes: Vec<u8>,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Stream {
    /// The first one has the sequence `trimmed + 1`.
    messages: VecDeque<Vec<u8>>,
    trimmed: u64,
}

impl Stream {
    pub fn last(&self) -> u64 {
        self.trimmed + self.messages.len() as u64
    }

    pub fn first(&self) -> u64 {
        self.trimmed + 1
    }

    /// The sequence that the message has now, if it was stored.
    pub fn offer(&mut self, request: Request) -> Option<u64> {
        if request.expected != self.last() {
            return None;
        }
        self.messages.push_back(request.bytes);
        Some(self.last())
    }

    /// Messages from a sequence on: all of them, or with some chance only what a lagging copy has. Says whether
    /// it lagged.
    pub fn read(&self, from: u64, random: &mut dyn Random) -> (Vec<(u64, Vec<u8>)>, bool) {
        let lags = self.last() >= from && random.chance(0.2);
        let end = if lags { from + random.below(self.last() - from + 1) } else { self.last() + 1 };
        let messages = (from.max(self.first())..end).filter_map(|sequence| {
            let at = usize::try_from(sequence - self.first()).ok()?;
            self.messages.get(at).map(|bytes| (sequence, bytes.clone()))
        });
        (messages.collect(), lags)
    }

    /// The last messages are gone, acknowledged as they were: a power cut of servers that do not sync.
    pub fn lose(&mut self, count: usize) {
        self.messages.truncate(self.messages.len().saturating_sub(count).max(1));
    }

    /// Gives up what is before this sequence.
    pub fn trim(&mut self, first: u64) {
        while self.first() < first && self.messages.len() > 1 {
            self.messages.pop_front();
            self.trimmed += 1;
        }
    }
}

/// A node's connection.
#[derive(Default)]
pub(super) struct Line {
    pub requests: VecDeque<Request>,
    /// Sequences, or refusals.
    pub answers: VecDeque<Option<u64>>,
    /// Of connections that broke.
    pub stray: VecDeque<Request>,
}

impl Line {
    /// It breaks: what was sent may still arrive, and nothing comes back.
    pub fn cut(&mut self) {
        self.answers.clear();
        self.stray.append(&mut self.requests);
    }
}
