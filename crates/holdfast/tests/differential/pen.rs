//! Writes random requests: few keys so that types collide, values at the edges, options in any
//! order and case, and now and then a request that is simply wrong.
//!
//! What it never writes, because the clock would decide: deadlines in the next 100 seconds. Nor
//! deadlines past the year 10,889, which Holdfast refuses (see [`crate::known`]).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{random::Random, request::Request};

/// Keys of any type.
const KEYS: [&[u8]; 6] = [b"k0", b"k1", b"k2", b"k3", b"k{4}", b"k5"];
/// Keys that keep their name out of the way.
const ODD_KEYS: [&[u8]; 3] = [b"", b"key with \r\n and \x00\xff", b"[k]*?\\"];

/// Texts around the border of what counts as an integer.
const INTEGERS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "-9",
    "100",
    "-0",
    "+1",
    "01",
    " 1",
    "1 ",
    "1.0",
    "1e3",
    "",
    "x",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
];

/// Texts around the border of what counts as a double.
const DOUBLES: [&str; 29] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "1.5",
    "-2.25",
    "0.1",
    "3.0",
    "1e3",
    "1E-5",
    "1e20",
    "12345678901234567",
    "9007199254740993",
    "0.30000000000000004",
    "1e-7",
    "1.7976931348623157e308",
    "5e-324",
    "inf",
    "-inf",
    "+inf",
    "Infinity",
    ".5",
    "5.",
    "+2",
    "nan",
    "1x",
    "",
    " 1",
];

/// How many of [`DOUBLES`] both servers take.
const DOUBLES_FINE: usize = 25;

/// The hand that writes the requests of one sequence.
pub struct Pen {
    pub random: Random,
    /// When the sequence was written: deadlines are set far from it.
    now_s: u64,
}

impl Pen {
    pub fn new(seed: u64) -> Pen {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("this is after 1970");
        Pen { random: Random::new(seed), now_s: now.as_secs() }
    }

    pub fn key(&mut self) -> Vec<u8> {
        let odd = self.random.chance(4);
        self.random.pick(if odd { &ODD_KEYS } else { &KEYS }).to_vec()
    }

    /// `least` keys or some more, with repetitions.
    pub fn keys(&mut self, least: usize) -> Vec<Vec<u8>> {
        let count = least + self.random.below(4);
        (0..count).map(|_| self.key()).collect()
    }

    /// A string value.
    pub fn value(&mut self) -> Vec<u8> {
        match self.random.below(12) {
            0..4 => self.random.pick(&INTEGERS).into(),
            4 => self.random.pick(&DOUBLES).into(),
            5 => vec![b'v'; self.random.pick(&[43, 44, 45, 64, 65])],
            6 => b"\x00\r\n$-1\r\n\xff".to_vec(),
            7 if self.random.chance(10) => {
                vec![
                    b'0' + self.random.below(10) as u8;
                    self.random.pick(&[16_383, 16_384, 40_000])
                ]
            }
            _ => format!("value{}", self.random.below(50)).into(),
        }
    }

    /// A hash field or a member of a set.
    pub fn member(&mut self) -> Vec<u8> {
        match self.random.below(16) {
            0 => b"".to_vec(),
            1 => b"m\x00\r\n\xfe".to_vec(),
            2 => vec![b'l'; self.random.pick(&[63, 64, 65, 300])],
            3 => self.random.pick(&INTEGERS).into(),
            _ => format!("m{}", self.random.below(12)).into(),
        }
    }

    pub fn members(&mut self, least: usize) -> Vec<Vec<u8>> {
        let count = least + self.random.below(4);
        (0..count).map(|_| self.member()).collect()
    }

    /// Enough members to leave every compact form: numbered, so that their order is mixed.
    pub fn many_members(&mut self) -> Vec<Vec<u8>> {
        let (first, count) = (self.random.below(700), 50 + self.random.below(450));
        (first..first + count).map(|n| format!("b{}", n * 7_919 % 1_009).into_bytes()).collect()
    }

    /// A text for where an integer is wanted: mostly a small one.
    pub fn integer(&mut self) -> String {
        match self.random.below(10) {
            0..6 => (self.random.below(23) as i64 - 6).to_string(),
            _ => self.random.pick(&INTEGERS).into(),
        }
    }

    /// An index or a rank, mostly near the ends of small collections.
    pub fn index(&mut self) -> String {
        match self.random.below(10) {
            0..7 => (self.random.below(15) as i64 - 7).to_string(),
            7 => (self.random.below(900) as i64 - 450).to_string(),
            _ => self.random.pick(&INTEGERS).into(),
        }
    }

    /// A text for where a double is wanted.
    pub fn double(&mut self) -> String {
        match self.random.below(10) {
            0..4 => (self.random.below(9) as i64 - 2).to_string(),
            4 => format!("{}", (self.random.below(2_000) as f64 - 1_000.0) / 64.0),
            5 => format!("{}", self.random.below(1_000_000) as f64 / 7.0),
            6..9 => self.random.pick(&DOUBLES[..DOUBLES_FINE]).into(),
            _ => self.random.pick(&DOUBLES).into(),
        }
    }

    pub fn pattern(&mut self) -> &'static [u8] {
        self.random.pick(&[
            b"*",
            b"k*",
            b"*1",
            b"k?",
            b"m?",
            b"[km][0-2]",
            b"[^k]*",
            b"?[3-1]",
            b"m1*",
            b"",
            b"[",
            b"k[0-",
            b"\\k*",
            b"*\\",
            b"k\\{4\\}",
            b"k**",
            b"[a-",
            b"b*[13579]",
            b"[\\]k]*",
            b"m[^]",
        ])
    }

    /// A name in a random mixture of cases.
    pub fn any_case(&mut self, name: &str) -> String {
        match self.random.below(4) {
            0 => name.to_ascii_uppercase(),
            1 => name
                .chars()
                .map(|c| if self.random.chance(50) { c.to_ascii_uppercase() } else { c })
                .collect(),
            _ => name.into(),
        }
    }

    /// What may stand behind EX, EXPIRE and the like; see the head of this file.
    pub fn lifetime(&mut self, unit_ms: u64, absolute: bool) -> String {
        let per_second = 1_000 / unit_ms;
        let now = if absolute { self.now_s * per_second } else { 0 };
        match self.random.below(16) {
            0 => "0".into(),
            1 => "-1".into(),
            2 => self.random.pick(&["x", "", "1.5", "9223372036854775808", " 5", "-0"]).into(),
            3 => i64::MIN.to_string(),
            4 if unit_ms == 1_000 => i64::MAX.to_string(),
            5 if absolute => (now - (1 + self.random.next() % 1_000) * per_second).to_string(),
            6 => format!("-{}", 1 + self.random.below(1_000)),
            // Far apart, so that the time between two requests never decides a comparison.
            _ => {
                let seconds = 100 + self.random.next() % 1_000_000_000;
                (now + seconds * per_second).to_string()
            }
        }
    }

    /// EX, PX, EXAT or PXAT with its number.
    pub fn expiry(&mut self) -> [String; 2] {
        let (name, unit_ms, absolute) = self.random.pick(&[
            ("ex", 1_000, false),
            ("px", 1, false),
            ("exat", 1_000, true),
            ("pxat", 1, true),
        ]);
        [self.any_case(name), self.lifetime(unit_ms, absolute)]
    }

    /// Makes a request wrong: a word too few or too many, or one that does not belong.
    pub fn spoil(&mut self, request: &mut Request) {
        let words = &mut request.words;
        match self.random.below(3) {
            0 if words.len() > 1 => {
                words.pop();
            }
            1 => words.push(self.random.pick(&INTEGERS).into()),
            _ => {
                let at = self.random.below(words.len());
                let word = words[at].clone();
                // What an error may repeat is text without a zero byte, see `known.rs`.
                let plain = !word.contains(&0) && word.is_ascii();
                words.push(if plain { word } else { b"x".to_vec() });
            }
        }
    }
}
