//! Each reply as its bytes, in both protocol versions.

use super::*;

fn written(protocol: Protocol, write: impl Fn(&mut ReplyWriter<'_>)) -> String {
    let mut out = Vec::new();
    write(&mut ReplyWriter::new(&mut out, protocol));
    out.escape_ascii().to_string()
}

/// One line of output per protocol; `resp3` empty means the same as RESP2.
fn check(write: impl Fn(&mut ReplyWriter<'_>), resp2: &str, resp3: &str) {
    assert_eq!(written(Protocol::Resp2, &write), resp2);
    assert_eq!(written(Protocol::Resp3, &write), if resp3.is_empty() { resp2 } else { resp3 });
}

#[test]
fn replies_common_to_both_versions() {
    check(|w| w.ok(), r"+OK\r\n", "");
    check(|w| w.simple("PONG"), r"+PONG\r\n", "");
    check(|w| w.integer(0), r":0\r\n", "");
    check(|w| w.integer(42), r":42\r\n", "");
    check(|w| w.integer(100), r":100\r\n", "");
    check(|w| w.integer(-1), r":-1\r\n", "");
    check(|w| w.integer(i64::MIN), r":-9223372036854775808\r\n", "");
    check(|w| w.bulk(b""), r"$0\r\n\r\n", "");
    check(|w| w.bulk(b"a\r\nb"), r"$4\r\na\r\nb\r\n", "");
    check(|w| w.bulk(&[b'x'; 10]), r"$10\r\nxxxxxxxxxx\r\n", "");
    check(|w| w.bulk_integer(-1234), r"$5\r\n-1234\r\n", "");
    check(|w| w.array(0), r"*0\r\n", "");
    check(|w| w.array(1_000_000), r"*1000000\r\n", "");
    check(|w| w.raw(b":1\r\n"), r":1\r\n", "");
}

#[test]
fn replies_that_differ_between_versions() {
    check(|w| w.null(), r"$-1\r\n", r"_\r\n");
    check(|w| w.null_array(), r"*-1\r\n", r"_\r\n");
    check(|w| w.map(2), r"*4\r\n", r"%2\r\n");
    check(|w| w.set(3), r"*3\r\n", r"~3\r\n");
    check(|w| w.push(3), r"*3\r\n", r">3\r\n");
    check(|w| w.boolean(true), r":1\r\n", r"#t\r\n");
    check(|w| w.boolean(false), r":0\r\n", r"#f\r\n");
    check(|w| w.double(0.1), r"$19\r\n0.10000000000000001\r\n", r",0.10000000000000001\r\n");
    check(|w| w.double(3.0), r"$1\r\n3\r\n", r",3\r\n");
    check(|w| w.double(f64::NEG_INFINITY), r"$4\r\n-inf\r\n", r",-inf\r\n");
    check(|w| w.verbatim(*b"txt", b"hi"), r"$2\r\nhi\r\n", r"=6\r\ntxt:hi\r\n");
    check(
        |w| w.big_number("12345678901234567890"),
        r"$20\r\n12345678901234567890\r\n",
        r"(12345678901234567890\r\n",
    );
}

#[test]
fn a_line_cannot_be_broken_by_what_it_quotes() {
    check(|w| w.error("ERR bad\r\n+OK"), r"-ERR bad  +OK\r\n", "");
    check(|w| w.simple("a\nb"), r"+a b\r\n", "");
    let name = b"x\r\n\xff";
    check(
        |w| w.error_parts(&[b"ERR unknown command '", name, b"'"]),
        r"-ERR unknown command \'x  \xff\'\r\n",
        "",
    );
}

#[test]
fn a_header_can_be_inserted_when_the_length_is_known() {
    check(
        |w| {
            w.integer(7);
            let outer = w.defer();
            w.bulk(b"k");
            let inner = w.defer();
            for member in [b"a", b"b"] {
                w.bulk(member);
            }
            w.finish_set(inner, 2);
            w.finish_map(outer, 1);
            let empty = w.defer();
            w.finish_array(empty, 0);
        },
        r":7\r\n*2\r\n$1\r\nk\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n*0\r\n",
        r":7\r\n%1\r\n$1\r\nk\r\n~2\r\n$1\r\na\r\n$1\r\nb\r\n*0\r\n",
    );
}

#[test]
fn a_half_written_reply_can_be_taken_back() {
    check(
        |w| {
            w.ok();
            let start = w.len();
            w.array(3);
            w.bulk(b"only one");
            w.truncate(start);
            w.error("ERR changed its mind");
        },
        r"+OK\r\n-ERR changed its mind\r\n",
        "",
    );
}

#[test]
fn the_version_can_change_between_replies() {
    let mut out = Vec::new();
    let mut writer = ReplyWriter::new(&mut out, Protocol::default());
    assert_eq!(writer.protocol(), Protocol::Resp2);
    writer.null();
    writer.set_protocol(Protocol::Resp3);
    writer.null();
    assert_eq!(out, b"$-1\r\n_\r\n");
}
