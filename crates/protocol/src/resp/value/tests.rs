//! Replies as text and the values read from them; what the writer writes is read back.

use proptest::prelude::*;

use super::*;
use crate::resp::frame::DEPTH_MAX;
use crate::resp::{Protocol, ReplyWriter};

fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

#[test]
fn replies_of_every_type_are_read() {
    use Value::*;
    let cases: [(&[u8], Value); 26] = [
        (b"+OK\r\n", Simple(b"OK".into())),
        (b"-ERR no\r\n", Error(b"ERR no".into())),
        (b":-12\r\n", Integer(-12)),
        (b"$-1\r\n", Null),
        (b"*-1\r\n", Null),
        (b"_\r\n", Null),
        (b"$0\r\n\r\n", bulk("")),
        (b"$4\r\na\r\nb\r\n", bulk("a\r\nb")),
        (b"*0\r\n", Array(vec![])),
        (b"*2\r\n:1\r\n*1\r\n+x\r\n", Array(vec![Integer(1), Array(vec![Simple(b"x".into())])])),
        (b"%1\r\n+k\r\n:1\r\n", Map(vec![(Simple(b"k".into()), Integer(1))])),
        (b"~1\r\n#t\r\n", Set(vec![Boolean(true)])),
        (b"#f\r\n", Boolean(false)),
        (b">2\r\n+message\r\n$1\r\nx\r\n", Push(vec![Simple(b"message".into()), bulk("x")])),
        (b",1.5\r\n", Double(1.5)),
        (b",-inf\r\n", Double(f64::NEG_INFINITY)),
        (b",10\r\n", Double(10.0)),
        (b"(-123456789012345678901\r\n", BigNumber(b"-123456789012345678901".into())),
        (b"=6\r\ntxt:hi\r\n", Verbatim { format: *b"txt", text: b"hi".into() }),
        (b"!6\r\nERR\r\nx\r\n", BulkError(b"ERR\r\nx".into())),
        (b"|1\r\n+ttl\r\n:1\r\n:5\r\n", Integer(5)),
        (b"*2\r\n|1\r\n+a\r\n*1\r\n+b\r\n:1\r\n:2\r\n", Array(vec![Integer(1), Integer(2)])),
        (b"|0\r\n|0\r\n+x\r\n", Simple(b"x".into())),
        (b"~0\r\n", Set(vec![])),
        (b"%0\r\n", Map(vec![])),
        (b"+\r\n", Simple(vec![])),
    ];
    for (bytes, value) in cases {
        let shown = bytes.escape_ascii();
        assert_eq!(parse_value(bytes), Ok(Some((value, bytes.len()))), "{shown}");
        let followed = [bytes, b"+next\r\n"].concat();
        assert_eq!(skip_reply(&followed), Ok(Some(bytes.len())), "{shown}");
        for cut in 0..bytes.len() {
            assert_eq!(skip_reply(&bytes[..cut]), Ok(None), "{shown} cut at {cut}");
            assert_eq!(parse_value(&bytes[..cut]), Ok(None), "{shown} cut at {cut}");
        }
    }
    let nan = parse_value(b",nan\r\n");
    assert!(matches!(nan, Ok(Some((Double(value), 6))) if value.is_nan()));
}

#[test]
fn malformed_replies_are_refused() {
    use ProtocolError::*;
    let cases: [(&[u8], ProtocolError); 24] = [
        (b"x", ReplyType(b'x')),
        (b"\r\n", ReplyType(b'\r')),
        (b"*1\r\n?", ReplyType(b'?')),
        (b"+OK\rx", ReplyHeader),
        (b":\r\n", ReplyHeader),
        (b":1.5\r\n", ReplyHeader),
        (b"$-2\r\n", ReplyHeader),
        (b"$?\r\n", ReplyHeader),
        (b"$536870913\r\n", ReplyHeader),
        (b"$9223372036854775807\r\n", ReplyHeader),
        (b"$1\r\nabc", BulkEnd),
        (b"!-1\r\n", ReplyHeader),
        (b"=2\r\nab\r\n", ReplyHeader),
        (b"=5\r\ntxtab\r\n", ReplyHeader),
        (b"*-2\r\n", ReplyHeader),
        (b"*2147483648\r\n", ReplyHeader),
        (b"%1073741824\r\n", ReplyHeader),
        (b"%-1\r\n", ReplyHeader),
        (b"~9223372036854775807\r\n", ReplyHeader),
        (b"_x\r\n", ReplyHeader),
        (b"#x\r\n", ReplyHeader),
        (b",x\r\n", ReplyHeader),
        (b"(12a\r\n", ReplyHeader),
        (b"(\r\n", ReplyHeader),
    ];
    for (bytes, error) in cases {
        assert_eq!(skip_reply(bytes), Err(error), "{}", bytes.escape_ascii());
        assert_eq!(parse_value(bytes), Err(error), "{}", bytes.escape_ascii());
    }
}

#[test]
fn nesting_is_bounded() {
    let deepest = [b"*1\r\n".repeat(DEPTH_MAX), b":1\r\n".to_vec()].concat();
    assert_eq!(skip_reply(&deepest), Ok(Some(deepest.len())));
    assert!(matches!(parse_value(&deepest), Ok(Some(_))));
    let deeper = b"*1\r\n".repeat(1_000_000);
    assert_eq!(skip_reply(&deeper), Err(ProtocolError::ReplyTooDeep));
    assert_eq!(parse_value(&deeper), Err(ProtocolError::ReplyTooDeep));
}

#[test]
fn a_chain_of_attributes_is_read_over_without_depth() {
    let chain = [b"|0\r\n".repeat(100_000), b":1\r\n".to_vec()].concat();
    assert_eq!(parse_value(&chain), Ok(Some((Value::Integer(1), chain.len()))));
}

#[test]
fn a_claimed_length_reserves_nothing() {
    // Were memory reserved for these, this would be 2^31 values 64 times over.
    let claim = b"*2147483647\r\n".repeat(DEPTH_MAX);
    assert_eq!(parse_value(&claim), Ok(None));
}

#[test]
fn texts_and_errors_are_told_apart() {
    assert!(Value::Error(b"ERR".into()).is_error());
    assert!(Value::BulkError(b"ERR".into()).is_error());
    assert!(!bulk("ERR").is_error());
    assert_eq!(bulk("x").as_bytes(), Some(b"x".as_slice()));
    assert_eq!(Value::Integer(1).as_bytes(), None);
}

#[test]
fn commands_are_encoded_as_arrays_of_strings() {
    let mut out = Vec::new();
    encode_command(&mut out, &[b"SET", b"key", b""]);
    assert_eq!(out.escape_ascii().to_string(), r"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n");
}

/// Values that a server writes, collections at most three deep.
fn values() -> impl Strategy<Value = Value> {
    let line = "[ -~]{0,20}";
    let bytes = || prop::collection::vec(any::<u8>(), 0..120);
    let scalar = prop_oneof![
        Just(Value::Null),
        line.prop_map(|text| Value::Simple(text.into())),
        line.prop_map(|text| Value::Error(text.into())),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_filter("nan equals nothing", |x| !x.is_nan()).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        "-?[1-9][0-9]{0,40}".prop_map(|digits| Value::BigNumber(digits.into())),
        bytes().prop_map(Value::Bulk),
        bytes().prop_map(|text| Value::Verbatim { format: *b"mkd", text }),
    ];
    scalar.prop_recursive(3, 60, 12, |inner| {
        let many = || prop::collection::vec(inner.clone(), 0..12);
        prop_oneof![
            many().prop_map(Value::Array),
            many().prop_map(Value::Set),
            many().prop_map(Value::Push),
            prop::collection::vec((inner.clone(), inner.clone()), 0..6).prop_map(Value::Map),
        ]
    })
}

/// Writes `value`; sets and maps by the deferred way, so that both ways are read back.
fn write(writer: &mut ReplyWriter<'_>, value: &Value) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the strategy makes ASCII");
    match value {
        Value::Null => writer.null(),
        Value::Simple(line) => writer.simple(&text(line)),
        Value::Error(line) => writer.error(&text(line)),
        Value::Integer(value) => writer.integer(*value),
        Value::Double(value) => writer.double(*value),
        Value::Boolean(value) => writer.boolean(*value),
        Value::BigNumber(digits) => writer.big_number(&text(digits)),
        Value::Bulk(bytes) | Value::BulkError(bytes) => writer.bulk(bytes),
        Value::Verbatim { format, text } => writer.verbatim(*format, text),
        Value::Array(values) => {
            writer.array(values.len());
            values.iter().for_each(|value| write(writer, value));
        }
        Value::Push(values) => {
            writer.push(values.len());
            values.iter().for_each(|value| write(writer, value));
        }
        Value::Set(values) => {
            let set = writer.defer();
            values.iter().for_each(|value| write(writer, value));
            writer.finish_set(set, values.len());
        }
        Value::Map(pairs) => {
            let map = writer.defer();
            for (key, value) in pairs {
                write(writer, key);
                write(writer, value);
            }
            writer.finish_map(map, pairs.len());
        }
    }
}

/// What a RESP2 client sees of `value`.
fn as_resp2(value: &Value) -> Value {
    let many = |values: &[Value]| Value::Array(values.iter().map(as_resp2).collect());
    match value {
        Value::Double(value) => {
            let mut text = Vec::new();
            crate::number::write_double_17g(&mut text, *value);
            Value::Bulk(text)
        }
        Value::Boolean(value) => Value::Integer(i64::from(*value)),
        Value::BigNumber(digits) => Value::Bulk(digits.clone()),
        Value::Verbatim { text, .. } => Value::Bulk(text.clone()),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => many(values),
        Value::Map(pairs) => {
            let flat = pairs.iter().flat_map(|(key, value)| [as_resp2(key), as_resp2(value)]);
            Value::Array(flat.collect())
        }
        same => same.clone(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in values()) {
        for (protocol, expected) in [(Protocol::Resp3, value.clone()), (Protocol::Resp2, as_resp2(&value))] {
            let mut out = Vec::new();
            write(&mut ReplyWriter::new(&mut out, protocol), &value);
            prop_assert_eq!(skip_reply(&out), Ok(Some(out.len())));
            prop_assert_eq!(parse_value(&out), Ok(Some((expected, out.len()))));
            for cut in 0..out.len() {
                prop_assert_eq!(skip_reply(&out[..cut]), Ok(None));
            }
        }
    }
}
