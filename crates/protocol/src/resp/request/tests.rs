//! Requests as text and what the parser makes of them, whole and split at every byte.
//!
//! The refusals' texts and the inline quoting cases were taken from redis-server 7.0.15.

use proptest::prelude::*;

use super::*;
use crate::resp::encode_command;

/// What a stream of requests turned into: each request's arguments, then how the stream ended.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    requests: Vec<Vec<Vec<u8>>>,
    left_over: usize,
    error: Option<ProtocolError>,
}

/// Feeds `stream` in pieces of the given lengths (the last repeats), moving the buffer each time.
fn feed(stream: &[u8], pieces: &[usize], limits: &Limits) -> Outcome {
    let mut parser = RequestParser::new();
    let mut requests = Vec::new();
    let mut buf: Vec<u8> = Vec::new();
    let mut arrived = 0;
    let mut pieces = pieces.iter();
    let mut piece = 1;
    loop {
        let consumed = match parser.parse(&buf, limits) {
            Err(error) => return Outcome { requests, left_over: buf.len(), error: Some(error) },
            Ok(Parse::Complete { consumed }) => {
                let args = parser.args(&buf);
                requests.push(args.iter().map(<[u8]>::to_vec).collect());
                consumed
            }
            Ok(Parse::Empty { consumed }) => consumed,
            Ok(Parse::Incomplete { at_least }) => {
                assert!(at_least > 0);
                if arrived == stream.len() {
                    return Outcome { requests, left_over: buf.len(), error: None };
                }
                piece = pieces.next().copied().unwrap_or(piece).max(1);
                let next = stream.len().min(arrived + piece);
                let mut moved = buf.clone();
                moved.extend_from_slice(&stream[arrived..next]);
                buf = moved;
                arrived = next;
                continue;
            }
        };
        assert!(0 < consumed && consumed <= buf.len());
        buf.drain(..consumed);
    }
}

/// `a,b;c` for requests, then `!text` for the refusal or `+n` for bytes left over.
fn outcome(stream: &[u8], limits: &Limits) -> String {
    let whole = feed(stream, &[stream.len()], limits);
    // Byte by byte, and in two pieces split within the first bytes, where the headers are.
    for pieces in (0..40).map(|split| [split, if split == 0 { 1 } else { stream.len() }]) {
        let split = feed(stream, &pieces, limits);
        let shown = stream.escape_ascii();
        assert_eq!((split.requests, split.error), (whole.requests.clone(), whole.error), "{shown}");
    }
    let mut text = Vec::new();
    for request in &whole.requests {
        let args: Vec<String> = request.iter().map(|arg| arg.escape_ascii().to_string()).collect();
        text.push(args.join(","));
    }
    match whole.error {
        Some(error) => text.push(format!("!{error}")),
        None if whole.left_over > 0 => text.push(format!("+{}", whole.left_over)),
        None => {}
    }
    text.join(";")
}

fn check(limits: &Limits, cases: &[(&[u8], &str)]) {
    for (stream, expected) in cases {
        assert_eq!(outcome(stream, limits), *expected, "{}", stream.escape_ascii());
    }
}

#[test]
fn multibulk_requests_are_read() {
    check(
        &Limits::default(),
        &[
            (b"*1\r\n$4\r\nPING\r\n", "PING"),
            (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n", "GET,k;PING"),
            (b"*2\r\n$0\r\n\r\n$2\r\n\r\n\r\n", ",\\r\\n"),
            (b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n", "PING"),
            (b"*3\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n$1\r\n", "+34"),
        ],
    );
}

#[test]
fn lengths_of_every_number_of_digits_are_read() {
    for len in [0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 99_999, 100_000] {
        let value = vec![b'v'; len];
        let mut stream = Vec::new();
        encode_command(&mut stream, &[b"SET", &value]);
        let read = feed(&stream, &[stream.len()], &Limits::default());
        assert_eq!(read.requests, [[b"SET".to_vec(), value]], "{len}");
    }
}

#[test]
fn malformed_multibulk_requests_are_refused_in_the_words_of_redis() {
    check(
        &Limits::default(),
        &[
            (b"*\r\n", "!Protocol error: invalid multibulk length"),
            (b"*1x\r\n", "!Protocol error: invalid multibulk length"),
            (b"*01\r\n", "!Protocol error: invalid multibulk length"),
            (b"*+1\r\n", "!Protocol error: invalid multibulk length"),
            (b"*-0\r\n", "!Protocol error: invalid multibulk length"),
            (b"*1048577\r\n", "!Protocol error: invalid multibulk length"),
            (b"*9223372036854775807\r\n", "!Protocol error: invalid multibulk length"),
            (b"*99999999999999999999\r\n", "!Protocol error: invalid multibulk length"),
            (b"*1\rx", "!Protocol error: invalid multibulk length"),
            (b"*1\r\nPING\r\n", "!Protocol error: expected '$', got 'P'"),
            (b"*1\r\n\xff", "!Protocol error: expected '$', got '\\xff'"),
            (b"*1\r\n\r\n", "!Protocol error: expected '$', got '\\r'"),
            (b"*1\r\n$-1\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$04\r\nPING\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$012\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$0123\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$00000\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$67108865\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$9223372036854775807\r\n", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$4\rx", "!Protocol error: invalid bulk length"),
            (b"*1\r\n$4\r\nPINGxx", "!Protocol error: expected CRLF after bulk string"),
            (b"*1\r\n$4\r\nPING\rx", "!Protocol error: expected CRLF after bulk string"),
        ],
    );
}

/// What has been searched of one header, which may have arrived in pieces, is not skipped in the
/// next: a bad header right behind a long one is seen at once.
#[test]
fn each_header_is_searched_from_its_start() {
    for len in [100, 1000, 10_000, 100_000] {
        let mut stream = format!("*2\r\n${len}\r\n").into_bytes();
        stream.resize(stream.len() + len, b'v');
        stream.extend(b"\r\n$\r\n");
        let refused = "!Protocol error: invalid bulk length";
        assert_eq!(outcome(&stream, &Limits::default()), refused, "{len}");
    }
}

#[test]
fn a_refused_request_leaves_no_arguments() {
    let mut parser = RequestParser::new();
    for buf in [b"*2\r\n$3\r\nGET\r\n$x\r\n".as_slice(), b"get key \"\r\n"] {
        assert!(parser.parse(buf, &Limits::default()).is_err());
        assert!(parser.args(buf).is_empty());
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_requests() {
    let mut parser = RequestParser::new();
    for _ in 0..1000 {
        for buf in [b"get some-key\r\n".as_slice(), b"*1\r\n$4\r\nPING\r\n"] {
            let parse = parser.parse(buf, &Limits::default());
            assert_eq!(parse, Ok(Parse::Complete { consumed: buf.len() }));
        }
    }
    assert!(parser.memory_bytes() <= 256, "{} bytes", parser.memory_bytes());
}

#[test]
fn header_lines_without_end_are_refused_at_the_limit() {
    let limits = Limits { inline_bytes_max: 64, ..Limits::default() };
    let cases = [
        ("*", "!Protocol error: too big mbulk count string"),
        ("*1\r\n$", "!Protocol error: too big bulk count string"),
        ("", "!Protocol error: too big inline request"),
    ];
    for (start, expected) in cases {
        let stream = [start.as_bytes(), &[b'1'; 65]].concat();
        assert_eq!(outcome(&stream, &limits), expected);
    }
    let longest = [&[b'a'; 64], b"\n".as_slice()].concat();
    assert_eq!(outcome(&longest, &limits), "a".repeat(64));
}

#[test]
fn a_client_that_has_not_authenticated_may_send_little() {
    check(
        &Limits::UNAUTHENTICATED,
        &[
            (b"*10\r\n", "+5"),
            (b"*11\r\n", "!Protocol error: unauthenticated multibulk length"),
            (b"*1x\r\n", "!Protocol error: invalid multibulk length"),
            (b"*1\r\n$16384\r\n", "+12"),
            (b"*1\r\n$16385\r\n", "!Protocol error: unauthenticated bulk length"),
            (b"*1\r\n$-5\r\n", "!Protocol error: invalid bulk length"),
        ],
    );
}

#[test]
fn a_short_argument_that_has_all_arrived_is_held_to_the_limit_too() {
    let limits = Limits { bulk_bytes_max: 3, ..Limits::default() };
    check(
        &limits,
        &[
            (b"*1\r\n$3\r\nGET\r\n", "GET"),
            (b"*1\r\n$4\r\nPING\r\n", "!Protocol error: invalid bulk length"),
        ],
    );
}

#[test]
fn a_request_of_many_small_arguments_is_bounded_as_a_whole() {
    let limits = Limits { request_bytes_max: 100, ..Limits::default() };
    let mut stream = Vec::new();
    encode_command(&mut stream, &[b"MSET", &[b'k'; 30], &[b'v'; 42]]);
    assert_eq!(stream.len(), 100);
    assert!(outcome(&stream, &limits).starts_with("MSET,"));
    stream.clear();
    encode_command(&mut stream, &[b"MSET", &[b'k'; 30], &[b'v'; 43]]);
    assert_eq!(outcome(&stream, &limits), "!Protocol error: too big request");
}

#[test]
fn inline_requests_follow_the_quoting_rules_of_redis() {
    check(
        &Limits::default(),
        &[
            (b"PING\r\n", "PING"),
            (b"\r\n\n  \r\nPING\n", "PING"),
            (b"PING \r \r\n", "PING"),
            (b"  set  k\tv  \n", "set,k,v"),
            (b"echo \"a b\\x41\\n\\q\\\"z\"\n", "echo,a bA\\nq\\\"z"),
            (b"echo \"\\r\\t\\b\\a\\\\\"\n", "echo,\\r\\t\\x08\\x07\\\\"),
            (b"echo \"\\xfF\\xZZ\\x4\"\n", "echo,\\xffxZZx4"),
            (b"echo 'a\\'b\\n'\n", "echo,a\\'b\\\\n"),
            (b"echo foo\"bar baz\"\n", "echo,foobar baz"),
            (b"echo \"\" ''\n", "echo,,"),
            (b"echo a\\nb\n", "echo,a\\\\nb"),
            (b"\x0becho a\x0bb\n", "echo,a\\x0bb"),
            (b"echo \"a\"\x0b\n", "echo,a"),
            (b"PING", "+4"),
            (b"echo \"foo\"bar\n", "!Protocol error: unbalanced quotes in request"),
            (b"echo 'ab'c\n", "!Protocol error: unbalanced quotes in request"),
            (b"echo \"foo\n", "!Protocol error: unbalanced quotes in request"),
            (b"echo \"abc\\\"\n", "!Protocol error: unbalanced quotes in request"),
            (b"echo 'x\\\n", "!Protocol error: unbalanced quotes in request"),
            (b"echo '\\\\'x\n", "!Protocol error: unbalanced quotes in request"),
            (b"\"\n", "!Protocol error: unbalanced quotes in request"),
        ],
    );
}

#[test]
fn inline_and_multibulk_requests_share_a_connection() {
    check(
        &Limits::default(),
        &[(b"*1\r\n$1\r\na\r\n\"b\\n\" c\r\n*1\r\n$1\r\nd\r\n", "a;b\\n,c;d")],
    );
}

#[test]
fn memory_follows_bytes_received_and_not_lengths_claimed() {
    let mut parser = RequestParser::new();
    let claim = b"*1048576\r\n$67108864\r\nabc";
    let parse = parser.parse(claim, &Limits::default()).expect("it is within the limits");
    assert_eq!(parse, Parse::Incomplete { at_least: 64 * 1024 * 1024 + 2 - 3 });
    assert_eq!(parser.memory_bytes(), 0);
}

#[test]
fn memory_of_a_large_request_is_given_back() {
    let mut parser = RequestParser::new();
    let many = vec![b"x".as_slice(); 100_000];
    let mut large = Vec::new();
    encode_command(&mut large, &many);
    let limits = Limits::default();
    assert!(matches!(parser.parse(&large, &limits), Ok(Parse::Complete { .. })));
    assert!(parser.memory_bytes() > 100_000 * 8);
    assert!(matches!(parser.parse(b"PING\r\n", &limits), Ok(Parse::Complete { .. })));
    assert!(parser.memory_bytes() <= RANGES_KEPT * 8 + SCRATCH_BYTES_KEPT);

    assert!(matches!(parser.parse(&large, &limits), Ok(Parse::Complete { .. })));
    parser.release();
    assert!(parser.memory_bytes() <= RANGES_KEPT * 8 + SCRATCH_BYTES_KEPT);
}

#[test]
fn a_header_that_arrives_byte_by_byte_is_searched_once() {
    // The steps forward of `searched` and `at` are the work done: they must never go back.
    let mut stream = b"*1\r\n$".to_vec();
    stream.extend([b'1'; 60_000]);
    let mut parser = RequestParser::new();
    let mut before = 0;
    for end in 1..=stream.len() {
        let parse = parser.parse(&stream[..end], &Limits::default());
        assert_eq!(parse, Ok(Parse::Incomplete { at_least: 1 }));
        let done = parser.at + parser.searched;
        assert!(done >= before && done + 2 >= end, "{done} of {end} bytes are settled");
        before = done;
    }
}

#[test]
fn args_are_viewed_without_copies() {
    let buf = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n";
    let mut parser = RequestParser::new();
    let parse = parser.parse(buf, &Limits::default());
    assert_eq!(parse, Ok(Parse::Complete { consumed: buf.len() }));
    let args = parser.args(buf);
    assert_eq!((args.len(), args.name(), args.get(3)), (3, b"SET".as_slice(), None));
    let value = args.get(2).expect("there are three");
    assert!(buf.as_ptr_range().contains(&value.as_ptr()));
    assert_eq!(args.from(1).iter().rev().collect::<Vec<_>>(), [b"value".as_slice(), b"k"]);
    assert!(args.from(4).is_empty() && args.from(4).name().is_empty());
    assert_eq!(format!("{args:?}"), r#"["SET", "k", "value"]"#);
    assert_eq!(Args::new(buf, parser.ranges()).get(1), Some(b"k".as_slice()));
}

fn requests() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let arg = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        prop::collection::vec(any::<u8>(), 95..130),
        Just(vec![b'x'; 1200]),
    ];
    prop::collection::vec(prop::collection::vec(arg, 1..6), 1..4)
}

fn encoded(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for request in requests {
        let args: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
        encode_command(&mut stream, &args);
    }
    stream
}

proptest! {
    #[test]
    fn encoded_commands_are_read_back(requests in requests(), pieces in prop::collection::vec(1_usize..40, 1..20)) {
        let stream = encoded(&requests);
        let read = feed(&stream, &pieces, &Limits::default());
        prop_assert_eq!(read, Outcome { requests, left_over: 0, error: None });
    }

    #[test]
    fn a_split_at_any_byte_changes_nothing(requests in requests()) {
        let stream = encoded(&requests);
        let whole = feed(&stream, &[stream.len()], &Limits::default());
        for split in 1..stream.len() {
            prop_assert_eq!(&feed(&stream, &[split, stream.len()], &Limits::default()), &whole);
        }
    }

    #[test]
    fn quoted_inline_arguments_are_read_back(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5)) {
        let quoted: Vec<String> = args.iter().map(|arg| {
            let hex: String = arg.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("\"{hex}\"")
        }).collect();
        let line = quoted.join(" ") + "\r\n";
        let read = feed(line.as_bytes(), &[3], &Limits::default());
        prop_assert_eq!(read, Outcome { requests: vec![args], left_over: 0, error: None });
    }
}
