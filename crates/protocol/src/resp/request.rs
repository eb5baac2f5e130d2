//! Finds one request in a receive buffer, however the bytes arrive.
//!
//! The parser remembers how far it came, so a request that arrives byte by byte costs the same
//! total work as one that arrives whole, and the outcome does not depend on the split. It copies
//! no argument of a multibulk request and holds memory in proportion to bytes received, never to
//! a length claimed. It does not own the buffer, and does not know what commands mean.

use memchr::memchr;

use super::args::{ArgRange, Args};
use super::error::ProtocolError;
use super::inline;
use crate::number::parse_i64;

/// Bounds on one request. Above one of them the request is refused, not truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest argument.
    pub bulk_bytes_max: usize,
    /// Most arguments of a multibulk request, the name included.
    pub args_max: usize,
    /// Longest inline request, and longest header line.
    pub inline_bytes_max: usize,
    /// Longest multibulk request, headers included; values above 4 GiB count as 4 GiB.
    pub request_bytes_max: usize,
    /// Whether a refusal says that it is for want of authentication.
    pub unauthenticated: bool,
}

impl Limits {
    /// What a client may send before it has authenticated: enough for HELLO and AUTH.
    pub const UNAUTHENTICATED: Self = Self {
        bulk_bytes_max: 16 * 1024, // as Redis
        args_max: 10,              // as Redis
        inline_bytes_max: 16 * 1024,
        request_bytes_max: 256 * 1024, // ten of the longest arguments and their headers
        unauthenticated: true,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An eighth of Redis' proto-max-bulk-len: a value is written as one log record.
            bulk_bytes_max: 64 * 1024 * 1024,
            args_max: 1024 * 1024,       // as Redis up to 6.2
            inline_bytes_max: 64 * 1024, // Redis' PROTO_INLINE_MAX_SIZE
            // Half of Redis' client-query-buffer-limit, and room for a few of the longest values.
            request_bytes_max: 512 * 1024 * 1024,
            unauthenticated: false,
        }
    }
}

/// What a call of [`RequestParser::parse`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse {
    /// One request, `consumed` bytes long; its arguments are in [`RequestParser::args`].
    Complete {
        /// Bytes to drop from the front of the buffer once the arguments are done with.
        consumed: usize,
    },
    /// Nothing to do (a blank line, `*0`, `*-1`) in `consumed` bytes. There is no reply to it.
    Empty {
        /// Bytes to drop from the front of the buffer.
        consumed: usize,
    },
    /// The request goes on. Call again with the same bytes and more behind them.
    Incomplete {
        /// At least so many bytes are missing, at least one. It is what the client claims: let it
        /// steer how a buffer grows, but never reserve it at once.
        at_least: usize,
    },
}

/// Argument places kept between requests (8 KiB a connection); a longer request allocates anew,
/// which is lost in the noise of its thousand arguments.
const RANGES_KEPT: usize = 1024;
/// Bytes of inline scratch kept between requests.
const SCRATCH_BYTES_KEPT: usize = 1024;

/// Incremental parser for the requests of one connection.
///
/// Pass the bytes received and not yet consumed, the request's first byte first; the buffer may
/// have been moved or have grown since the last call. After an error the connection is over.
#[derive(Debug, Default)]
pub struct RequestParser {
    stage: Stage,
    /// Bytes of the request that have been understood.
    at: usize,
    /// Bytes behind `at` that have been searched for a line end in vain.
    searched: usize,
    /// Arguments that have not begun, or whose body has not ended.
    missing: usize,
    /// Whether the last request was inline: its arguments are in `scratch`.
    inline: bool,
    ranges: Vec<ArgRange>,
    scratch: Vec<u8>,
}

/// What the byte at `at` begins.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    Inline,
    Count,
    Header,
    Body {
        len: usize,
    },
}

/// A line `<marker><number>` CR LF, and how its failures are called.
struct Header {
    too_long: ProtocolError,
    invalid: ProtocolError,
}

const COUNT: Header = Header {
    too_long: ProtocolError::MultibulkCountTooLong,
    invalid: ProtocolError::MultibulkLength,
};
const BULK: Header =
    Header { too_long: ProtocolError::BulkCountTooLong, invalid: ProtocolError::BulkLength };

impl RequestParser {
    /// A parser at the start of a connection. It allocates with the first request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for one request at the start of `buf`, going on where the last call stopped.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parse, ProtocolError> {
        if self.stage == Stage::Start {
            let Some(first) = buf.first() else {
                return Ok(Parse::Incomplete { at_least: 1 });
            };
            self.begin(*first);
        }
        let result = match self.stage {
            Stage::Inline => self.parse_inline(buf, limits),
            _ => self.parse_multibulk(buf, limits),
        };
        if !matches!(result, Ok(Parse::Incomplete { .. })) {
            self.stage = Stage::Start;
        }
        if result.is_err() {
            self.ranges.clear();
        }
        result
    }

    /// The arguments of the request that the last call of `parse` completed. `buf` begins with
    /// that request still.
    #[inline]
    pub fn args<'a>(&'a self, buf: &'a [u8]) -> Args<'a> {
        Args::new(if self.inline { &self.scratch } else { buf }, &self.ranges)
    }

    /// Where those arguments lie: in the request or, if it was inline, in [`Self::scratch`].
    pub fn ranges(&self) -> &[ArgRange] {
        &self.ranges
    }

    /// The unescaped arguments of an inline request; `None` if the last was not inline.
    pub fn scratch(&self) -> Option<&[u8]> {
        self.inline.then_some(self.scratch.as_slice())
    }

    /// Bytes of memory held besides the parser itself.
    pub fn memory_bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<ArgRange>() + self.scratch.capacity()
    }

    /// Gives back what an unusually large request left behind; worth calling when a connection
    /// goes idle. The next request does it as well. Call it between requests only.
    pub fn release(&mut self) {
        debug_assert!(self.stage == Stage::Start, "release() in the middle of a request");
        self.ranges.clear();
        self.scratch.clear();
        self.ranges.shrink_to(RANGES_KEPT);
        self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
    }

    #[inline]
    fn begin(&mut self, first: u8) {
        self.at = 0;
        self.searched = 0;
        self.inline = first != b'*';
        self.stage = if self.inline { Stage::Inline } else { Stage::Count };
        self.ranges.clear();
        if self.ranges.capacity() > RANGES_KEPT {
            self.ranges.shrink_to(RANGES_KEPT);
        }
        self.scratch.clear();
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT {
            self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
        }
    }

    fn parse_multibulk(&mut self, buf: &[u8], limits: &Limits) -> Result<Parse, ProtocolError> {
        if self.stage == Stage::Count {
            let Some(count) = self.header(buf, limits, &COUNT)? else {
                return Ok(Parse::Incomplete { at_least: 1 });
            };
            if count <= 0 {
                return Ok(Parse::Empty { consumed: self.at });
            }
            self.missing = checked_count(count, limits)?;
            self.stage = Stage::Header;
        }
        loop {
            if self.stage == Stage::Header {
                self.take_whole_arguments(buf, limits);
            }
            if self.missing == 0 {
                return Ok(Parse::Complete { consumed: self.at });
            }
            if let Some(at_least) = self.take_argument(buf, limits)? {
                return Ok(Parse::Incomplete { at_least });
            }
        }
    }

    /// Takes the arguments that lie whole in `buf` and have short headers: nearly all. It stops
    /// at the first with anything unusual about it, for `take_argument` to judge.
    #[inline]
    fn take_whole_arguments(&mut self, buf: &[u8], limits: &Limits) {
        let end_max = limits.request_bytes_max.min(u32::MAX as usize);
        let (mut at, mut missing) = (self.at, self.missing);
        while missing > 0 {
            let line = buf.get(at..).unwrap_or_default();
            let Some((b'$', len, header_bytes)) = short_header(line) else {
                break;
            };
            let start = at + header_bytes;
            let end = start + len;
            let ended = buf.get(end..end + 2) == Some(b"\r\n");
            if !ended || end + 2 > end_max || len > limits.bulk_bytes_max {
                break;
            }
            self.ranges.push(ArgRange { start: start as u32, end: end as u32 });
            at = end + 2;
            missing -= 1;
        }
        if at != self.at {
            self.searched = 0;
        }
        (self.at, self.missing) = (at, missing);
    }

    /// Takes one argument of any kind, in as many calls as its bytes take to arrive; returns how
    /// many are missing at least.
    fn take_argument(
        &mut self,
        buf: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        let len = match self.stage {
            Stage::Body { len } => len,
            _ => match self.bulk_header(buf, limits)? {
                Some(len) => len,
                None => return Ok(Some(1)),
            },
        };
        // `bulk_header` has checked that this stays below 4 GiB.
        let end = self.at + len;
        match buf.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::BulkEnd),
            None => {
                self.stage = Stage::Body { len };
                return Ok(Some(end + 2 - buf.len()));
            }
        }
        self.ranges.push(ArgRange { start: self.at as u32, end: end as u32 });
        self.at = end + 2;
        self.missing -= 1;
        self.stage = Stage::Header;
        Ok(None)
    }

    /// Reads `$<length>` and checks that the argument may be that long.
    fn bulk_header(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        match buf.get(self.at) {
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
            None => return Ok(None),
        }
        let Some(len) = self.header(buf, limits, &BULK)? else {
            return Ok(None);
        };
        let len = usize::try_from(len).map_err(|_| ProtocolError::BulkLength)?;
        if len > limits.bulk_bytes_max {
            return Err(if limits.unauthenticated {
                ProtocolError::UnauthenticatedBulkLength
            } else {
                ProtocolError::BulkLength
            });
        }
        let request_bytes_max = limits.request_bytes_max.min(u32::MAX as usize);
        if self.at.saturating_add(len).saturating_add(2) > request_bytes_max {
            return Err(ProtocolError::RequestTooLong);
        }
        Ok(Some(len))
    }

    /// Reads the number of the header line at `at` and steps over the line; `None` if it has not
    /// all arrived. The marker has been checked.
    #[inline]
    fn header(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        header: &Header,
    ) -> Result<Option<i64>, ProtocolError> {
        let line = buf.get(self.at..).unwrap_or_default();
        if let Some((_, number, bytes)) = short_header(line) {
            self.at += bytes;
            self.searched = 0;
            return Ok(Some(number as i64));
        }
        self.long_header(line, limits, header)
    }

    /// `header` for a line that is split, malformed, or has more than four digits.
    #[cold]
    fn long_header(
        &mut self,
        line: &[u8],
        limits: &Limits,
        header: &Header,
    ) -> Result<Option<i64>, ProtocolError> {
        let Some(cr) = self.find(b'\r', line, limits, header.too_long)? else {
            return Ok(None);
        };
        match line.get(cr + 1) {
            None => {
                self.searched = cr;
                return Ok(None);
            }
            Some(b'\n') => {}
            Some(_) => return Err(header.invalid),
        }
        let number = line.get(1..cr).and_then(parse_i64).ok_or(header.invalid)?;
        self.at += cr + 2;
        self.searched = 0;
        Ok(Some(number))
    }

    fn parse_inline(&mut self, buf: &[u8], limits: &Limits) -> Result<Parse, ProtocolError> {
        let Some(newline) = self.find(b'\n', buf, limits, ProtocolError::InlineTooLong)? else {
            return Ok(Parse::Incomplete { at_least: 1 });
        };
        let line = buf.get(..newline).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        inline::split(line, &mut self.scratch, &mut self.ranges)?;
        let consumed = newline + 1;
        if self.ranges.is_empty() {
            return Ok(Parse::Empty { consumed });
        }
        Ok(Parse::Complete { consumed })
    }

    /// Finds `end` in `line`, which must have it within its first `inline_bytes_max + 1` bytes.
    fn find(
        &mut self,
        end: u8,
        line: &[u8],
        limits: &Limits,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let window = line.len().min(limits.inline_bytes_max.saturating_add(1));
        let unsearched = line.get(self.searched..window).unwrap_or_default();
        if let Some(found) = memchr(end, unsearched) {
            return Ok(Some(self.searched + found));
        }
        if window > limits.inline_bytes_max {
            return Err(too_long);
        }
        self.searched = window;
        Ok(None)
    }
}

/// Marker, number and length of a whole header line of up to four digits. Nearly every header is
/// one, and the patterns compile to one bounds check each.
#[inline]
fn short_header(line: &[u8]) -> Option<(u8, usize, usize)> {
    const fn digit(byte: u8) -> usize {
        (byte - b'0') as usize
    }
    match *line {
        [marker, a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((marker, digit(a), 4)),
        [marker, a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((marker, digit(a) * 10 + digit(b), 5))
        }
        [marker, a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((marker, digit(a) * 100 + digit(b) * 10 + digit(c), 6))
        }
        [
            marker,
            a @ b'1'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            d @ b'0'..=b'9',
            b'\r',
            b'\n',
            ..,
        ] => Some((marker, digit(a) * 1000 + digit(b) * 100 + digit(c) * 10 + digit(d), 7)),
        _ => None,
    }
}

/// `count`, which is positive, if a client may send so many arguments.
fn checked_count(count: i64, limits: &Limits) -> Result<usize, ProtocolError> {
    match usize::try_from(count) {
        Ok(count) if count <= limits.args_max => Ok(count),
        _ if limits.unauthenticated => Err(ProtocolError::UnauthenticatedMultibulkLength),
        _ => Err(ProtocolError::MultibulkLength),
    }
}

#[cfg(test)]
mod tests;
