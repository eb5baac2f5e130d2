//! Glob patterns as KEYS, SCAN and CONFIG GET use them: `*`, `?`, `[a-c]`, `[^x]`, `\`.
//!
//! Not recursive: a star is tried again from one remembered place, so the cost is at most the
//! product of both lengths, whatever the pattern.

/// Whether the whole text matches.
pub(crate) fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // The last star seen and where its match would go on.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(_), Some(&byte)) => one(pattern, p, byte, ignore_case),
            _ => None,
        };
        if let Some(next) = step {
            p = next;
            t += 1;
        } else if let Some((after, from)) = star
            && from < text.len()
        {
            star = Some((after, from + 1));
            p = after;
            t = from + 1;
        } else {
            return false;
        }
    }
}

/// Matches one byte at pattern position `p`; gives the position after, if it fits.
fn one(pattern: &[u8], p: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() } else { b };
    let byte = fold(byte);
    match pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let (next, inside) = class(pattern, p + 1, byte, &fold);
            inside.then_some(next)
        }
        b'\\' => {
            let literal = pattern.get(p + 1).copied();
            let (literal, next) = literal.map_or((b'\\', p + 1), |literal| (literal, p + 2));
            (fold(literal) == byte).then_some(next)
        }
        literal => (fold(*literal) == byte).then_some(p + 1),
    }
}

/// Reads a class from after its bracket; an unclosed one ends with the pattern, as in Redis.
fn class(pattern: &[u8], start: usize, byte: u8, fold: &impl Fn(u8) -> u8) -> (usize, bool) {
    let negated = pattern.get(start) == Some(&b'^');
    let mut at = start + usize::from(negated);
    let mut inside = false;
    loop {
        match (pattern.get(at), pattern.get(at + 1), pattern.get(at + 2)) {
            (None, ..) => break,
            (Some(b']'), ..) => {
                at += 1;
                break;
            }
            (Some(b'\\'), Some(&literal), _) => {
                inside |= fold(literal) == byte;
                at += 2;
            }
            (Some(&low), Some(b'-'), Some(&high)) => {
                let (low, high) = (fold(low).min(fold(high)), fold(low).max(fold(high)));
                inside |= (low..=high).contains(&byte);
                at += 3;
            }
            (Some(&literal), ..) => {
                inside |= fold(literal) == byte;
                at += 1;
            }
        }
    }
    (at, inside != negated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hxllo", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("[", "[", false),
            ("", "x", false),
            ("key:*", "key:1", true),
        ] {
            let got = matches(pattern.as_bytes(), text.as_bytes(), false);
            assert_eq!(got, expected, "{pattern} on {text}");
        }
        assert!(matches(b"MAX*", b"maxmemory", true));
    }

    #[test]
    fn hostile_patterns_cost_at_most_the_product_of_the_lengths() {
        let pattern = b"*a".repeat(2_000);
        let text = b"a".repeat(1_000);
        assert!(!matches(&pattern, &text, false));
    }
}
