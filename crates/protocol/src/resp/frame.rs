//! One element of a reply as it lies in a buffer: a whole scalar, or a collection's header.
//!
//! Both ways of reading replies, skipping and parsing, are built on `read_frame`, so they accept
//! the same bytes. Nothing here allocates. Reading starts over when a reply is incomplete: it is
//! for clients whose replies are small or whose buffers fill in few steps.

use memchr::memchr;

use super::error::ProtocolError;
use crate::number::{parse_f64, parse_i64};

/// Collections within collections; COMMAND DOCS of Redis needs about ten.
pub(super) const DEPTH_MAX: usize = 64;
/// Longest bulk string: Redis' default proto-max-bulk-len.
const BULK_BYTES_MAX: i64 = 512 * 1024 * 1024;
/// Most elements of a collection, keys and values counted singly: more than fits in a sane reply,
/// and far from an overflow when added or doubled.
const ELEMENTS_MAX: i64 = i32::MAX as i64;

/// A scalar with its payload, or the header of a collection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Frame<'a> {
    Null,
    Simple(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Double(f64),
    Boolean(bool),
    BigNumber(&'a [u8]),
    Bulk(&'a [u8]),
    BulkError(&'a [u8]),
    Verbatim { format: [u8; 3], text: &'a [u8] },
    Collection { kind: Collection, elements: usize },
}

/// What a collection's elements make up. `Attribute` is followed by the value that it describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collection {
    Array,
    Map,
    Set,
    Push,
    Attribute,
}

/// The length of the complete reply at the start of `buf`, attributes included, or `None` if it
/// has not all arrived.
pub fn skip_reply(buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
    skip(buf, 0, DEPTH_MAX)
}

fn skip(buf: &[u8], mut at: usize, depth: usize) -> Result<Option<usize>, ProtocolError> {
    loop {
        let rest = buf.get(at..).unwrap_or_default();
        let Some((frame, bytes)) = read_frame(rest)? else {
            return Ok(None);
        };
        at += bytes;
        let Frame::Collection { kind, elements } = frame else {
            return Ok(Some(at));
        };
        let depth = depth.checked_sub(1).ok_or(ProtocolError::ReplyTooDeep)?;
        for _ in 0..elements {
            match skip(buf, at, depth)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        if kind != Collection::Attribute {
            return Ok(Some(at));
        }
    }
}

/// Reads the element at the start of `buf` and says how many bytes it takes.
pub(super) fn read_frame(buf: &[u8]) -> Result<Option<(Frame<'_>, usize)>, ProtocolError> {
    let Some((&marker, rest)) = buf.split_first() else {
        return Ok(None);
    };
    if !b"+-:$*_,#(!=%~>|".contains(&marker) {
        return Err(ProtocolError::ReplyType(marker));
    }
    let Some(line) = read_line(rest)? else {
        return Ok(None);
    };
    let header_bytes = line.len() + 3;
    let frame = match marker {
        b'+' => Some(Frame::Simple(line)),
        b'-' => Some(Frame::Error(line)),
        b':' => parse_i64(line).map(Frame::Integer),
        b'_' => line.is_empty().then_some(Frame::Null),
        b',' => read_double(line).map(Frame::Double),
        b'#' => read_boolean(line).map(Frame::Boolean),
        b'(' => is_big_number(line).then_some(Frame::BigNumber(line)),
        b'$' | b'!' | b'=' => return read_bulk(marker, line, buf, header_bytes),
        _ => read_collection(marker, line),
    };
    let frame = frame.ok_or(ProtocolError::ReplyHeader)?;
    Ok(Some((frame, header_bytes)))
}

/// The text up to CR LF.
fn read_line(rest: &[u8]) -> Result<Option<&[u8]>, ProtocolError> {
    let Some(cr) = memchr(b'\r', rest) else {
        return Ok(None);
    };
    match rest.get(cr + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(rest.get(..cr)),
        Some(_) => Err(ProtocolError::ReplyHeader),
    }
}

fn read_bulk<'a>(
    marker: u8,
    line: &[u8],
    buf: &'a [u8],
    header_bytes: usize,
) -> Result<Option<(Frame<'a>, usize)>, ProtocolError> {
    let len = match parse_i64(line) {
        Some(-1) if marker == b'$' => return Ok(Some((Frame::Null, header_bytes))),
        Some(len @ 0..=BULK_BYTES_MAX) => len as usize,
        _ => return Err(ProtocolError::ReplyHeader),
    };
    let end = header_bytes + len;
    let (Some(body), Some(line_end)) = (buf.get(header_bytes..end), buf.get(end..end + 2)) else {
        return Ok(None);
    };
    if line_end != b"\r\n" {
        return Err(ProtocolError::BulkEnd);
    }
    let frame = match (marker, body) {
        (b'$', _) => Frame::Bulk(body),
        (b'!', _) => Frame::BulkError(body),
        (_, [a, b, c, b':', text @ ..]) => Frame::Verbatim { format: [*a, *b, *c], text },
        _ => return Err(ProtocolError::ReplyHeader),
    };
    Ok(Some((frame, end + 2)))
}

fn read_collection(marker: u8, line: &[u8]) -> Option<Frame<'static>> {
    let count = parse_i64(line)?;
    if count == -1 && marker == b'*' {
        return Some(Frame::Null);
    }
    let (kind, per_entry) = match marker {
        b'*' => (Collection::Array, 1),
        b'~' => (Collection::Set, 1),
        b'>' => (Collection::Push, 1),
        b'%' => (Collection::Map, 2),
        _ => (Collection::Attribute, 2),
    };
    let counted = (0..=ELEMENTS_MAX / per_entry).contains(&count);
    counted.then_some(Frame::Collection { kind, elements: (count * per_entry) as usize })
}

fn read_double(line: &[u8]) -> Option<f64> {
    match line {
        b"nan" | b"-nan" => Some(f64::NAN),
        line => parse_f64(line),
    }
}

fn read_boolean(line: &[u8]) -> Option<bool> {
    match line {
        b"t" => Some(true),
        b"f" => Some(false),
        _ => None,
    }
}

fn is_big_number(line: &[u8]) -> bool {
    let digits = match line {
        [b'+' | b'-', digits @ ..] => digits,
        digits => digits,
    };
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}
