//! Finds where one RESP2 or RESP3 reply ends, without building it.
//!
//! The scanner keeps its place between calls, so a reply that arrives in pieces is walked once, and
//! it allocates nothing: nesting is a count of elements still to come, not a stack.
//! It tells values, nulls, errors and out-of-band pushes apart; it does not check the text of
//! simple values, and streamed strings (`$?`), which no server sends, count as malformed.

/// Longest header or simple line accepted; an error text of a server stays far below it.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest bulk accepted: the `proto-max-bulk-len` of Redis.
const BULK_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Most elements that one reply may still owe.
const ELEMENTS_MAX: u64 = u32::MAX as u64;

/// What a complete reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any value but null.
    Value,
    /// `$-1`, `*-1` or `_`.
    Null,
    /// `-` or `!`.
    Error,
    /// `>`: belongs to no request.
    Push,
}

/// A complete reply: its kind, and how many bytes at the start of the input it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it is, decided by its outermost element.
    pub kind: Kind,
    /// Its length in bytes.
    pub len: usize,
}

/// The input is not RESP; the text says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The place in a reply that may still be incomplete.
#[derive(Debug)]
pub struct Scanner {
    at: usize,
    open: u64,
    kind: Option<Kind>,
}

/// One element's header (and body, if it has one), complete in the input.
struct Element {
    kind: Option<Kind>,
    len: usize,
    children: u64,
}

impl Scanner {
    /// A scanner that stands before a reply.
    pub fn new() -> Scanner {
        Scanner { at: 0, open: 1, kind: None }
    }

    /// Looks for the end of the reply that starts at `input[0]`.
    ///
    /// `None` asks for the same bytes again with more behind them. After `Some` the caller drops
    /// `len` bytes and the scanner stands before the next reply.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<Reply>, Malformed> {
        while self.open > 0 {
            let rest = input.get(self.at..).unwrap_or_default();
            let Some(element) = element(rest)? else { return Ok(None) };
            // Only the outermost element names the reply; the parts of an attribute before it are
            // passed while `open` is above one.
            if self.kind.is_none() && self.open == 1 {
                self.kind = element.kind;
            }
            self.at += element.len;
            self.open = self.open - 1 + element.children;
            if self.open > ELEMENTS_MAX {
                return Err(Malformed("too many elements"));
            }
        }
        let reply = Reply { kind: self.kind.unwrap_or(Kind::Value), len: self.at };
        *self = Scanner::new();
        Ok(Some(reply))
    }
}

/// The first bulk string of `input` and what follows it; `None` body for a null.
///
/// For looking into replies that [`Scanner::scan`] found complete; array headers are skipped.
pub fn next_bulk(mut input: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    loop {
        let (&tag, after) = input.split_first()?;
        let line = line(after).ok()??;
        let rest = after.get(line.len() + 2..)?;
        match tag {
            b'*' => input = rest,
            b'_' => return Some((None, rest)),
            b'$' => {
                let Ok(Some(len)) = length(line) else { return Some((None, rest)) };
                let body = rest.get(..len as usize)?;
                return Some((Some(body), rest.get(len as usize + 2..)?));
            }
            _ => return None,
        }
    }
}

fn element(input: &[u8]) -> Result<Option<Element>, Malformed> {
    let Some((&tag, after)) = input.split_first() else { return Ok(None) };
    let per_entry = match tag {
        b'+' | b':' | b',' | b'#' | b'(' => return simple(after, Kind::Value),
        b'-' => return simple(after, Kind::Error),
        b'_' => return simple(after, Kind::Null),
        b'$' | b'=' => return bulk(after, Kind::Value),
        b'!' => return bulk(after, Kind::Error),
        b'*' | b'~' | b'>' => 1,
        b'%' | b'|' => 2,
        _ => return Err(Malformed("unknown type byte")),
    };
    let Some(line) = line(after)? else { return Ok(None) };
    let len = 1 + line.len() + 2;
    let Some(count) = length(line)? else {
        return Ok(Some(Element { kind: Some(Kind::Null), len, children: 0 }));
    };
    let children = count.checked_mul(per_entry).filter(|n| *n < ELEMENTS_MAX);
    let children = children.ok_or(Malformed("too many elements"))?;
    Ok(Some(match tag {
        // An attribute stands before the element it describes, which is still to come.
        b'|' => Element { kind: None, len, children: children + 1 },
        b'>' => Element { kind: Some(Kind::Push), len, children },
        _ => Element { kind: Some(Kind::Value), len, children },
    }))
}

fn simple(after: &[u8], kind: Kind) -> Result<Option<Element>, Malformed> {
    Ok(line(after)?.map(|line| Element { kind: Some(kind), len: line.len() + 3, children: 0 }))
}

fn bulk(after: &[u8], kind: Kind) -> Result<Option<Element>, Malformed> {
    let Some(line) = line(after)? else { return Ok(None) };
    let head = 1 + line.len() + 2;
    let Some(len) = length(line)? else {
        return Ok(Some(Element { kind: Some(Kind::Null), len: head, children: 0 }));
    };
    if len > BULK_BYTES_MAX {
        return Err(Malformed("bulk too long"));
    }
    let end = head - 1 + len as usize;
    match after.get(end..end + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some(Element { kind: Some(kind), len: end + 3, children: 0 })),
        Some(_) => Err(Malformed("bulk not closed by CRLF")),
    }
}

/// The bytes before CRLF; `None` while it has not arrived.
fn line(after: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match after.iter().position(|byte| *byte == b'\n') {
        Some(end) => match after.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
            Some(line) => Ok(Some(line)),
            None => Err(Malformed("line not closed by CRLF")),
        },
        None if after.len() > LINE_BYTES_MAX => Err(Malformed("line too long")),
        None => Ok(None),
    }
}

/// A length or count; `None` for -1.
fn length(line: &[u8]) -> Result<Option<u64>, Malformed> {
    if line == b"-1" {
        return Ok(None);
    }
    // Ten digits hold every bound above.
    if line.is_empty() || line.len() > 10 {
        return Err(Malformed("bad length"));
    }
    let mut number = 0u64;
    for byte in line {
        if !byte.is_ascii_digit() {
            return Err(Malformed("bad length"));
        }
        number = number * 10 + u64::from(byte - b'0');
    }
    Ok(Some(number))
}
