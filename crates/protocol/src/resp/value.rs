//! The client's end: commands to bytes, and replies to owned values.
//!
//! For tests, tools and load generators. Values are built only once a reply is known to be
//! complete, so memory follows bytes received, whatever lengths a server claims. Attributes are
//! read over. Nothing here is used on the way of a request through the server.

use super::error::ProtocolError;
use super::frame::{Collection, Frame, read_frame, skip_reply};

/// One reply, of RESP2 or RESP3.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `$-1`, `*-1` or `_`.
    Null,
    /// A status, without its `+`.
    Simple(Vec<u8>),
    /// An error, code word first.
    Error(Vec<u8>),
    /// A signed integer.
    Integer(i64),
    /// A double; what the server wrote as `nan` equals nothing.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// The decimal digits of an integer of any size.
    BigNumber(Vec<u8>),
    /// A binary-safe string.
    Bulk(Vec<u8>),
    /// A binary-safe error.
    BulkError(Vec<u8>),
    /// Text with its three-letter format.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text alone.
        text: Vec<u8>,
    },
    /// Values in order.
    Array(Vec<Value>),
    /// Keys and values in the order sent.
    Map(Vec<(Value, Value)>),
    /// Values in the order sent.
    Set(Vec<Value>),
    /// An out-of-band message, its kind first.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of a string, status, verbatim text, big number or error.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Bulk(text) => Some(text),
            Self::BulkError(text) | Self::BigNumber(text) => Some(text),
            Self::Verbatim { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether the server refused.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_) | Self::BulkError(_))
    }
}

/// Reads the complete reply at the start of `buf` and says how many bytes it takes; `None` if it
/// has not all arrived.
pub fn parse_value(buf: &[u8]) -> Result<Option<(Value, usize)>, ProtocolError> {
    let Some(bytes) = skip_reply(buf)? else {
        return Ok(None);
    };
    let mut rest = buf.get(..bytes).unwrap_or_default();
    Ok(build(&mut rest)?.map(|value| (value, bytes)))
}

/// Builds the value at the start of `rest` and steps over it. `skip_reply` has bounded how deep
/// it nests and seen every element that a header counts.
fn build(rest: &mut &[u8]) -> Result<Option<Value>, ProtocolError> {
    loop {
        let Some((frame, bytes)) = read_frame(rest)? else {
            return Ok(None);
        };
        *rest = rest.get(bytes..).unwrap_or_default();
        let (kind, elements) = match frame {
            Frame::Collection { kind, elements } => (kind, elements),
            scalar => return Ok(build_scalar(scalar)),
        };
        let value = match kind {
            Collection::Array => build_many(rest, elements)?.map(Value::Array),
            Collection::Set => build_many(rest, elements)?.map(Value::Set),
            Collection::Push => build_many(rest, elements)?.map(Value::Push),
            Collection::Map => build_pairs(rest, elements / 2)?.map(Value::Map),
            Collection::Attribute => {
                build_pairs(rest, elements / 2)?;
                continue;
            }
        };
        return Ok(value);
    }
}

fn build_scalar(frame: Frame<'_>) -> Option<Value> {
    Some(match frame {
        Frame::Null => Value::Null,
        Frame::Simple(text) => Value::Simple(text.to_vec()),
        Frame::Error(text) => Value::Error(text.to_vec()),
        Frame::Integer(value) => Value::Integer(value),
        Frame::Double(value) => Value::Double(value),
        Frame::Boolean(value) => Value::Boolean(value),
        Frame::BigNumber(digits) => Value::BigNumber(digits.to_vec()),
        Frame::Bulk(bytes) => Value::Bulk(bytes.to_vec()),
        Frame::BulkError(text) => Value::BulkError(text.to_vec()),
        Frame::Verbatim { format, text } => Value::Verbatim { format, text: text.to_vec() },
        Frame::Collection { .. } => return None,
    })
}

fn build_many(rest: &mut &[u8], len: usize) -> Result<Option<Vec<Value>>, ProtocolError> {
    let mut values = Vec::with_capacity(len);
    for _ in 0..len {
        let Some(value) = build(rest)? else {
            return Ok(None);
        };
        values.push(value);
    }
    Ok(Some(values))
}

fn build_pairs(rest: &mut &[u8], len: usize) -> Result<Option<Vec<(Value, Value)>>, ProtocolError> {
    let mut pairs = Vec::with_capacity(len);
    for _ in 0..len {
        let (Some(key), Some(value)) = (build(rest)?, build(rest)?) else {
            return Ok(None);
        };
        pairs.push((key, value));
    }
    Ok(Some(pairs))
}

/// Appends a command as a client sends it: an array of bulk strings, the name first.
pub fn encode_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    header(out, b'*', args.len());
    for arg in args {
        header(out, b'$', arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, marker: u8, count: usize) {
    out.push(marker);
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
