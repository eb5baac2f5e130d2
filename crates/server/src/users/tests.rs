//! Tests of users: passwords, and permissions against a naive model.

use holdfast_base::catalog::User;
use holdfast_io::{OsRandom, Random, SeededRandom};
use holdfast_protocol::resp::Args;

use super::*;
use crate::session::OwnedArgs;

fn user(modifiers: &[&str]) -> User {
    let mut user = User::default();
    for modifier in modifiers {
        modify(&mut user, modifier.as_bytes()).unwrap_or_else(|why| panic!("{modifier}: {why}"));
    }
    user
}

fn account(modifiers: &[&str]) -> Account {
    Account::new("someone", user(modifiers), 1)
}

fn with_args<R>(words: &[&str], run: impl FnOnce(&'static Command, Args<'_>) -> R) -> R {
    let mut bytes = Vec::new();
    let mut ranges = Vec::new();
    for word in words {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(word.as_bytes());
        let end = bytes.len() as u32;
        ranges.push(holdfast_protocol::resp::ArgRange { start, end });
    }
    let args = OwnedArgs::new(Args::new(&bytes, &ranges));
    run(find(words[0].as_bytes()).expect("the command exists"), args.view())
}

#[test]
fn only_the_right_password_of_an_enabled_user_is_let_in() {
    let known = account(&["on", ">secret", ">other"]);
    for (password, expected) in [("secret", true), ("other", true), ("Secret", false), ("", false)]
    {
        assert_eq!(password_fits(Some(&known), password.as_bytes()), expected, "{password}");
    }
    assert!(!password_fits(None, b"secret"));
    assert!(!password_fits(Some(&account(&["off", ">secret"])), b"secret"));
    assert!(!password_fits(Some(&account(&["on"])), b""));
    assert!(password_fits(Some(&account(&["on", "nopass"])), b"anything"));
    assert!(!password_fits(Some(&account(&["on", "nopass", "resetpass"])), b"anything"));
    assert!(!password_fits(Some(&account(&["on", ">secret", "<secret"])), b"secret"));
}

#[test]
fn a_user_who_may_do_everything_is_unlimited_and_nobody_else() {
    assert!(account(&["allcommands", "allkeys"]).is_unlimited());
    for less in [
        &["allcommands", "~a*"][..],
        &["allcommands", "allkeys", "-get"],
        &["allcommands", "allkeys", "-client|list"],
        &["allkeys"],
        &[],
    ] {
        assert!(!account(less).is_unlimited(), "{less:?}");
    }
}

#[test]
fn keys_are_checked_by_pattern_and_all_of_them() {
    let some = account(&["allcommands", "~a:*", "~b?"]);
    for (words, denied) in [
        (&["get", "a:1"][..], None),
        (&["mget", "a:1", "b2"], None),
        (&["mget", "a:1", "c"], Some("c")),
        (&["mset", "a:1", "c", "b1", "c"], None),
        (&["del", "a:1", "b", "a:2"], Some("b")),
        (&["ping"], None),
    ] {
        let expected = denied.map_or(Ok(()), |key| Err(Denied::Key(key.into())));
        assert_eq!(with_args(words, |command, args| some.check(command, args)), expected);
    }
}

#[test]
fn modifiers_that_make_no_sense_are_refused_and_change_nothing() {
    let hash = "#".to_string() + &"g".repeat(64);
    for modifier in
        ["foo", "+nosuch", "+@nosuch", "+client|nosuch", "+get|x", "#12", &hash, "<absent", "%R~x"]
    {
        let mut some = user(&["on", "+get", "~a"]);
        let before = some.clone();
        assert!(modify(&mut some, modifier.as_bytes()).is_err(), "{modifier}");
        assert_eq!(some, before, "{modifier}");
    }
    assert!(modify(&mut user(&["allkeys"]), b"~x").is_err());
}

#[test]
fn users_are_described_as_redis_does() {
    assert_eq!(describe("bob", &user(&[])), "user bob off resetchannels -@all");
    let bob = user(&["on", "nopass", "~a*", "&*", "+@read", "+SET", "-get"]);
    assert_eq!(describe("bob", &bob), "user bob on nopass ~a* &* -@all +@read +set -get");
    let root = configured_default("");
    assert_eq!(describe("default", &root), "user default on nopass ~* &* +@all");
}

#[test]
fn a_denial_that_is_not_known_denies_what_was_allowed_before() {
    let commands = ["+@all", "-@later", "+get", "+@evenlater"].map(String::from).to_vec();
    let stored = User { commands, keys: vec!["*".into()], ..User::default() };
    let account = Account::new("someone", stored, 1);
    assert!(with_args(&["get", "k"], |command, args| account.check(command, args)).is_ok());
    assert!(with_args(&["set", "k", "v"], |command, args| account.check(command, args)).is_err());
}

/// Whether a rule without its sign is about this command.
fn concerns(rule: &str, command: &Command, sub: Option<&str>) -> bool {
    match (rule.strip_prefix('@'), rule.split_once('|')) {
        (Some("all"), _) => true,
        (Some(_), _) => command.categories().contains(&rule),
        (None, Some((name, its))) => command.name == name && sub == Some(its),
        (None, None) => command.name == rule,
    }
}

#[test]
fn resolved_permissions_equal_those_of_the_rules_read_one_by_one() {
    let seed = OsRandom::new().expect("the system has random numbers").next_u64();
    println!("seed {seed}");
    let mut random = SeededRandom::new(seed);
    let mut below = |n: usize| (random.next_u64() % n as u64) as usize;
    for _ in 0..2_000 {
        let rules: Vec<String> = (0..below(8))
            .map(|_| {
                let sign = if below(2) == 0 { "+" } else { "-" };
                let command = COMMANDS[below(COMMANDS.len())];
                let subs = command.subcommands;
                match below(8) {
                    0 => format!("{sign}@all"),
                    1..=3 => format!("{sign}@{}", CATEGORIES[below(CATEGORIES.len())]),
                    4 | 5 if !subs.is_empty() => {
                        format!("{sign}{}|{}", command.name, subs[below(subs.len())])
                    }
                    4 => format!("{sign}client|list"),
                    5 => format!("{sign}client"),
                    _ => format!("{sign}{}", command.name),
                }
            })
            .collect();
        let words: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut modifiers = vec!["on", "allkeys"];
        modifiers.extend(&words);
        let account = account(&modifiers);
        for command in COMMANDS.iter() {
            for sub in command.subcommands.iter().copied().map(Some).chain([None]) {
                let last = rules.iter().rfind(|rule| concerns(&rule[1..], command, sub));
                let expected =
                    last.is_some_and(|rule| rule.starts_with('+')) || command.before_auth;
                let mut words = vec![command.name];
                words.extend(sub);
                let got = with_args(&words, |command, args| account.check(command, args));
                assert_eq!(got.is_ok(), expected, "{words:?} under {rules:?}, seed {seed}");
            }
        }
    }
}
