//! Until when a certificate is valid: as much of X.509 as that takes (RFC 5280, section 4.1).
//!
//! rustls checks the validity of what others show, but does not tell that of its own certificate,
//! which an operator has to know before it ends. Anything unexpected gives `None`.

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] version`, which version 1 leaves out.
const VERSION: u8 = 0xa0;

/// Splits the first element off: tag, content, what follows (X.690, section 8.1).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits = usize::from(first & 0x7f);
        let (digits, rest) = rest.split_at_checked(digits).filter(|_| (1..=4).contains(&digits))?;
        (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

fn sequence(der: &[u8]) -> Option<&[u8]> {
    element(der).filter(|(tag, _, _)| *tag == SEQUENCE).map(|(_, content, _)| content)
}

/// The end of a certificate's validity in seconds since 1970.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let mut rest = sequence(sequence(certificate)?)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, _, after_begin) = element(sequence(rest)?)?;
    let (tag, time, _) = element(after_begin)?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(time.get(..2)?)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, time.get(2..)?)
        }
        GENERALIZED_TIME => (number(time.get(..4)?)?, time.get(4..)?),
        _ => return None,
    };
    if rest.len() != 11 || rest.last() != Some(&b'Z') {
        return None;
    }
    let field = |at: usize| number(rest.get(at..at + 2)?);
    let seconds = (field(4)? * 60 + field(6)?) * 60 + field(8)?;
    Some(days_since_1970(year, field(0)?, field(2)?)? * 86_400 + seconds)
}

fn number(digits: &[u8]) -> Option<i64> {
    let all = digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; months are counted from March on, so
/// that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    Some(days + (153 * month + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_since_1970() {
        assert_eq!(days_since_1970(1970, 1, 1), Some(0));
        assert_eq!(days_since_1970(2000, 2, 29), Some(11_016));
        assert_eq!(days_since_1970(2000, 3, 1), Some(11_017));
        assert_eq!(days_since_1970(2026, 11, 25), Some(20_782));
        assert_eq!(days_since_1970(2026, 13, 1), None);
    }

    #[test]
    fn the_end_of_a_certificate_is_read_and_no_part_of_one_is_taken_for_it()
    -> Result<(), rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        // Before 2050 the time has two digits of the year, from then on four.
        for (year, seconds) in [(2031, 1_940_025_600), (2061, 2_886_796_800)] {
            let mut params = rcgen::CertificateParams::new(["localhost".into()])?;
            params.not_after = rcgen::date_time_ymd(year, 6, 24);
            let certificate = params.self_signed(&key)?;
            let der = certificate.der();
            assert_eq!(not_after(der), Some(seconds));
            for end in 0..der.len() {
                assert!(not_after(&der[..end]).is_none(), "{end} bytes");
            }
            for bit in 0..der.len() * 8 {
                let mut damaged = der.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // Whatever it says: it does not panic.
                let _ = not_after(&damaged);
            }
        }
        Ok(())
    }
}
