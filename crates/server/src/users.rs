//! Users: what their rules mean. An account is a user with its rules resolved against the command
//! table, so that a check is two look-ups and, for a user who may do everything, none at all.
//!
//! Passwords are kept and compared as SHA-256 digests, in constant time; an unknown name costs as
//! much as a wrong password. Words and meaning of the modifiers are those of ACL SETUSER.

mod modify;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_base::catalog::User;
use holdfast_protocol::resp::Args;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(crate) use modify::modify;

use crate::{
    glob,
    session::{COMMANDS, Command, find},
};

/// The user of connections that did not log in.
pub(crate) const DEFAULT_USER: &str = "default";

/// Every category that rules may name, in the order of ACL CAT.
pub(crate) const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The digest of a password as entries hold it.
pub(crate) fn digest(password: &[u8]) -> String {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a request is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Denied {
    /// The user may not run this command; its name, with the subcommand.
    Command(String),
    /// The user may not touch this key.
    Key(Vec<u8>),
}

/// A user whose rules are resolved.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub name: String,
    pub user: User,
    /// Tells a user from an earlier one of the same name.
    pub born: u64,
    allowed: BTreeSet<&'static str>,
    /// Subcommands that are treated otherwise than their command.
    apart: BTreeMap<(&'static str, String), bool>,
    every_key: bool,
    unlimited: bool,
}

/// What a rule on commands is about.
enum Target {
    All,
    Category(&'static str),
    Command(&'static Command),
    Subcommand(&'static Command, String),
}

/// Reads a rule without its sign.
fn target(rule: &str) -> Option<Target> {
    if let Some(category) = rule.strip_prefix('@') {
        if category.eq_ignore_ascii_case("all") {
            return Some(Target::All);
        }
        let known = CATEGORIES.iter().find(|known| category.eq_ignore_ascii_case(known));
        return known.map(|category| Target::Category(category));
    }
    match rule.split_once('|') {
        None => find(rule.as_bytes()).map(Target::Command),
        Some((command, sub)) => {
            let command = find(command.as_bytes())?;
            let sub = sub.to_ascii_lowercase();
            let known = command.subcommands.contains(&sub.as_str());
            known.then_some(Target::Subcommand(command, sub))
        }
    }
}

/// The commands of a category, in the order of the table.
pub(crate) fn commands_in(category: &str) -> impl Iterator<Item = &'static Command> {
    let commands = COMMANDS.iter().copied();
    commands.filter(move |command| {
        command.categories().iter().any(|known| known.strip_prefix('@') == Some(category))
    })
}

impl Account {
    pub(crate) fn new(name: &str, user: User, born: u64) -> Account {
        let mut account = Account {
            name: name.into(),
            born,
            allowed: BTreeSet::new(),
            apart: BTreeMap::new(),
            every_key: user.keys.iter().any(|pattern| pattern == "*"),
            unlimited: false,
            user,
        };
        for rule in account.user.commands.clone() {
            account.learn(&rule);
        }
        let everything = COMMANDS.len() == account.allowed.len() && account.apart.is_empty();
        account.unlimited = everything && account.every_key;
        account
    }

    fn learn(&mut self, rule: &str) {
        let (allow, rest) = match (rule.strip_prefix('+'), rule.strip_prefix('-')) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return,
        };
        match target(rest) {
            Some(Target::All) => COMMANDS.iter().for_each(|command| self.set(command, allow)),
            Some(Target::Category(category)) => {
                commands_in(category).for_each(|command| self.set(command, allow));
            }
            Some(Target::Command(command)) => self.set(command, allow),
            Some(Target::Subcommand(command, sub)) => {
                if self.allowed.contains(command.name) == allow {
                    self.apart.remove(&(command.name, sub));
                } else {
                    self.apart.insert((command.name, sub), allow);
                }
            }
            // Written by a program that knows more commands: what is denied there and not known
            // here may be anything that was allowed before.
            None if !allow => {
                self.allowed.clear();
                self.apart.clear();
            }
            None => {}
        }
    }

    fn set(&mut self, command: &'static Command, allow: bool) {
        self.apart.retain(|(name, _), _| *name != command.name);
        if allow {
            self.allowed.insert(command.name);
        } else {
            self.allowed.remove(command.name);
        }
    }

    /// Whether no request of this user can be refused.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.unlimited
    }

    /// Whether connections are this user without a password.
    pub(crate) fn is_open(&self) -> bool {
        self.user.enabled && self.user.nopass
    }

    /// Whether somebody can log in as this user and change users.
    pub(crate) fn may_change_users(&self) -> bool {
        let logs_in = self.user.enabled && (self.user.nopass || !self.user.passwords.is_empty());
        let apart = self.apart.get(&("acl", "setuser".to_string()));
        logs_in && apart.copied().unwrap_or_else(|| self.allowed.contains("acl"))
    }

    /// Whether the command and all its keys are allowed.
    pub(crate) fn check(&self, command: &Command, args: Args<'_>) -> Result<(), Denied> {
        if self.unlimited {
            return Ok(());
        }
        let sub = subcommand(command, args);
        let apart = sub.as_ref().and_then(|sub| self.apart.get(&(command.name, sub.clone())));
        let allowed = apart.copied().unwrap_or_else(|| self.allowed.contains(command.name));
        if !allowed && !command.before_auth {
            let name = match sub {
                Some(sub) => format!("{}|{sub}", command.name),
                None => command.name.into(),
            };
            return Err(Denied::Command(name));
        }
        if self.every_key {
            return Ok(());
        }
        let fits = |key: &[u8]| {
            self.user.keys.iter().any(|pattern| glob::matches(pattern.as_bytes(), key, false))
        };
        match command.keys(args).find(|key| !fits(key)) {
            Some(key) => Err(Denied::Key(key.into())),
            None => Ok(()),
        }
    }
}

/// The subcommand that a request names, if its command has that one.
fn subcommand(command: &Command, args: Args<'_>) -> Option<String> {
    if command.subcommands.is_empty() {
        return None;
    }
    let given = String::from_utf8_lossy(args.get(1)?).to_ascii_lowercase();
    command.subcommands.contains(&given.as_str()).then_some(given)
}

/// Whether the password is right for the account. Takes the same time without one.
pub(crate) fn password_fits(account: Option<&Account>, password: &[u8]) -> bool {
    let given = digest(password);
    // Compared with when there is nothing else to compare with: no password has this digest.
    let nothing = [String::from("-").repeat(64)];
    let stored = account.map_or(&nothing[..], |account| &account.user.passwords);
    let stored = if stored.is_empty() { &nothing[..] } else { stored };
    let mut fits = subtle::Choice::from(0);
    for expected in stored {
        fits |= given.as_bytes().ct_eq(expected.as_bytes());
    }
    let nopass = account.is_some_and(|account| account.user.nopass);
    let enabled = account.is_some_and(|account| account.user.enabled);
    (bool::from(fits) | nopass) & enabled
}

/// The user `default` as configuration has it: everything is allowed, with the password if one is
/// set.
pub(crate) fn configured_default(password: &str) -> User {
    User {
        enabled: true,
        nopass: password.is_empty(),
        passwords: match password {
            "" => Vec::new(),
            password => vec![digest(password.as_bytes())],
        },
        commands: vec!["+@all".into()],
        keys: vec!["*".into()],
        channels: vec!["*".into()],
        ..User::default()
    }
}

/// One line of ACL LIST.
pub(crate) fn describe(name: &str, user: &User) -> String {
    let mut line = format!("user {name} {}", if user.enabled { "on" } else { "off" });
    if user.nopass {
        line.push_str(" nopass");
    }
    user.passwords.iter().for_each(|password| line.push_str(&format!(" #{password}")));
    user.keys.iter().for_each(|pattern| line.push_str(&format!(" ~{pattern}")));
    if user.channels.is_empty() {
        line.push_str(" resetchannels");
    }
    user.channels.iter().for_each(|pattern| line.push_str(&format!(" &{pattern}")));
    format!("{line} {}", describe_commands(user))
}

/// The rules on commands in one text, from what is so before the first.
pub(crate) fn describe_commands(user: &User) -> String {
    let mut rules: Vec<&str> = user.commands.iter().map(String::as_str).collect();
    if !matches!(rules.first(), Some(&("+@all" | "-@all"))) {
        rules.insert(0, "-@all");
    }
    rules.join(" ")
}
