//! The modifiers of ACL SETUSER: each changes one thing about a user, in the order given.
//!
//! Rules are kept in canonical form and without those that a later one about the same commands
//! makes pointless, so a user that is changed again and again does not grow.

use holdfast_base::catalog::User;

use super::{Target, digest, target};

/// Passwords, rules or patterns that one user may have.
const ITEMS_MAX: usize = 1024;

const BAD_HASH: &str = "The password hash must be exactly 64 characters and contain only \
                        lowercase hexadecimal characters";
const NO_PASSWORD: &str = "The password you are trying to remove from the user does not exist";
const UNKNOWN_RULE: &str = "Unknown command or category name in ACL";
const SYNTAX: &str = "Syntax error";
const POINTLESS_KEYS: &str = "Adding a pattern after the * pattern (or the 'allkeys' flag) is not \
                              valid and does not have any effect. Try 'resetkeys' to start with an \
                              empty list of patterns";
const POINTLESS_CHANNELS: &str = "Adding a pattern after the * pattern (or the 'allchannels' flag) \
                                  is not valid and does not have any effect. Try 'resetchannels' \
                                  to start with an empty list of channels";

/// Applies one modifier, or says why it makes no sense and leaves the user as it was.
pub(crate) fn modify(user: &mut User, modifier: &[u8]) -> Result<(), &'static str> {
    // Passwords may be any bytes; everything else is text.
    match modifier.split_first() {
        Some((b'>', password)) => {
            user.nopass = false;
            return add(&mut user.passwords, digest(password));
        }
        Some((b'<', password)) => return remove_password(user, &digest(password)),
        _ => {}
    }
    let text =
        std::str::from_utf8(modifier).map_err(|_| "Only passwords may be other than UTF-8")?;
    match text.to_ascii_lowercase().as_str() {
        "on" => user.enabled = true,
        "off" => user.enabled = false,
        "nopass" => {
            user.nopass = true;
            user.passwords.clear();
        }
        "resetpass" => {
            user.nopass = false;
            user.passwords.clear();
        }
        "allkeys" => user.keys = vec!["*".into()],
        "resetkeys" => user.keys.clear(),
        "allchannels" => user.channels = vec!["*".into()],
        "resetchannels" => user.channels.clear(),
        "allcommands" => return add_rule(user, "+@all"),
        "nocommands" => return add_rule(user, "-@all"),
        "reset" => {
            user.enabled = false;
            user.nopass = false;
            for list in
                [&mut user.passwords, &mut user.commands, &mut user.keys, &mut user.channels]
            {
                list.clear();
            }
        }
        _ => return modify_list(user, text),
    }
    Ok(())
}

fn modify_list(user: &mut User, text: &str) -> Result<(), &'static str> {
    let mut rest = text.chars();
    let sign = rest.next();
    let rest = rest.as_str();
    match sign {
        Some('#') => {
            check_hash(rest)?;
            user.nopass = false;
            add(&mut user.passwords, rest.into())
        }
        Some('!') => {
            check_hash(rest)?;
            remove_password(user, rest)
        }
        Some('~') => add_pattern(&mut user.keys, rest, POINTLESS_KEYS),
        Some('&') => add_pattern(&mut user.channels, rest, POINTLESS_CHANNELS),
        Some('+' | '-') => add_rule(user, text),
        _ => Err(SYNTAX),
    }
}

fn add(list: &mut Vec<String>, item: String) -> Result<(), &'static str> {
    if !list.contains(&item) {
        if list.len() == ITEMS_MAX {
            return Err("A user may have at most 1024 of these");
        }
        list.push(item);
    }
    Ok(())
}

fn check_hash(hash: &str) -> Result<(), &'static str> {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hash.len() == 64 && hash.bytes().all(hexadecimal)).then_some(()).ok_or(BAD_HASH)
}

fn remove_password(user: &mut User, hash: &str) -> Result<(), &'static str> {
    let at = user.passwords.iter().position(|known| known == hash).ok_or(NO_PASSWORD)?;
    user.passwords.remove(at);
    Ok(())
}

fn add_pattern(
    list: &mut Vec<String>,
    pattern: &str,
    pointless: &'static str,
) -> Result<(), &'static str> {
    if pattern.contains([' ', '\0']) {
        return Err(SYNTAX);
    }
    if pattern == "*" {
        *list = vec!["*".into()];
        return Ok(());
    }
    if list.iter().any(|known| known == "*") {
        return Err(pointless);
    }
    add(list, pattern.into())
}

/// Adds a rule on commands behind the others.
fn add_rule(user: &mut User, rule: &str) -> Result<(), &'static str> {
    let (sign, rest) = rule.split_at(1);
    let rules = &mut user.commands;
    let canonical = match target(rest).ok_or(UNKNOWN_RULE)? {
        Target::All => {
            rules.clear();
            "@all".into()
        }
        Target::Category(category) => format!("@{category}"),
        Target::Command(command) => {
            let below = format!("{}|", command.name);
            rules.retain(|known| !known.get(1..).is_some_and(|known| known.starts_with(&below)));
            command.name.into()
        }
        Target::Subcommand(command, sub) => format!("{}|{sub}", command.name),
    };
    rules.retain(|known| known.get(1..) != Some(canonical.as_str()));
    if (sign, canonical.as_str()) == ("-", "@all") {
        // As before the first rule.
        return Ok(());
    }
    add(rules, format!("{sign}{canonical}"))
}
