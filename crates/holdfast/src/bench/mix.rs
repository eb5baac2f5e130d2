//! The commands that the load knows, and the mix in which it sends them.
//!
//! Commands of one family share keys; families never do, so any mix runs without type errors.

use super::random::Rng;
use std::fmt;
use std::str::FromStr;

/// What kind of value a key holds; it is part of the key's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// No key at all.
    None,
    /// Strings.
    Text,
    /// Counters.
    Counter,
    /// Hashes.
    Hash,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets.
    Sorted,
}

/// A command of the mix, by the name that the protocol gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Ping,
    Get,
    Set,
    Mget,
    Del,
    Incr,
    Hset,
    Hget,
    Lpush,
    Rpop,
    Sadd,
    Zadd,
    Zrange,
}

impl Command {
    /// Every command, in the order of their numbers.
    pub const ALL: [Command; 13] = {
        use Command::*;
        [Ping, Get, Set, Mget, Del, Incr, Hset, Hget, Lpush, Rpop, Sadd, Zadd, Zrange]
    };

    /// Its name in the mix and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Command::Ping => "ping",
            Command::Get => "get",
            Command::Set => "set",
            Command::Mget => "mget",
            Command::Del => "del",
            Command::Incr => "incr",
            Command::Hset => "hset",
            Command::Hget => "hget",
            Command::Lpush => "lpush",
            Command::Rpop => "rpop",
            Command::Sadd => "sadd",
            Command::Zadd => "zadd",
            Command::Zrange => "zrange",
        }
    }

    /// The family of its keys.
    pub fn family(self) -> Family {
        match self {
            Command::Ping => Family::None,
            Command::Get | Command::Set | Command::Mget | Command::Del => Family::Text,
            Command::Incr => Family::Counter,
            Command::Hset | Command::Hget => Family::Hash,
            Command::Lpush | Command::Rpop => Family::List,
            Command::Sadd => Family::Set,
            Command::Zadd | Command::Zrange => Family::Sorted,
        }
    }

    /// The command that fills a key of the same family before the load starts.
    pub fn preloaded_by(self) -> Option<Command> {
        match self.family() {
            Family::None => None,
            Family::Text => Some(Command::Set),
            Family::Counter => Some(Command::Incr),
            Family::Hash => Some(Command::Hset),
            Family::List => Some(Command::Lpush),
            Family::Set => Some(Command::Sadd),
            Family::Sorted => Some(Command::Zadd),
        }
    }
}

/// Commands with their weights, such as `get:90,set:10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    parts: Vec<(Command, u64)>,
    total: u64,
}

impl Mix {
    /// A command at random, by weight.
    pub fn pick(&self, rng: &mut Rng) -> Command {
        let mut ticket = if self.parts.len() == 1 { 0 } else { rng.below(self.total) };
        for (command, weight) in &self.parts {
            match ticket.checked_sub(*weight) {
                Some(left) => ticket = left,
                None => return *command,
            }
        }
        unreachable!("the ticket is below the sum of the weights")
    }

    /// The commands of the mix.
    pub fn commands(&self) -> impl Iterator<Item = Command> + '_ {
        self.parts.iter().map(|(command, _)| *command)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut parts: Vec<(Command, u64)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
            let name = name.trim().to_ascii_lowercase();
            let command = Command::ALL.into_iter().find(|command| command.name() == name);
            let command =
                command.ok_or_else(|| format!("unknown command {name:?}, {}", known()))?;
            let weight = weight.trim().parse::<u32>().ok().filter(|weight| *weight > 0);
            let weight = weight.ok_or_else(|| format!("{name}: the weight must be 1 or more"))?;
            if parts.iter().any(|(earlier, _)| *earlier == command) {
                return Err(format!("{name} is named twice"));
            }
            parts.push((command, u64::from(weight)));
        }
        let total = parts.iter().map(|(_, weight)| weight).sum();
        Ok(Mix { parts, total })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (command, weight)) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{weight}", command.name())?;
        }
        Ok(())
    }
}

fn known() -> String {
    let names: Vec<_> = Command::ALL.into_iter().map(Command::name).collect();
    format!("known are {}", names.join(" "))
}
