//! The Redis protocol's words for everything that can go wrong: one table.
//!
//! Texts are those of Redis 7.0 where clients match on them.

use holdfast_base::ErrorKind;
use holdfast_protocol::resp::{Args, ReplyWriter};
use holdfast_shard::OpError;

use super::CommandError;

pub(crate) const SYNTAX: CommandError = CommandError::text("ERR syntax error");

/// Writes an error reply.
pub(crate) fn write(out: &mut ReplyWriter<'_>, error: &CommandError) {
    match error {
        CommandError::Text(text) => out.error(text),
        CommandError::Op(error) => out.error(&op_text(error)),
    }
}

fn op_text(error: &OpError) -> String {
    match error {
        OpError::WrongType => {
            "WRONGTYPE Operation against a key holding the wrong kind of value".into()
        }
        OpError::NotInteger => "ERR value is not an integer or out of range".into(),
        OpError::NotFloat => "ERR value is not a valid float".into(),
        OpError::FieldNotInteger => "ERR hash value is not an integer".into(),
        OpError::Overflow => "ERR increment or decrement would overflow".into(),
        OpError::ResultNotANumber => "ERR resulting score is not a number (NaN)".into(),
        OpError::NoSuchKey => "ERR no such key".into(),
        OpError::TooLarge(limit) => format!("ERR {limit}"),
        OpError::QuotaExceeded(which) => format!("OOM command not allowed: {which}"),
        OpError::Miss(_) | OpError::ColdRange => {
            "TRYAGAIN the row could not be brought into memory".into()
        }
        OpError::Fault(error) => format!("{} {}", code(error.kind()), error.text()),
    }
}

/// The code that tells a client what to do.
pub(crate) fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Internal => "ERR",
        ErrorKind::NotOwner => "READONLY",
        ErrorKind::Overloaded => "BUSY",
        ErrorKind::Unavailable => "TRYAGAIN",
        ErrorKind::UnknownOutcome => "UNKNOWN",
        ErrorKind::Conflict => "CONFLICT",
        ErrorKind::Corrupt => "CORRUPT",
        ErrorKind::Full => "OOM",
    }
}

/// Bytes of an unknown command's name and arguments that the reply repeats, as Redis does it.
const ECHO_BYTES_MAX: usize = 128;

pub(crate) fn unknown_command(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.name());
    let name: String = name.chars().take(ECHO_BYTES_MAX).collect();
    let mut rest = String::new();
    for arg in args.iter().skip(1) {
        if rest.len() >= ECHO_BYTES_MAX {
            break;
        }
        let left = ECHO_BYTES_MAX - rest.len();
        let shown: String = String::from_utf8_lossy(arg).chars().take(left).collect();
        rest.push_str(&format!("'{shown}' "));
    }
    let text = format!("ERR unknown command '{name}', with args beginning with: {rest}");
    CommandError::Text(text.into())
}

pub(crate) fn wrong_arity(name: &str) -> CommandError {
    CommandError::Text(format!("ERR wrong number of arguments for '{name}' command").into())
}

pub(crate) fn unknown_subcommand(command: &str, sub: &[u8]) -> CommandError {
    let sub = String::from_utf8_lossy(sub);
    let command = command.to_ascii_uppercase();
    let text = format!("ERR unknown subcommand '{sub}'. Try {command} HELP.");
    CommandError::Text(text.into())
}
