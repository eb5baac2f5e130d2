//! The protocols that the load speaks: a request becomes bytes, bytes become counted replies.
//!
//! One variant per protocol; the loop around it (`worker`) knows none of them. Requests are encoded
//! from parts prepared once, so the cost per request is a few copies and no allocation.

use super::mix::{Command, Family};
use super::random::{Keys, Rng};
use super::resp::{self, Malformed, Reply};
use super::value::Values;

/// A protocol by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The Redis protocol, version 2.
    Resp2,
    /// The Redis protocol, version 3 (sends HELLO 3).
    Resp3,
}

/// One request, before it has bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The key's number; for `mget` the seed from which its keys follow.
    pub key: u64,
    /// The field or member.
    pub member: Member,
    /// Makes the value and the score.
    pub sequence: u64,
}

/// Which fields or members of a collection a request writes or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// This one.
    One(u64),
    /// Every one (when filling a key).
    All,
}

/// The shape of keys and arguments.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Start of every key.
    pub key_prefix: String,
    /// How keys are chosen (for the further keys of `mget`).
    pub keys: Keys,
    /// Fields or members per collection.
    pub members: u64,
    /// Elements that a `zrange` asks for.
    pub range_count: u64,
    /// Keys in an `mget`.
    pub mget_keys: u64,
    /// Expiry of what `set` writes.
    pub expire_seconds: Option<u64>,
    /// Replicas that a WAIT behind each `set` waits for.
    pub wait: Option<u64>,
}

/// Who to log in as; `None` user means the default one.
#[derive(Clone, Debug)]
pub struct Login {
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: String,
}

impl Protocol {
    /// What a new connection says first, and how many replies that has.
    pub fn greeting(self, login: Option<&Login>) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let mut replies = 0;
        if let Some(Login { user, password }) = login {
            let mut words = vec!["AUTH"];
            words.extend(user.as_deref());
            words.push(password);
            put_command(&words, &mut out);
            replies += 1;
        }
        if self == Protocol::Resp3 {
            put_command(&["HELLO", "3"], &mut out);
            replies += 1;
        }
        (out, replies)
    }
}

/// Turns requests into bytes; one per thread.
#[derive(Debug)]
pub struct Encoder {
    shape: Shape,
    values: Values,
    value_head: Vec<u8>,
    expiry_tail: Vec<u8>,
    /// By command number: everything before the digits of the key.
    heads: Vec<Vec<u8>>,
    mget_key_head: Vec<u8>,
    range_tail: Vec<u8>,
    /// The WAIT behind a `set`, if there is one.
    wait: Vec<u8>,
}

/// How long a WAIT may take, in ms.
const WAIT_MS: &str = "10000";

/// Digits of a key number in a key.
const KEY_DIGITS: usize = 12;
/// Digits of a member number in a member.
const MEMBER_DIGITS: usize = 6;
/// Above every key number that fits [`KEY_DIGITS`].
pub const KEYS_MAX: u64 = 1_000_000_000_000;
/// Above every member number that fits [`MEMBER_DIGITS`].
pub const MEMBERS_MAX: u64 = 1_000_000;

impl Encoder {
    /// Prepares the constant parts.
    pub fn new(shape: Shape, values: Values) -> Encoder {
        let heads = Command::ALL.into_iter().map(|command| head(command, &shape)).collect();
        let value_head = format!("${}\r\n", values.len()).into_bytes();
        let mut expiry_tail = Vec::new();
        if let Some(seconds) = shape.expire_seconds {
            put_bulk(b"EX", &mut expiry_tail);
            put_bulk(seconds.to_string().as_bytes(), &mut expiry_tail);
        }
        let mut range_tail = Vec::new();
        put_bulk(b"0", &mut range_tail);
        put_bulk((shape.range_count - 1).to_string().as_bytes(), &mut range_tail);
        let mget_key_head = key_head(Family::Text, &shape.key_prefix);
        let mut wait = Vec::new();
        if let Some(replicas) = shape.wait {
            put_command(&["WAIT", &replicas.to_string(), WAIT_MS], &mut wait);
        }
        Encoder { shape, values, value_head, expiry_tail, heads, mget_key_head, range_tail, wait }
    }

    /// Replies that a request has; the last one is its answer.
    pub fn replies(&self, request: &Request) -> u8 {
        1 + u8::from(request.command == Command::Set && self.shape.wait.is_some())
    }

    /// Whether the answer says what was waited for: of a WAIT, that enough replicas have it.
    pub fn is_confirmed(&self, request: &Request, answer: &[u8]) -> bool {
        let Some(replicas) = self.shape.wait.filter(|_| request.command == Command::Set) else {
            return true;
        };
        let number = answer.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
        let number =
            number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        number.is_some_and(|number| number >= replicas)
    }

    /// Appends `request`.
    pub fn encode(&self, request: &Request, out: &mut Vec<u8>) {
        let command = request.command;
        match request.member {
            Member::All if command.family() != Family::Text => self.encode_all(request, out),
            _ => self.encode_one(request, out),
        }
    }

    fn encode_one(&self, request: &Request, out: &mut Vec<u8>) {
        let Request { command, key, sequence, .. } = *request;
        let member = match request.member {
            Member::One(member) => member,
            Member::All => 0,
        };
        out.extend_from_slice(&self.heads[command as usize]);
        match command {
            Command::Ping => {}
            Command::Mget => {
                for key in self.mget_keys(key) {
                    out.extend_from_slice(&self.mget_key_head);
                    put_digits::<KEY_DIGITS>(key, out);
                }
            }
            _ => put_digits::<KEY_DIGITS>(key, out),
        }
        match command {
            Command::Set => {
                self.put_value(key, 0, sequence, out);
                out.extend_from_slice(&self.expiry_tail);
                out.extend_from_slice(&self.wait);
            }
            Command::Lpush => self.put_value(key, 0, sequence, out),
            Command::Hset => self.put_field(key, member, sequence, out),
            Command::Hget | Command::Sadd => put_member(member, out),
            Command::Zadd => put_scored(member, sequence, out),
            Command::Zrange => out.extend_from_slice(&self.range_tail),
            Command::Ping | Command::Get | Command::Mget | Command::Del => {}
            Command::Incr | Command::Rpop => {}
        }
    }

    /// The same command with every member of the key.
    fn encode_all(&self, request: &Request, out: &mut Vec<u8>) {
        let Request { command, key, sequence, .. } = *request;
        let words_each = match command {
            Command::Hset | Command::Zadd => 2,
            Command::Lpush | Command::Sadd => 1,
            _ => return self.encode_one(&Request { member: Member::One(0), ..*request }, out),
        };
        put_array(2 + words_each * self.shape.members, out);
        put_bulk(command.name().to_ascii_uppercase().as_bytes(), out);
        out.extend_from_slice(&key_head(command.family(), &self.shape.key_prefix));
        put_digits::<KEY_DIGITS>(key, out);
        for member in 0..self.shape.members {
            let sequence = sequence.wrapping_add(member);
            match command {
                Command::Hset => self.put_field(key, member, sequence, out),
                Command::Zadd => put_scored(member, sequence, out),
                Command::Lpush => self.put_value(key, 0, sequence, out),
                _ => put_member(member, out),
            }
        }
    }

    /// Checks every value in a reply to a reading command against the key it was asked for, and
    /// says how many it checked.
    pub fn verify(&self, request: &Request, reply: &[u8]) -> Result<u64, String> {
        let Request { command, key, member, .. } = *request;
        let member = match (command, member) {
            (Command::Hget, Member::One(member)) => member,
            _ => 0,
        };
        let (mut rest, mut checked) = (reply, 0);
        let mut check = |key| {
            let (value, after) = resp::next_bulk(rest)
                .ok_or_else(|| format!("key {key}: the reply holds no value"))?;
            rest = after;
            if let Some(value) = value {
                self.values.check(key, member, value)?;
                checked += 1;
            }
            Ok(())
        };
        match command {
            Command::Get | Command::Hget | Command::Rpop => check(key),
            Command::Mget => self.mget_keys(key).try_for_each(check),
            _ => Ok(()),
        }
        .map(|()| checked)
    }

    fn mget_keys(&self, seed: u64) -> impl Iterator<Item = u64> + '_ {
        let mut rng = Rng::new(seed, 0);
        (0..self.shape.mget_keys).map(move |_| self.shape.keys.pick(&mut rng))
    }

    fn put_value(&self, key: u64, member: u64, sequence: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.value_head);
        self.values.write(key, member, sequence, out);
        out.extend_from_slice(b"\r\n");
    }

    fn put_field(&self, key: u64, member: u64, sequence: u64, out: &mut Vec<u8>) {
        put_member(member, out);
        self.put_value(key, member, sequence, out);
    }
}

/// Finds complete replies in what a connection received; one per connection.
#[derive(Debug)]
pub enum Decoder {
    /// Either version of the Redis protocol.
    Resp(resp::Scanner),
}

impl Decoder {
    /// A decoder that stands before the first reply.
    pub fn new(protocol: Protocol) -> Decoder {
        match protocol {
            Protocol::Resp2 | Protocol::Resp3 => Decoder::Resp(resp::Scanner::new()),
        }
    }

    /// As [`resp::Scanner::scan`].
    pub fn next(&mut self, input: &[u8]) -> Result<Option<Reply>, Malformed> {
        match self {
            Decoder::Resp(scanner) => scanner.scan(input),
        }
    }
}

fn head(command: Command, shape: &Shape) -> Vec<u8> {
    let words = match command {
        Command::Ping => 1,
        Command::Get | Command::Del | Command::Incr | Command::Rpop => 2,
        Command::Hget | Command::Lpush | Command::Sadd => 3,
        Command::Hset | Command::Zadd | Command::Zrange => 4,
        Command::Set if shape.expire_seconds.is_some() => 5,
        Command::Set => 3,
        Command::Mget => 1 + shape.mget_keys,
    };
    let mut out = Vec::new();
    put_array(words, &mut out);
    put_bulk(command.name().to_ascii_uppercase().as_bytes(), &mut out);
    if !matches!(command, Command::Ping | Command::Mget) {
        out.extend_from_slice(&key_head(command.family(), &shape.key_prefix));
    }
    out
}

/// A key as a bulk, up to its digits: `prefix`, a tag of the family, twelve digits.
fn key_head(family: Family, prefix: &str) -> Vec<u8> {
    let tag = match family {
        Family::None | Family::Text => "",
        Family::Counter => "counter:",
        Family::Hash => "hash:",
        Family::List => "list:",
        Family::Set => "set:",
        Family::Sorted => "zset:",
    };
    format!("${}\r\n{prefix}{tag}", prefix.len() + tag.len() + KEY_DIGITS).into_bytes()
}

fn put_command(words: &[&str], out: &mut Vec<u8>) {
    put_array(words.len() as u64, out);
    for word in words {
        put_bulk(word.as_bytes(), out);
    }
}

fn put_array(words: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{words}\r\n").as_bytes());
}

fn put_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn put_member(member: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"$7\r\nm");
    put_digits::<MEMBER_DIGITS>(member, out);
}

/// A score below a million, then the member.
fn put_scored(member: u64, sequence: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"$6\r\n");
    put_digits::<6>(super::random::mix(sequence) % 1_000_000, out);
    put_member(member, out);
}

/// The last `N` decimal digits of `number`, then CRLF.
fn put_digits<const N: usize>(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
    out.extend_from_slice(b"\r\n");
}
