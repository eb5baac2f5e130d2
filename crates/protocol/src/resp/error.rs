//! Why bytes are not the Redis protocol, in the words that Redis 7.0 clients know.
//!
//! `Display` gives the text that follows `-ERR ` on the wire. After any of these the connection
//! cannot be used further, because the start of the next request or reply is unknown.

use std::fmt;

/// A violation of the protocol; the connection is to be closed once the text has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number after `*` is not an integer or above `Limits::args_max`.
    MultibulkLength,
    /// More arguments than a client may send before it has authenticated.
    UnauthenticatedMultibulkLength,
    /// No line end within `Limits::inline_bytes_max` of a `*`.
    MultibulkCountTooLong,
    /// The number after `$` is not an integer, negative, or above `Limits::bulk_bytes_max`.
    BulkLength,
    /// A longer argument than a client may send before it has authenticated.
    UnauthenticatedBulkLength,
    /// No line end within `Limits::inline_bytes_max` of a `$`.
    BulkCountTooLong,
    /// An argument began with this byte in place of `$`.
    ExpectedBulk(u8),
    /// A bulk string is not followed by CR LF: its sender counted wrongly.
    BulkEnd,
    /// No line end within `Limits::inline_bytes_max` of an inline request's start.
    InlineTooLong,
    /// A quote in an inline request is not closed, or is followed by more than a space.
    UnbalancedQuotes,
    /// The whole request is above `Limits::request_bytes_max`.
    RequestTooLong,
    /// A reply began with this byte, which is no RESP type.
    ReplyType(u8),
    /// A reply's header line is malformed, or its length is negative or absurd.
    ReplyHeader,
    /// A reply nests deeper than any server has reason to.
    ReplyTooDeep,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::MultibulkLength => f.write_str("invalid multibulk length"),
            Self::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            Self::MultibulkCountTooLong => f.write_str("too big mbulk count string"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            Self::BulkCountTooLong => f.write_str("too big bulk count string"),
            Self::ExpectedBulk(got) => write!(f, "expected '$', got '{}'", shown(*got)),
            Self::BulkEnd => f.write_str("expected CRLF after bulk string"),
            Self::InlineTooLong => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::RequestTooLong => f.write_str("too big request"),
            Self::ReplyType(got) => write!(f, "'{}' is not a reply type", shown(*got)),
            Self::ReplyHeader => f.write_str("invalid reply header"),
            Self::ReplyTooDeep => f.write_str("reply nested too deeply"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Printable ASCII as it is, as Redis shows it; anything else escaped, where Redis would send it
/// raw, so that the text is valid UTF-8 and safe in a log.
fn shown(byte: u8) -> impl fmt::Display {
    let plain = byte == b' ' || byte.is_ascii_graphic();
    std::fmt::from_fn(move |f| {
        if plain { write!(f, "{}", char::from(byte)) } else { write!(f, "{}", byte.escape_ascii()) }
    })
}
