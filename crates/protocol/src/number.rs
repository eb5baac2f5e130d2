//! Numbers as Redis 7.0 reads and prints them, which clients and their tests compare exactly.
//!
//! Integers are strict: one spelling per value. Doubles print as C's `%.17g`, 17 significant
//! digits of the exact binary value, so that reading them back gives the same double. Hexadecimal
//! floats, which C's `strtod` takes, are refused. Nothing here allocates, `out` aside.

use std::io::Write;

/// Reads a signed 64-bit integer in its one spelling: no `+`, space, leading zero or `-0`.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = match digits {
        [b'0'] if !negative => 0,
        // 19 digits reach 10^19 - 1, which fits a u64.
        [b'1'..=b'9', ..] if digits.len() <= 19 => parse_digits(digits)?,
        _ => return None,
    };
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Sums up to 19 decimal digits.
#[inline]
fn parse_digits(digits: &[u8]) -> Option<u64> {
    let mut sum = 0_u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum * 10 + u64::from(digit);
    }
    Some(sum)
}

/// Reads a double from the whole of `text`, as Redis does for scores and increments.
///
/// Takes what `strtod` takes in decimal, `inf` and `infinity` included in any case; refuses the
/// empty text, spaces, `nan`, hexadecimal, and what overflows to infinity or underflows to zero.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let named = text.iter().any(|byte| matches!(byte, b'i' | b'I'));
    if value.is_nan() || (value.is_infinite() && !named) {
        return None;
    }
    let underflow = value == 0.0 && mantissa(text).any(|byte| matches!(byte, b'1'..=b'9'));
    (!underflow).then_some(value)
}

fn mantissa(text: &[u8]) -> impl Iterator<Item = &u8> {
    text.iter().take_while(|byte| !matches!(byte, b'e' | b'E'))
}

/// Appends `value` as C's `printf("%.17g")` prints it; `inf`, `-inf` and `nan` for the others.
pub fn write_double_17g(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let magnitude = value.abs();
    if magnitude.is_infinite() {
        return out.extend_from_slice(b"inf");
    }
    // Below 10^17 a whole number has at most 17 digits, and %.17g prints it as an integer.
    if magnitude < 1e17 && magnitude.trunc() == magnitude {
        return out.extend_from_slice(itoa::Buffer::new().format(magnitude as u64).as_bytes());
    }
    write_fraction(out, magnitude);
}

/// `%.17g` of a positive finite number that is not a whole number below 10^17, by way of its 17
/// digits and decimal exponent.
fn write_fraction(out: &mut Vec<u8>, magnitude: f64) {
    // "d.dddddddddddddddde-ddd": the standard library rounds the exact value half to even, as
    // the C library does.
    let mut text = [0_u8; 32];
    let mut rest = text.as_mut_slice();
    write!(rest, "{magnitude:.16e}").expect("24 bytes fit into 32");
    let used = 32 - rest.len();
    let text = text.get(..used).unwrap_or_default();

    let (digits, exponent) = split_scientific(text);
    let kept = digits.iter().rposition(|digit| *digit != b'0').map_or(1, |last| last + 1);
    let digits = digits.get(..kept).unwrap_or_default();
    match exponent {
        // %g: positional from 10^-4 up to the precision, scientific outside.
        -4..0 => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
            out.extend_from_slice(digits);
        }
        0..17 => write_positional(out, digits, exponent as usize + 1),
        _ => write_scientific(out, digits, exponent),
    }
}

/// Splits `d.dddddddddddddddde<exponent>` into its 17 digits and its exponent.
fn split_scientific(text: &[u8]) -> ([u8; 17], i32) {
    let mut digits = [b'0'; 17];
    let mut bytes = text.iter();
    let significant = bytes.by_ref().take_while(|byte| **byte != b'e').filter(|b| **b != b'.');
    for (digit, byte) in digits.iter_mut().zip(significant) {
        *digit = *byte;
    }
    let exponent = text.iter().position(|byte| *byte == b'e').map_or(0, |at| at + 1);
    let exponent = text.get(exponent..).and_then(parse_i64).unwrap_or_default();
    (digits, exponent as i32)
}

/// Writes `digits` with the point after the first `whole` places. There are more digits than
/// that: 17 tell any two doubles apart, so what is not a whole number does not print as one.
fn write_positional(out: &mut Vec<u8>, digits: &[u8], whole: usize) {
    let (whole, fraction) = digits.split_at_checked(whole).unwrap_or((digits, b""));
    out.extend_from_slice(whole);
    out.push(b'.');
    out.extend_from_slice(fraction);
}

/// Writes `d.ddde+XX`, with at least two digits of exponent, as C does.
fn write_scientific(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    if let Some((first, fraction)) = digits.split_first() {
        out.push(*first);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }
    out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
    if exponent.abs() < 10 {
        out.push(b'0');
    }
    out.extend_from_slice(itoa::Buffer::new().format(exponent.unsigned_abs()).as_bytes());
}

#[cfg(test)]
mod tests;
