//! Numbers against Redis' answers, and `%.17g` against another implementation of C's printf.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn printed(value: f64) -> String {
    let mut out = Vec::new();
    write_double_17g(&mut out, value);
    String::from_utf8(out).expect("digits are ASCII")
}

#[test]
fn integers_have_one_spelling() {
    let accepted = [
        ("0", 0),
        ("7", 7),
        ("-1", -1),
        ("1048576", 1_048_576),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ];
    for (text, value) in accepted {
        assert_eq!(parse_i64(text.as_bytes()), Some(value), "{text}");
    }
    let refused = [
        "",
        "-",
        "+1",
        "-0",
        "00",
        "01",
        "-01",
        " 1",
        "1 ",
        "1x",
        "x1",
        "--1",
        "1.0",
        "9223372036854775808",
        "-9223372036854775809",
        "9999999999999999999",
        "10000000000000000000",
        "18446744073709551616",
        "99999999999999999999999999999999",
    ];
    for text in refused {
        assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
    }
}

/// What ZADD of redis-server 7.0.15 accepts, hexadecimal apart.
#[test]
fn doubles_are_read_as_redis_reads_scores() {
    let accepted = [
        ("1", 1.0),
        ("+5", 5.0),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e+5", 1e5),
        ("1E-2", 0.01),
        ("0e-999", 0.0),
        ("-0", -0.0),
        ("4e-320", 4e-320),
        ("inf", f64::INFINITY),
        ("+inf", f64::INFINITY),
        ("-inf", f64::NEG_INFINITY),
        ("INFINITY", f64::INFINITY),
        ("-Infinity", f64::NEG_INFINITY),
    ];
    for (text, value) in accepted {
        let parsed = parse_f64(text.as_bytes());
        assert_eq!(parsed.map(f64::to_bits), Some(value.to_bits()), "{text}");
    }
    let refused = [
        "", ".", "+", "-", "1e", "e5", " 1", "1 ", "1_0", "1,5", "nan", "NaN", "-nan", "nan(1)",
        "infinit", "1e999", "-1e999", "1e-999", "0x10", "1\0", "++1", "١",
    ];
    for text in refused {
        assert_eq!(parse_f64(text.as_bytes()), None, "{text}");
    }
    assert_eq!(parse_f64(b"1\xff"), None);
}

#[test]
fn doubles_print_as_redis_prints_scores() {
    let cases = [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-3.0, "-3"),
        (0.1, "0.10000000000000001"),
        (0.5, "0.5"),
        (-2.5, "-2.5"),
        (100_000.0, "100000"),
        (1e16, "10000000000000000"),
        (99_999_999_999_999_984.0, "99999999999999984"),
        (1e17, "1e+17"),
        (12_345_678_901_234_567_890.0, "1.2345678901234567e+19"),
        (0.0001, "0.0001"),
        (1e-5, "1.0000000000000001e-05"),
        (4e-320, "3.999955468730732e-320"),
        (f64::MAX, "1.7976931348623157e+308"),
        (5e-324, "4.9406564584124654e-324"),
        // Halfway between two 17-digit numbers: to the even one.
        (987_654_312_098_761.0 / 8.0, "123456789012345.12"),
        (987_654_312_098_763.0 / 8.0, "123456789012345.38"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
        (f64::NAN, "nan"),
        (-f64::NAN, "nan"),
    ];
    for (value, text) in cases {
        assert_eq!(printed(value), text);
    }
}

/// Doubles of every kind: any bit pattern, short decimals, whole numbers, halfway cases.
fn sample(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = move || {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut values = Vec::new();
    while values.len() < count {
        let bits = next();
        let value = match bits % 4 {
            0 => f64::from_bits(next()),
            1 => (next() as i64 >> (bits >> 8 & 63)) as f64,
            2 => (next() >> 40) as f64 / 10_f64.powi((bits >> 8 & 31) as i32),
            _ => (next() >> 14) as f64 / 8.0,
        };
        if value.is_finite() {
            values.push(value);
        }
    }
    values
}

#[test]
fn random_doubles_print_as_percent_17g_does() {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    println!("seed {seed}");
    let values = sample(seed, 8000);
    let script = "import struct,sys\nfor line in sys.stdin: \
                  print('%.17g' % struct.unpack('>d', bytes.fromhex(line.strip()))[0])";
    let child = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: no python3 here to compare %.17g with");
        return;
    };
    let mut input = child.stdin.take().expect("it was piped");
    let lines: String = values.iter().map(|value| format!("{:016x}\n", value.to_bits())).collect();
    // From a second thread, so that neither pipe can fill while this process writes the other.
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("python3 runs");
    feeder.join().expect("the feeder does not panic").expect("python3 reads its input");
    let expected = String::from_utf8(output.stdout).expect("digits are ASCII");
    assert_eq!(expected.lines().count(), values.len(), "python3 failed: {}", output.status);
    for (value, expected) in values.iter().zip(expected.lines()) {
        assert_eq!(printed(*value), expected, "bits {:016x}, seed {seed}", value.to_bits());
    }
}

proptest! {
    #[test]
    fn printed_doubles_read_back_the_same(bits: u64) {
        let value = f64::from_bits(bits);
        prop_assume!(!value.is_nan());
        let read = parse_f64(printed(value).as_bytes());
        prop_assert_eq!(read.map(f64::to_bits), Some(bits));
    }

    #[test]
    fn integers_agree_with_the_standard_library(text in "-?[0-9]{1,20}") {
        let canonical = text.parse::<i64>().ok().filter(|value| value.to_string() == text);
        prop_assert_eq!(parse_i64(text.as_bytes()), canonical);
    }
}
