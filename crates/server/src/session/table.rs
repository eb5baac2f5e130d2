//! The command table: every command that this server knows, found by name in any case.

use std::sync::LazyLock;

use super::{Command, commands};

/// All commands, group by group.
pub(crate) static COMMANDS: LazyLock<Vec<&'static Command>> = LazyLock::new(|| {
    let groups: [&'static [Command]; 10] = [
        commands::connection::COMMANDS,
        commands::server::COMMANDS,
        commands::cluster::COMMANDS,
        commands::keys::COMMANDS,
        commands::string::COMMANDS,
        commands::hash::COMMANDS,
        commands::list::COMMANDS,
        commands::set::COMMANDS,
        commands::sorted_set::COMMANDS,
        commands::transactions::COMMANDS,
    ];
    groups.into_iter().flatten().collect()
});

/// Places of the index; a power of two well above the number of commands.
const PLACES: usize = 1024;

static INDEX: LazyLock<Vec<Vec<&'static Command>>> = LazyLock::new(|| {
    let mut index = vec![Vec::new(); PLACES];
    for command in COMMANDS.iter() {
        index[place(command.name.as_bytes())].push(*command);
    }
    index
});

/// FNV-1a over the lower-case letters.
fn place(name: &[u8]) -> usize {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 20) as usize % PLACES
}

/// The command of this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let candidates = INDEX.get(place(name))?;
    candidates.iter().copied().find(|c| c.name.as_bytes().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case_and_declared_once() {
        let mut names = std::collections::BTreeSet::new();
        for command in COMMANDS.iter() {
            assert!(names.insert(command.name), "{} is declared twice", command.name);
            for name in [command.name.to_string(), command.name.to_uppercase()] {
                assert!(find(name.as_bytes()).is_some_and(|found| found.name == command.name));
            }
            assert!(!command.summary.is_empty(), "{} has no summary", command.name);
        }
        assert!(find(b"no-such-command").is_none());
    }
}
