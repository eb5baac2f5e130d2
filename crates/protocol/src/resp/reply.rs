//! Encodes replies into a caller's buffer, in the protocol version that the client asked for.
//!
//! A writer is two words and allocates nothing itself; the buffer grows as any `Vec`. Each method
//! appends one whole RESP element, or the header of a collection whose elements the caller then
//! appends. What RESP2 lacks is written as Redis writes it for RESP2 clients. Nothing checks that
//! as many elements follow as a header announces.

use crate::number::write_double_17g;

/// The protocol version of one connection; HELLO changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// After `HELLO 3`: maps, sets, doubles, booleans, push messages.
    Resp3,
}

/// A collection whose header is still to be inserted, see [`ReplyWriter::defer`].
#[derive(Debug)]
#[must_use = "without its header the collection's elements stand alone"]
pub struct Deferred {
    at: usize,
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

/// Marker, sign, 19 digits, CR LF.
const HEADER_BYTES_MAX: usize = 23;

impl<'a> ReplyWriter<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The version in which replies are written.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Changes the version for the replies to come.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Bytes in the buffer, those before this writer's first reply included.
    #[expect(clippy::len_without_is_empty, reason = "a position, not the size of a collection")]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Takes back everything after position `to`, which `len` has returned.
    pub fn truncate(&mut self, to: usize) {
        self.out.truncate(to);
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status such as `PONG`; CR and LF become spaces.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', &[text.as_bytes()]);
    }

    /// An error, code word first (`ERR ...`); CR and LF become spaces.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', &[text.as_bytes()]);
    }

    /// An error put together from parts that may be a client's raw bytes.
    pub fn error_parts(&mut self, parts: &[&[u8]]) {
        self.line(b'-', parts);
    }

    /// A signed integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A binary-safe string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + HEADER_BYTES_MAX + 2);
        self.count(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A string that spells `value`, as a counter's GET returns it.
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// "No such value" where a string would be: `$-1`, or `_` in RESP3.
    #[inline]
    pub fn null(&mut self) {
        self.by_protocol(b"$-1\r\n", b"_\r\n");
    }

    /// "No such value" where an array would be: `*-1`, or `_` in RESP3.
    pub fn null_array(&mut self) {
        self.by_protocol(b"*-1\r\n", b"_\r\n");
    }

    /// The header of an array of `len` elements.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.count(b'*', len);
    }

    /// The header of a map of `pairs` keys each followed by its value.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.count(b'*', pairs * 2),
            Protocol::Resp3 => self.count(b'%', pairs),
        }
    }

    /// The header of a set of `len` elements.
    pub fn set(&mut self, len: usize) {
        self.count(self.marker(b'~'), len);
    }

    /// The header of an out-of-band message of `len` elements, its kind first.
    pub fn push(&mut self, len: usize) {
        self.count(self.marker(b'>'), len);
    }

    /// A double with 17 significant digits; in RESP2 a string.
    pub fn double(&mut self, value: f64) {
        if self.protocol == Protocol::Resp3 {
            self.out.push(b',');
            write_double_17g(self.out, value);
            return self.out.extend_from_slice(b"\r\n");
        }
        // Its length is known only when it is written, and has one digit or two.
        let at = self.out.len();
        write_double_17g(self.out, value);
        self.insert_header(at, b'$', self.out.len() - at);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A truth value; in RESP2 the integer 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match value {
            true => self.by_protocol(b":1\r\n", b"#t\r\n"),
            false => self.by_protocol(b":0\r\n", b"#f\r\n"),
        }
    }

    /// Text for people with its format (`txt`, `mkd`); in RESP2 a plain string.
    pub fn verbatim(&mut self, format: [u8; 3], text: &[u8]) {
        if self.protocol == Protocol::Resp2 {
            return self.bulk(text);
        }
        self.count(b'=', text.len() + 4);
        self.out.extend_from_slice(&format);
        self.out.push(b':');
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer of any size, given by its decimal digits; in RESP2 a string.
    pub fn big_number(&mut self, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.line(b'(', &[digits.as_bytes()]),
        }
    }

    /// Bytes that are encoded already, for this protocol version.
    #[inline]
    pub fn raw(&mut self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    /// Begins a collection of unknown length: append its elements, then call one of the
    /// `finish_` methods. Deferred collections nest; inner ones are finished first.
    pub fn defer(&mut self) -> Deferred {
        Deferred { at: self.out.len() }
    }

    /// Makes what was appended since `defer` an array of `len` elements. Moves those bytes once.
    pub fn finish_array(&mut self, deferred: Deferred, len: usize) {
        self.insert_header(deferred.at, b'*', len);
    }

    /// Makes what was appended since `defer` a map of `pairs` keys and values.
    pub fn finish_map(&mut self, deferred: Deferred, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.insert_header(deferred.at, b'*', pairs * 2),
            Protocol::Resp3 => self.insert_header(deferred.at, b'%', pairs),
        }
    }

    /// Makes what was appended since `defer` a set of `len` elements.
    pub fn finish_set(&mut self, deferred: Deferred, len: usize) {
        self.insert_header(deferred.at, self.marker(b'~'), len);
    }

    fn insert_header(&mut self, at: usize, marker: u8, len: usize) {
        let body_end = self.out.len();
        self.count(marker, len);
        let header_bytes = self.out.len() - body_end;
        // The header was appended; rotating puts it before the body.
        let moved = self.out.get_mut(at..).expect("not truncated below a deferred collection");
        moved.rotate_right(header_bytes);
    }

    /// `resp3`, or the array marker that stands for it in RESP2.
    fn marker(&self, resp3: u8) -> u8 {
        match self.protocol {
            Protocol::Resp2 => b'*',
            Protocol::Resp3 => resp3,
        }
    }

    #[inline]
    fn by_protocol(&mut self, resp2: &[u8], resp3: &[u8]) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => resp2,
            Protocol::Resp3 => resp3,
        });
    }

    fn line(&mut self, marker: u8, parts: &[&[u8]]) {
        self.out.push(marker);
        let start = self.out.len();
        for part in parts {
            self.out.extend_from_slice(part);
        }
        for byte in self.out.iter_mut().skip(start) {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn count(&mut self, marker: u8, count: usize) {
        // No buffer in memory is longer than i64::MAX.
        self.header(marker, count as i64);
    }

    /// `<marker><value>` CR LF; one append for the values up to 99 that most headers have.
    #[inline]
    fn header(&mut self, marker: u8, value: i64) {
        match value {
            0..10 => self.out.extend_from_slice(&[marker, b'0' + value as u8, b'\r', b'\n']),
            10..100 => {
                let value = value as u8;
                let (tens, ones) = (b'0' + value / 10, b'0' + value % 10);
                self.out.extend_from_slice(&[marker, tens, ones, b'\r', b'\n']);
            }
            _ => {
                self.out.push(marker);
                self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests;
