//! Random text into every decoder of the server: configuration, glob patterns, rules of users.
//!
//! Run as ordinary tests these take the corpus beside this file and some random inputs (a failure
//! prints its seed); under `cargo bolero` the same targets are fuzzed by coverage.

use holdfast_base::catalog::{self, User};

use crate::{Config, SETTINGS, glob, users::modify};

/// Words that get random input past the first check.
const WORDS: [&str; 24] = [
    "on",
    "off",
    "nopass",
    "resetpass",
    "reset",
    "allkeys",
    "resetkeys",
    "allcommands",
    "+@all",
    "-@all",
    "+@read",
    "-@write",
    "+get",
    "-set",
    "+config|get",
    "~*",
    "~a:[0-9]*",
    "&*",
    "&news",
    ">secret",
    "<secret",
    "%R~x",
    "(+get)",
    "",
];

#[test]
fn any_text_is_a_configuration_or_refused() {
    bolero::check!(name = "config_toml").for_each(|input: &[u8]| {
        let keyed = input.split_first().map(|(pick, value)| {
            let setting = &SETTINGS[usize::from(*pick) % SETTINGS.len()];
            let value = toml::Value::String(String::from_utf8_lossy(value).into_owned());
            format!("{} = {value}\n", setting.key)
        });
        let texts = [String::from_utf8_lossy(input).into_owned(), keyed.unwrap_or_default()];
        for text in texts {
            let mut config = Config::default();
            match config.merge_toml(&text) {
                Ok(()) => {
                    let shown = config.to_toml();
                    let mut again = Config::default();
                    assert_eq!(again.merge_toml(&shown), Ok(()), "{shown}");
                    assert_eq!(again.to_toml(), shown);
                }
                Err(error) => assert!(!error.is_empty()),
            }
        }
    });
}

/// Matching by its definition, without the trick of the real one; exponential.
fn matches_slowly(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| matches_slowly(rest, &text[skip..])),
        Some(_) => {
            let Some((byte, text)) = text.split_first() else { return false };
            // What one step takes is the same for both; only stars differ.
            let taken = (1..=pattern.len())
                .find(|len| is_one_step(&pattern[..*len], pattern.len() == *len));
            let Some(len) = taken else { return false };
            glob::matches(&pattern[..len], &[*byte], false) && matches_slowly(&pattern[len..], text)
        }
    }
}

/// Whether these bytes of a pattern stand for exactly one byte of text.
fn is_one_step(step: &[u8], is_last: bool) -> bool {
    match step {
        [b'\\', _] => true,
        [b'\\'] => is_last,
        [b'[', inside @ ..] => is_last || closes(inside),
        _ => true,
    }
}

/// Whether a class ends with these bytes: at the first bracket that is neither quoted nor the end
/// of a range.
fn closes(inside: &[u8]) -> bool {
    let mut rest = inside.strip_prefix(b"^").unwrap_or(inside);
    loop {
        rest = match rest {
            [b']'] => return true,
            [] | [b']', ..] => return false,
            [b'\\', _, rest @ ..] => rest,
            [_, b'-', _, rest @ ..] => rest,
            [_, rest @ ..] => rest,
        };
    }
}

#[test]
fn any_pattern_matches_as_its_definition_says() {
    const ALPHABET: &[u8] = b"ab*?[]^-\\c";
    bolero::check!(name = "glob").for_each(|input: &[u8]| {
        let Some((len, bytes)) = input.split_first() else { return };
        let drawn: Vec<u8> =
            bytes.iter().map(|byte| ALPHABET[usize::from(byte % 10)]).take(16).collect();
        for bytes in [bytes, &drawn] {
            let (pattern, text) = bytes.split_at(usize::from(*len).min(bytes.len()));
            let quick = glob::matches(pattern, text, false);
            if bytes.len() <= 16 {
                assert_eq!(quick, matches_slowly(pattern, text), "{pattern:?} on {text:?}");
            }
            let _folded = glob::matches(pattern, text, true);
        }
    });
}

#[test]
fn any_modifiers_leave_a_user_that_can_be_stored() {
    bolero::check!(name = "user_modifiers").for_each(|input: &[u8]| {
        let mut user = User::default();
        let drawn = input.iter().map(|byte| WORDS[usize::from(byte % 24)].as_bytes());
        for modifier in input.split(|byte| *byte == b' ').chain(drawn) {
            let before = user.clone();
            if modify(&mut user, modifier).is_err() {
                assert_eq!(user, before, "refused, and yet it changed something");
            }
        }
        let Ok(stored) = catalog::encode(&user) else { return };
        assert_eq!(catalog::decode::<User>(&stored).ok(), Some(user));
    });
}
