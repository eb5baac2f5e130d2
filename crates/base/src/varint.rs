//! Variable-length integers (LEB128, low seven bits first) and length-prefixed bytes.
//!
//! Decoders take the front off a slice and answer `None` at the first thing that does not fit;
//! they never panic and never allocate in proportion to a claimed length.

/// Appends `value` in 1 to 10 bytes.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value by zigzag: small magnitudes stay short.
#[inline]
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes an unsigned value off the front. `None` at the end of input or past 64 bits.
#[inline]
pub fn take_u64(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(input)?;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes a zigzag value off the front.
#[inline]
pub fn take_i64(input: &mut &[u8]) -> Option<i64> {
    let raw = take_u64(input)?;
    Some(((raw >> 1) as i64) ^ -((raw & 1) as i64))
}

/// Takes length-prefixed bytes off the front, borrowed from the input.
#[inline]
pub fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(input)?).ok()?;
    take_exact(input, len)
}

/// Takes exactly `len` bytes off the front.
#[inline]
pub fn take_exact<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(taken)
}

/// Takes one byte off the front.
#[inline]
pub fn take_u8(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

/// Takes a fixed-size array off the front, for `from_le_bytes` and the like.
#[inline]
pub fn take_array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(a: u64, b: i64, c: Vec<u8>) {
            let mut out = Vec::new();
            put_u64(&mut out, a);
            put_i64(&mut out, b);
            put_bytes(&mut out, &c);
            let mut input = out.as_slice();
            prop_assert_eq!(take_u64(&mut input), Some(a));
            prop_assert_eq!(take_i64(&mut input), Some(b));
            prop_assert_eq!(take_bytes(&mut input), Some(c.as_slice()));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn hostile_bytes_are_refused_without_panic(bytes: Vec<u8>) {
            let mut input = bytes.as_slice();
            while take_bytes(&mut input).is_some() {}
            let mut input = bytes.as_slice();
            while take_i64(&mut input).is_some() {}
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        let mut input: &[u8] = &[0xff; 10];
        assert_eq!(take_u64(&mut input), None);
    }
}
