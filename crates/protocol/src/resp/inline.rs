//! Splits an inline request (what a person types into telnet) by Redis' quoting rules.
//!
//! Unquoted text ends at white space. In double quotes `\xHH \n \r \t \b \a` and `\` before any
//! other byte are escapes; in single quotes only `\'` is. A closing quote ends the argument and
//! must be followed by white space or the end of the line. Quotes may open inside an argument.
//! A NUL byte is data here, where Redis, being C, would stop.

use super::args::ArgRange;
use super::error::ProtocolError;

/// Appends the arguments of `line`, unescaped, to `scratch` and their places to `ranges`.
///
/// `scratch` never grows by more than `line.len()`, for unescaping only shrinks.
pub(super) fn split(
    mut line: &[u8],
    scratch: &mut Vec<u8>,
    ranges: &mut Vec<ArgRange>,
) -> Result<(), ProtocolError> {
    loop {
        let blank = line.iter().take_while(|byte| is_space(**byte)).count();
        line = line.get(blank..).unwrap_or_default();
        if line.is_empty() {
            return Ok(());
        }
        let start = offset(scratch)?;
        line = argument(line, scratch)?;
        ranges.push(ArgRange { start, end: offset(scratch)? });
    }
}

/// Unescapes one argument into `out` and returns what follows it.
fn argument<'a>(mut line: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    while let Some((&byte, rest)) = line.split_first() {
        match byte {
            b'"' => return after_quote(double_quoted(rest, out)?),
            b'\'' => return after_quote(single_quoted(rest, out)?),
            b' ' | b'\n' | b'\r' | b'\t' => return Ok(rest),
            plain => out.push(plain),
        }
        line = rest;
    }
    Ok(line)
}

fn double_quoted<'a>(mut line: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, rest) = match line {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', rest @ ..] => return Ok(rest),
            [b'\\', b'x', high, low, rest @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(*high) << 4 | hex_digit(*low), rest)
            }
            [b'\\', escaped, rest @ ..] => (unescaped(*escaped), rest),
            [plain, rest @ ..] => (*plain, rest),
        };
        out.push(byte);
        line = rest;
    }
}

fn single_quoted<'a>(mut line: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, rest) = match line {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', rest @ ..] => return Ok(rest),
            [b'\\', b'\'', rest @ ..] => (b'\'', rest),
            [plain, rest @ ..] => (*plain, rest),
        };
        out.push(byte);
        line = rest;
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

/// C's `isspace`, which unlike `is_ascii_whitespace` has the vertical tab.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn offset(scratch: &[u8]) -> Result<u32, ProtocolError> {
    u32::try_from(scratch.len()).map_err(|_| ProtocolError::RequestTooLong)
}
