//! Random and mutated bytes into both parsers: no panic, no over-reading, bounded memory, and the
//! same outcome however the bytes are split.
//!
//! Run as ordinary tests these take the corpus beside this file and some random inputs (a failure
//! prints its seed); under `cargo bolero` the same targets are fuzzed by coverage.

use holdfast_protocol::{
    number::{parse_f64, parse_i64, write_double_17g},
    resp::{Limits, Parse, ProtocolError, RequestParser, Value, parse_value, skip_reply},
};

const LIMITS: Limits = Limits {
    bulk_bytes_max: 4096,
    args_max: 64,
    inline_bytes_max: 256,
    request_bytes_max: 8192,
    unauthenticated: false,
};

/// What protocol texts are made of, so that random input gets past the first check.
const TOKENS: [&str; 32] = [
    "*1\r\n",
    "*2\r\n",
    "*3\r\n",
    "*0\r\n",
    "*-1\r\n",
    "*65\r\n",
    "$0\r\n\r\n",
    "$1\r\n",
    "$1\r\na\r\n",
    "$4\r\nPING\r\n",
    "$12\r\n",
    "$-1\r\n",
    "$4097\r\n",
    "%1\r\n",
    "~2\r\n",
    ">1\r\n",
    "|1\r\n",
    "+a\r\n",
    "-ERR\r\n",
    ":17\r\n",
    ",1.5\r\n",
    "#t\r\n",
    "_\r\n",
    "(99\r\n",
    "=6\r\ntxt:hi\r\n",
    "!1\r\nx\r\n",
    "\r\n",
    "\r",
    "\"a\\x41\" ",
    "'b'",
    "set k ",
    "1",
];

/// `input` itself if it begins with ASCII, as the corpus does, or else drawn from the tokens.
fn steered(input: &[u8]) -> Vec<u8> {
    match input.split_first() {
        Some((0x80.., rest)) => {
            rest.iter().flat_map(|byte| TOKENS[usize::from(byte % 32)].bytes()).collect()
        }
        _ => input.to_vec(),
    }
}

/// Runs a connection whose bytes arrive `piece` at a time; returns requests and the error.
fn connection(stream: &[u8], piece: usize) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let mut parser = RequestParser::new();
    let mut requests = Vec::new();
    let (mut start, mut arrived) = (0, 0);
    loop {
        let buf = &stream[start..arrived];
        match parser.parse(buf, &LIMITS) {
            Err(error) => return (requests, Some(error)),
            Ok(Parse::Complete { consumed }) => {
                assert!(0 < consumed && consumed <= buf.len());
                let args: Vec<Vec<u8>> = parser.args(buf).iter().map(<[u8]>::to_vec).collect();
                assert!(!args.is_empty());
                assert!(args.iter().map(Vec::len).sum::<usize>() < consumed);
                requests.push(args);
                start += consumed;
            }
            Ok(Parse::Empty { consumed }) => {
                assert!(0 < consumed && consumed <= buf.len());
                start += consumed;
            }
            Ok(Parse::Incomplete { at_least }) => {
                assert!(at_least > 0);
                if arrived == stream.len() {
                    return (requests, None);
                }
                arrived = stream.len().min(arrived + piece);
            }
        }
        // Eight bytes an argument, doubled by growth, and each argument takes two bytes at least.
        assert!(parser.memory_bytes() <= 128 + 16 * stream.len());
    }
}

/// Bytes that the values hold on the heap.
fn heap_bytes(value: &Value) -> usize {
    let many = |values: &[Value]| {
        values.iter().map(|value| size_of::<Value>() + heap_bytes(value)).sum::<usize>()
    };
    match value {
        Value::Array(values) | Value::Set(values) | Value::Push(values) => many(values),
        Value::Map(pairs) => {
            pairs.iter().map(|(k, v)| 2 * size_of::<Value>() + heap_bytes(k) + heap_bytes(v)).sum()
        }
        scalar => scalar.as_bytes().map_or(0, <[u8]>::len),
    }
}

fn read_request(input: &[u8]) {
    let stream = steered(input);
    let whole = connection(&stream, stream.len().max(1));
    for piece in [1, 2, 7, 64] {
        assert_eq!(connection(&stream, piece), whole, "{piece} bytes at a time");
    }
}

fn read_reply(input: &[u8]) {
    let stream = steered(input);
    let skipped = skip_reply(&stream);
    let parsed = parse_value(&stream);
    match (skipped, parsed) {
        (Ok(Some(bytes)), Ok(Some((value, consumed)))) => {
            assert!(bytes == consumed && 0 < bytes && bytes <= stream.len());
            assert!(heap_bytes(&value) <= bytes * size_of::<Value>());
            // It takes all of those bytes and no more.
            assert_eq!(skip_reply(&stream[..bytes]), Ok(Some(bytes)));
            assert_eq!(skip_reply(&stream[..bytes - 1]), Ok(None));
        }
        (Ok(None), Ok(None)) => {}
        (Err(skipped), Err(parsed)) => assert_eq!(skipped, parsed),
        (skipped, parsed) => panic!("skip says {skipped:?}, parse says {parsed:?}"),
    }
}

#[test]
fn any_bytes_are_requests_or_refused() {
    bolero::check!(name = "request").for_each(read_request);
}

#[test]
fn any_bytes_are_replies_or_refused() {
    bolero::check!(name = "reply").for_each(read_reply);
}

fn read_number(text: &[u8]) {
    if let Some(value) = parse_i64(text) {
        assert_eq!(value.to_string().as_bytes(), text, "one spelling for each value");
    }
    if let Some(value) = parse_f64(text) {
        let mut printed = Vec::new();
        write_double_17g(&mut printed, value);
        let again = parse_f64(&printed).map(f64::to_bits);
        assert_eq!(again, Some(value.to_bits()), "{value} prints as {printed:?}");
    }
}

/// Digits and signs, so that random input gets past the first byte.
fn numeric(input: &[u8]) -> Vec<u8> {
    input.iter().map(|byte| b"0123456789-+.eE"[usize::from(byte % 15)]).collect()
}

#[test]
fn any_text_is_a_number_or_refused() {
    bolero::check!(name = "number").for_each(|input: &[u8]| {
        read_number(input);
        read_number(&numeric(input));
    });
}
