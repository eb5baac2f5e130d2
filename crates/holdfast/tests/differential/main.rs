//! Plays the same random requests to redis-server 7.0 and to Holdfast and compares every reply,
//! and after each sequence everything that both hold.
//!
//! A failure prints the shortest sequence found that shows the difference and the seed that
//! repeats it. `HOLDFAST_DIFFERENTIAL_SEED` and `HOLDFAST_DIFFERENTIAL_CASES` (requests a family)
//! set what is played; `HOLDFAST_DIFFERENTIAL_REPORT` names a file that gets one JSON line a
//! family. Intended differences are listed, with reasons, in `known.rs`.

mod compare;
mod connection;
mod directed;
mod families;
mod known;
mod pen;
mod play;
mod random;
mod request;
mod servers;
mod state;

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use connection::Connection;
use families::{Entry, Family};
use pen::Pen;
use play::{Difference, Sequence};
use request::{Request, elements, error_code, shown};
use servers::Pair;

/// Requests of one family when nothing else is said: a slice of a few seconds.
const CASES: usize = 20_000;
/// The seed when nothing else is said. Fixed: a change is judged by the same requests as the one
/// before it; the proof plays others each time.
const SEED: u64 = 70_015;

/// Requests of one sequence.
const SEQUENCE: usize = 150;
/// Distinct differences after which a family ends.
const DIFFERENCES_MAX: usize = 20;

#[test]
fn connection_and_server_commands_answer_as_redis() {
    run(&families::SERVER);
}

#[test]
fn key_commands_answer_as_redis() {
    run(&families::KEYS);
}

#[test]
fn string_commands_answer_as_redis() {
    run(&families::STRING);
}

#[test]
fn hash_commands_answer_as_redis() {
    run(&families::HASH);
}

#[test]
fn set_commands_answer_as_redis() {
    run(&families::SET);
}

#[test]
fn list_commands_answer_as_redis() {
    run(&families::LIST);
}

#[test]
fn sorted_set_commands_answer_as_redis() {
    run(&families::SORTED_SET);
}

#[test]
fn transactions_of_two_connections_answer_as_redis() {
    run(&families::TRANSACTIONS);
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Differences found, by what tells them apart.
type Found = BTreeMap<(String, String, String), String>;

fn run(family: &Family) {
    let seed = setting("HOLDFAST_DIFFERENTIAL_SEED", SEED);
    let cases = setting("HOLDFAST_DIFFERENTIAL_CASES", CASES);
    println!("{}: HOLDFAST_DIFFERENTIAL_SEED={seed}, {cases} requests", family.name);
    let mut pair = Pair::start();
    let entries = known_entries(&pair, family);
    let (mut played, mut found) = (0, Found::new());
    let mut next = seed;
    let mut stuck = false;
    while played < cases && found.len() < DIFFERENCES_MAX && !stuck {
        let sequence = write(family, &entries, next, SEQUENCE.min(cases));
        played += sequence.requests.len();
        if let Some(first) = play::play(&mut pair, &sequence) {
            let kind = kind(&first.1);
            stuck = first.1.is_stuck();
            found.entry(kind).or_insert_with(|| {
                let (sequence, difference) = play::shrink(&mut pair, sequence, first);
                report(next, &sequence, &difference)
            });
        }
        next = next.wrapping_add(1);
    }
    tell(family, seed, played, found.len());
    let reports: Vec<_> = found.values().cloned().collect();
    assert!(
        found.is_empty(),
        "{}: {} differences\n{}",
        family.name,
        found.len(),
        reports.join("\n")
    );
    pair.stop();
}

/// The entries whose commands our server knows; a command that it does not know is a failure.
fn known_entries(pair: &Pair, family: &Family) -> Vec<&'static Entry> {
    let entries: Vec<&Entry> = family.entries.iter().copied().flatten().collect();
    let names = entries.iter().map(|entry| entry.command);
    let reply = Connection::open(pair.ours.address).ask(Request::of("command info").args(names));
    let told = elements(&reply).expect("COMMAND INFO answers with an array");
    let is_known = |info: &[u8]| !info.starts_with(b"*-1");
    let unknown: Vec<_> = entries
        .iter()
        .zip(&told)
        .filter(|(_, info)| !is_known(info))
        .map(|(e, _)| e.command)
        .collect();
    assert!(unknown.is_empty(), "{}: not known to the server: {unknown:?}", family.name);
    entries
}

/// The sequence of a seed.
fn write(family: &Family, entries: &[&Entry], seed: u64, len: usize) -> Sequence {
    const SPOILED_PERCENT: usize = 4;
    let mut pen = Pen::new(seed);
    let protocol = if pen.random.chance(50) { 3 } else { 2 };
    let total: usize = entries.iter().map(|entry| entry.weight).sum();
    let requests = (0..len).map(|_| {
        let mut left = pen.random.below(total);
        let entry = entries.iter().find(|entry| {
            let here = left < entry.weight;
            left = left.saturating_sub(entry.weight);
            here
        });
        let mut request = (entry.expect("the weights add up to the total").write)(&mut pen);
        if !request.intact && pen.random.chance(SPOILED_PERCENT) {
            pen.spoil(&mut request);
        }
        if family.connections == 1 {
            request.words[0] = recased(&mut pen, &request.words[0]);
        }
        request
    });
    Sequence { protocol, databases: family.databases, requests: requests.collect() }
}

fn recased(pen: &mut Pen, name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(name) => pen.any_case(name).into_bytes(),
        Err(_) => name.to_vec(),
    }
}

/// What tells one difference from another: the command and what kind of reply each server gave.
fn kind(difference: &Difference) -> (String, String, String) {
    let kind = |reply: &[u8]| match error_code(reply) {
        Some(_) => {
            let words: Vec<_> = reply.split(|byte| *byte == b' ').take(5).collect();
            shown(&words.join(&b' '))
        }
        None => shown(&reply[..reply.len().min(1)]),
    };
    (difference.request.name(), kind(&difference.redis), kind(&difference.ours))
}

fn report(seed: u64, sequence: &Sequence, difference: &Difference) -> String {
    let mut text = String::new();
    let protocol = sequence.protocol;
    let repeat =
        format!("HOLDFAST_DIFFERENTIAL_SEED={seed} HOLDFAST_DIFFERENTIAL_CASES={SEQUENCE}");
    let _ = writeln!(text, "\n  RESP{protocol}, repeat with {repeat}");
    for request in &sequence.requests {
        let _ = writeln!(text, "    {request}");
    }
    let _ = writeln!(text, "  differs:  {}", difference.request);
    let _ = writeln!(text, "  redis:    {}", shown(&difference.redis));
    let _ = write!(text, "  holdfast: {}", shown(&difference.ours));
    text
}

/// The family's line for the proof.
fn tell(family: &Family, seed: u64, played: usize, differences: usize) {
    let name = family.name;
    println!("{name}: {played} requests played, {differences} differences");
    let Ok(path) = std::env::var("HOLDFAST_DIFFERENTIAL_REPORT") else { return };
    let line = format!(
        "{{\"family\":\"{name}\",\"seed\":{seed},\"requests\":{played},\"differences\":{differences}}}\n"
    );
    let file = std::fs::File::options().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{path}: {error}"));
}
