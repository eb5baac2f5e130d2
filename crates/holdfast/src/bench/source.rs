//! Where a thread's requests come from: the mix at random, or every key once.

use super::mix::{Command, Mix};
use super::random::{Keys, Rng};
use super::wire::{Member, Request};

/// A stream of requests.
#[derive(Debug)]
pub enum Source {
    /// Endless, drawn from the mix.
    Mix(Draw),
    /// Each key of a range, once per filling command.
    Fill(Fill),
}

/// Draws requests from a mix.
#[derive(Debug)]
pub struct Draw {
    mix: Mix,
    keys: Keys,
    members: u64,
    rng: Rng,
    sequence: u64,
}

/// Walks over a range of keys.
#[derive(Debug)]
pub struct Fill {
    commands: Vec<Command>,
    position: u64,
    end: u64,
}

impl Source {
    /// The mix, as thread `thread` under this seed sends it.
    pub fn mix(mix: Mix, keys: Keys, members: u64, seed: u64, thread: u64) -> Source {
        let rng = Rng::new(seed, thread);
        // Sequences of different threads do not meet before 2^40 requests; zero is for filling.
        let sequence = (thread + 1) << 40;
        Source::Mix(Draw { mix, keys, members, rng, sequence })
    }

    /// Share `thread` of `threads` of the keys below `keys`, for the families of `mix`.
    pub fn fill(mix: &Mix, keys: u64, thread: u64, threads: u64) -> Source {
        let mut commands = Vec::new();
        for command in mix.commands().filter_map(Command::preloaded_by) {
            if !commands.contains(&command) {
                commands.push(command);
            }
        }
        let each = commands.len() as u64;
        let bound =
            |thread: u64| (u128::from(keys) * u128::from(thread) / u128::from(threads)) as u64;
        let (position, end) = (bound(thread) * each, bound(thread + 1) * each);
        Source::Fill(Fill { commands, position, end })
    }

    /// How many requests are to come, if there is an end.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Source::Mix(_) => None,
            Source::Fill(fill) => Some(fill.end - fill.position),
        }
    }

    /// The next request; `None` at the end.
    pub fn next(&mut self) -> Option<Request> {
        match self {
            Source::Mix(draw) => Some(draw.next()),
            Source::Fill(fill) => fill.next(),
        }
    }
}

impl Draw {
    fn next(&mut self) -> Request {
        let command = self.mix.pick(&mut self.rng);
        let key = match command {
            Command::Ping => 0,
            Command::Mget => self.rng.bits(),
            _ => self.keys.pick(&mut self.rng),
        };
        let member = match command {
            Command::Hset | Command::Hget | Command::Sadd | Command::Zadd => {
                self.rng.below(self.members)
            }
            _ => 0,
        };
        self.sequence += 1;
        Request { command, key, member: Member::One(member), sequence: self.sequence }
    }
}

impl Fill {
    fn next(&mut self) -> Option<Request> {
        if self.position == self.end {
            return None;
        }
        let each = self.commands.len() as u64;
        let command = *self.commands.get((self.position % each) as usize)?;
        let key = self.position / each;
        self.position += 1;
        Some(Request { command, key, member: Member::All, sequence: 0 })
    }
}
