//! Prints what the codec costs per request on one core: parsing, and writing the usual reply.
//!
//! Each figure is the best of several rounds, since anything above it is the machine's doing. The
//! receive buffer is warm, so this is the floor, not what a server with many connections sees.

use std::hint::black_box;
use std::time::Instant;

use holdfast_protocol::resp::{
    Limits, Parse, Protocol, ReplyWriter, RequestParser, encode_command, skip_reply,
};

const PIPELINED: usize = 32;
const BATCHES: usize = 500;
const ROUNDS: usize = 300;

fn main() {
    let mut gets = Vec::new();
    let mut sets = Vec::new();
    let mut replies = Vec::new();
    for number in 0..PIPELINED {
        let key = format!("key:{number:012}");
        encode_command(&mut gets, &[b"GET", key.as_bytes()]);
        encode_command(&mut sets, &[b"SET", key.as_bytes(), &[b'v'; 100]]);
        ReplyWriter::new(&mut replies, Protocol::Resp2).bulk(&[b'v'; 100]);
    }
    let mut out = Vec::new();
    report("parse GET key:<12 digits>", || parse_batch(&gets));
    report("parse SET of 100 bytes", || parse_batch(&sets));
    report("write bulk of 100 bytes", || write_batch(&mut out, |writer| writer.bulk(&[b'v'; 100])));
    report("write +OK", || write_batch(&mut out, |writer| writer.ok()));
    report("write double 0.1", || write_batch(&mut out, |writer| writer.double(black_box(0.1))));
    report("skip bulk of 100 bytes", || skip_batch(&replies));
}

/// Prints nanoseconds per request of the fastest round.
fn report(name: &str, mut batch: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        (0..BATCHES).for_each(|_| batch());
        let nanos = start.elapsed().as_nanos() as f64;
        best = best.min(nanos / (BATCHES * PIPELINED) as f64);
    }
    println!("{name:<28} {best:6.1} ns");
}

fn parse_batch(stream: &[u8]) {
    // A parser that has been used before, as a connection's is.
    thread_local! {
        static PARSER: std::cell::RefCell<RequestParser> = std::cell::RefCell::default();
    }
    PARSER.with_borrow_mut(|parser| {
        let limits = Limits::default();
        let mut rest = black_box(stream);
        while let Ok(Parse::Complete { consumed }) = parser.parse(rest, &limits) {
            let args = parser.args(rest);
            black_box((args.name(), args.get(1)));
            rest = rest.get(consumed..).unwrap_or_default();
        }
        assert!(rest.is_empty());
    });
}

fn write_batch(out: &mut Vec<u8>, write: impl Fn(&mut ReplyWriter<'_>)) {
    out.clear();
    for _ in 0..PIPELINED {
        write(&mut ReplyWriter::new(out, Protocol::Resp2));
    }
    black_box(out.as_slice());
}

fn skip_batch(stream: &[u8]) {
    let mut rest = black_box(stream);
    while let Ok(Some(bytes)) = skip_reply(rest) {
        rest = rest.get(bytes..).unwrap_or_default();
    }
    assert!(rest.is_empty());
}
