//! The Redis protocol, versions 2 and 3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! The server's end is [`RequestParser`] and [`ReplyWriter`]; the client's end, for tests and
//! load generators, is [`encode_command`], [`skip_reply`] and [`parse_value`]. Neither end reads
//! or writes a socket. Streamed RESP3 types (`$?`, `*?`) are not spoken, as in Redis itself.

mod args;
mod error;
mod frame;
mod inline;
mod reply;
mod request;
mod value;

pub use args::{ArgRange, Args};
pub use error::ProtocolError;
pub use frame::skip_reply;
pub use reply::{Deferred, Protocol, ReplyWriter};
pub use request::{Limits, Parse, RequestParser};
pub use value::{Value, encode_command, parse_value};
