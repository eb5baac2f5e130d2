//! ACL: users, what they may do, and who this connection is. Changes are records of the log.

use holdfast_base::catalog::{NAME_BYTES_MAX, User};

use super::super::{
    Command, CommandError, Flow, Run, SessionCall,
    command::COMMAND,
    errors::{unknown_subcommand, wrong_arity},
    find,
};
use crate::{
    catalog::Table,
    users::{
        Account, CATEGORIES, DEFAULT_USER, Denied, commands_in, describe, describe_commands, modify,
    },
};

pub(crate) const COMMANDS: &[Command] = &[Command {
    name: "acl",
    arity: -2,
    run: Run::Session(acl),
    subcommands: &[
        "cat", "deluser", "dryrun", "getuser", "help", "list", "setuser", "users", "whoami",
    ],
    flags: &["admin", "noscript", "loading", "stale", "no_multi"],
    group: "server",
    since: "6.0.0",
    summary: "Users and their permissions: SETUSER, GETUSER, LIST, USERS, DELUSER, WHOAMI, CAT, \
              DRYRUN.",
    complexity: "O(N) where N is the number of users",
    ..COMMAND
}];

fn acl(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sub = call.args.get(1).unwrap_or_default();
    match (sub.to_ascii_lowercase().as_slice(), call.args.len()) {
        (b"whoami", 2) => {
            let name = call.session.user().unwrap_or(DEFAULT_USER).to_string();
            call.out.bulk(name.as_bytes());
        }
        (b"users", 2) => {
            let table = latest(call);
            call.out.array(table.accounts().count());
            table.accounts().for_each(|account| call.out.bulk(account.name.as_bytes()));
        }
        (b"list", 2) => {
            let table = latest(call);
            call.out.array(table.accounts().count());
            for account in table.accounts() {
                call.out.bulk(describe(&account.name, &account.user).as_bytes());
            }
        }
        (b"getuser", 3) => get_user(call),
        (b"setuser", 3..) => set_user(call)?,
        (b"deluser", 3..) => delete_users(call)?,
        (b"dryrun", 4..) => dry_run(call)?,
        (b"cat", 2 | 3) => categories(call)?,
        (b"help", 2) => help(call),
        (
            b"whoami" | b"users" | b"list" | b"getuser" | b"setuser" | b"deluser" | b"dryrun"
            | b"help",
            _,
        ) => {
            let sub = String::from_utf8_lossy(sub).to_ascii_lowercase();
            return Err(wrong_arity(&format!("acl|{sub}")));
        }
        _ => return Err(unknown_subcommand("acl", sub)),
    }
    Ok(Flow::Continue)
}

/// The newest table; the reply waits until it is durable.
fn latest(call: &mut SessionCall<'_>) -> std::sync::Arc<Table> {
    let seen = call.node.catalog.look(&call.node.shard);
    call.gate = seen.gate;
    seen.latest
}

fn text(call: &SessionCall<'_>, at: usize) -> String {
    String::from_utf8_lossy(call.args.get(at).unwrap_or_default()).into_owned()
}

fn get_user(call: &mut SessionCall<'_>) {
    let table = latest(call);
    let Some(account) = table.account(&text(call, 2)) else { return call.out.null() };
    let user = &account.user;
    let patterns = |list: &[String], sign: char| {
        list.iter().map(|pattern| format!("{sign}{pattern}")).collect::<Vec<_>>().join(" ")
    };
    let out = &mut call.out;
    out.map(6);
    out.bulk(b"flags");
    out.set(1 + usize::from(user.nopass));
    out.bulk(if user.enabled { b"on" } else { b"off" });
    if user.nopass {
        out.bulk(b"nopass");
    }
    out.bulk(b"passwords");
    out.array(user.passwords.len());
    user.passwords.iter().for_each(|password| out.bulk(password.as_bytes()));
    out.bulk(b"commands");
    out.bulk(describe_commands(user).as_bytes());
    out.bulk(b"keys");
    out.bulk(patterns(&user.keys, '~').as_bytes());
    out.bulk(b"channels");
    out.bulk(patterns(&user.channels, '&').as_bytes());
    out.bulk(b"selectors");
    out.array(0);
}

fn user_name(given: &[u8]) -> Result<&str, CommandError> {
    if given.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        let text = "ERR Usernames can't contain spaces or null characters";
        return Err(CommandError::text(text));
    }
    std::str::from_utf8(given)
        .ok()
        .filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()))
        .ok_or(CommandError::text("ERR Usernames have 1 to 64 bytes of UTF-8"))
}

/// Users outlive a restart, so nobody could undo a change that leaves none to make changes.
fn keep_an_administrator(before: &Table, after: &Table) -> Result<(), CommandError> {
    let any = |table: &Table| table.accounts().any(|account| account.may_change_users());
    if any(before) && !any(after) {
        let text = "ERR this would leave no enabled user with a password who may run ACL SETUSER";
        return Err(CommandError::text(text));
    }
    Ok(())
}

fn set_user(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let name = user_name(call.args.get(2).unwrap_or_default())?;
    let args = call.args;
    let node = call.node;
    let ((), gate) = node.catalog.change(&node.shard, |draft| {
        let old = draft.table.account(name).map(|account| account.user.clone());
        let mut user = old.clone().unwrap_or_else(User::default);
        for modifier in args.iter().skip(3) {
            modify(&mut user, modifier).map_err(|why| {
                let given = String::from_utf8_lossy(modifier);
                let text = format!("ERR Error in ACL SETUSER modifier '{given}': {why}");
                CommandError::Text(text.into())
            })?;
        }
        if old.as_ref() == Some(&user) {
            return Ok(());
        }
        let before = draft.table.clone();
        draft.put_user(name, user)?;
        keep_an_administrator(&before, &draft.table)
    })?;
    call.gate = gate;
    call.out.ok();
    Ok(())
}

fn delete_users(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let names: Vec<String> = (2..call.args.len()).map(|at| text(call, at)).collect();
    if names.iter().any(|name| name == DEFAULT_USER) {
        return Err(CommandError::text("ERR The 'default' user cannot be removed"));
    }
    let node = call.node;
    let (deleted, gate) = node.catalog.change(&node.shard, |draft| {
        let before = draft.table.clone();
        let deleted = names.iter().filter(|name| draft.delete_user(name)).count();
        keep_an_administrator(&before, &draft.table).map(|()| deleted)
    })?;
    call.gate = gate;
    call.out.integer(deleted as i64);
    Ok(())
}

fn dry_run(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let table = latest(call);
    let name = text(call, 2);
    let Some(account) = table.account(&name) else {
        return Err(CommandError::Text(format!("ERR User '{name}' not found").into()));
    };
    let request = call.args.from(3);
    let Some(command) = find(request.name()) else {
        let text = format!("ERR Command '{}' not found", text(call, 3));
        return Err(CommandError::Text(text.into()));
    };
    if !command.arity_fits(request.len()) {
        return Err(wrong_arity(command.name));
    }
    match Account::check(account, command, request) {
        Ok(()) => call.out.ok(),
        Err(Denied::Command(name)) => {
            let text = format!("This user has no permissions to run the '{name}' command");
            call.out.bulk(text.as_bytes());
        }
        Err(Denied::Key(key)) => {
            let key = String::from_utf8_lossy(&key);
            let text = format!("This user has no permissions to access the '{key}' key");
            call.out.bulk(text.as_bytes());
        }
    }
    Ok(())
}

fn categories(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let Some(wanted) = call.args.get(2) else {
        call.out.array(CATEGORIES.len());
        CATEGORIES.iter().for_each(|category| call.out.bulk(category.as_bytes()));
        return Ok(());
    };
    let known = CATEGORIES.iter().find(|category| category.as_bytes().eq_ignore_ascii_case(wanted));
    let Some(category) = known else {
        return Err(CommandError::Text(format!("ERR Unknown category '{}'", text(call, 2)).into()));
    };
    call.out.array(commands_in(category).count());
    commands_in(category).for_each(|command| call.out.bulk(command.name.as_bytes()));
    Ok(())
}

fn help(call: &mut SessionCall<'_>) {
    const LINES: [&str; 8] = [
        "ACL CAT [category]: the categories, or the commands of one",
        "ACL DELUSER name [name ...]: forgets users; their connections are logged out",
        "ACL DRYRUN name command [argument ...]: whether the user may run it",
        "ACL GETUSER name: a user in parts",
        "ACL LIST: all users in the words of SETUSER",
        "ACL SETUSER name [modifier ...]: on off nopass >password <password #hash !hash resetpass \
         ~pattern allkeys resetkeys &pattern allchannels resetchannels +command -command \
         +command|subcommand +@category -@category allcommands nocommands reset",
        "ACL USERS: the names of all users",
        "ACL WHOAMI: the user of this connection",
    ];
    call.out.array(LINES.len());
    LINES.iter().for_each(|line| call.out.simple(line));
}
