"""Bytes that are not quite the Redis protocol, and a judge of what comes back.

A corpus of malformed frames, each with what the server has to say to it; random requests over all
commands with random damage, from a seed; and `replies`, which reads RESP2 and RESP3 strictly.
"""

import re

PROTOCOL_ERROR = rb"-ERR Protocol error: "
MIB = 1 << 20

# (bytes, pattern of all that comes back, whether the server closes the connection). None: it waits.
CORPUS = [
    (b"*x\r\n", PROTOCOL_ERROR + rb"invalid multibulk length\r\n", True),
    (b"*1048577\r\n", PROTOCOL_ERROR + rb"invalid multibulk length\r\n", True),
    (b"*1000000000\r\n", PROTOCOL_ERROR + rb"invalid multibulk length\r\n", True),
    (b"*99999999999999999999999\r\n", PROTOCOL_ERROR + rb"invalid multibulk length\r\n", True),
    (b"*" + b"1" * (70 << 10), PROTOCOL_ERROR + rb"too big mbulk count string\r\n", True),
    (b"*1\r\n$x\r\n", PROTOCOL_ERROR + rb"invalid bulk length\r\n", True),
    (b"*1\r\n$-1\r\n", PROTOCOL_ERROR + rb"invalid bulk length\r\n", True),
    (b"*2\r\n$4\r\nECHO\r\n$-2147483648\r\n", PROTOCOL_ERROR + rb"invalid bulk length\r\n", True),
    (b"*2\r\n$4\r\nECHO\r\n$9223372036854775807\r\n", PROTOCOL_ERROR + rb"invalid bulk length\r\n", True),
    (b"*2\r\n$4\r\nECHO\r\n$18446744073709551616\r\n", PROTOCOL_ERROR + rb"invalid bulk length\r\n", True),
    (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (100 * MIB), PROTOCOL_ERROR + rb"invalid bulk length\r\n", True),
    (b"*1\r\n$" + b"0" * (70 << 10), PROTOCOL_ERROR + rb"too big bulk count string\r\n", True),
    (b"*1\r\n:4\r\nPING\r\n", PROTOCOL_ERROR + rb"expected '\$', got ':'\r\n", True),
    (b"*1\r\n\r\n", PROTOCOL_ERROR + rb"expected '\$', got '.{1,4}'\r\n", True),
    (b"*2\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", PROTOCOL_ERROR + rb"expected '\$', got '\*'\r\n", True),
    (b"*1\r\n$3\r\nPINGPONG\r\n", rb"-ERR [^\r\n]*\r\n", True),
    (b"*1\r\n$4\r\nPING\n\n", rb"-ERR [^\r\n]*\r\n", True),
    (b"a" * (70 << 10), PROTOCOL_ERROR + rb"too big inline request\r\n", True),
    (b'ECHO "never closed\r\n', PROTOCOL_ERROR + rb"unbalanced quotes in request\r\n", True),
    (b"ECHO 'a'b\r\n", PROTOCOL_ERROR + rb"unbalanced quotes in request\r\n", True),
    (b"\r\n\r\n\n\n   \r\nPING\r\n", rb"\+PONG\r\n", False),
    (b"*0\r\n*-1\r\n*0\r\n" * 10_000 + b"PING\r\n", rb"\+PONG\r\n", False),
    (b"\0\0\0\0\r\n", rb"-ERR unknown command [^\r\n]*\r\n", False),
    (bytes(range(14, 34)) + b"\r\n", rb"-ERR [^\r\n]*\r\n", None),
    (b"*1\r\n$0\r\n\r\n", rb"-ERR unknown command [^\r\n]*\r\n", False),
    (b"*1\r\n$11\r\na\r\nb\r\n+c\r\nd\r\n", rb"-ERR unknown command [^\r\n]*\r\n", False),
    (b"*2\r\n$6\r\nCLIENT\r\n$6\r\na\r\n+OK\r\n", rb"-ERR [^\r\n]*\r\n", False),
    (b"*1\r\n$65536\r\n" + b"x" * 65536 + b"\r\n", rb"-ERR unknown command [^\r\n]{0,300}\r\n", False),
    (b"*3\r\n$3\r\nSET\r\n$70000\r\n" + b"k" * 70000 + b"\r\n$1\r\nv\r\n", rb"-ERR [^\r\n]*\r\n", False),
    (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (60 * MIB), None, False),
    (b"*1048576\r\n", None, False),
    (b"*3\r\n$3\r\nSET\r\n$1\r\n", None, False),
    (b"$", None, False),
]

WORDS = [
    b"", b"0", b"1", b"-1", b"2", b"10", b"-9223372036854775808", b"9223372036854775807",
    b"18446744073709551615", b"3.5", b"-0", b"nan", b"inf", b"-inf", b"(1", b"[a", b"+", b"-", b"(inf",
    b"1e400", b"EX", b"PX", b"PXAT", b"EXAT", b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR", b"GET", b"KEEPTTL",
    b"PERSIST", b"COUNT", b"MATCH", b"*", b"[a-", b"\\", b"TYPE", b"string", b"WITHSCORES", b"LIMIT", b"REV",
    b"BYSCORE", b"BYLEX", b"LEFT", b"RIGHT", b"BEFORE", b"ENCODING", b"SETNAME", b"DOCS", b"INFO", b"3",
    b"a\r\nb", b"\0", b"\xff\xfe", b"x" * 300, b"{tag}k",
]
KEYS = [b"string", b"number", b"hash", b"list", b"set", b"zset", b"absent", b"{tag}", b"\0\xff"]
# What a stranger may not do to the other clients of this test, or what ends the conversation.
NOT_SENT = {"quit", "client", "config", "auth", "reset"}
HARMLESS = {b"client": [b"ID", b"GETNAME", b"SETNAME", b"LIST", b"INFO", b"NO-EVICT", b"x"],
            b"config": [b"GET", b"RESETSTAT", b"x"]}


def encode(words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def request(choice, commands):
    """A request that is about right; `commands` maps names to arities."""
    name = choice.choice(list(commands))
    arity = abs(commands[name])
    count = max(arity - 1 + choice.choice([0, 0, 0, 0, 1, 2, -1]), 0)
    if commands[name] < 0:
        count += choice.choice([0, 0, 1, 2, 3])
    words = [name.upper().encode() if choice.random() < 0.5 else name.encode()]
    for at in range(count):
        words.append(choice.choice(KEYS) if at == 0 or choice.random() < 0.2 else choice.choice(WORDS))
    if (allowed := HARMLESS.get(name.encode())) and len(words) > 1:
        words[1] = choice.choice(allowed)
    return words


def damaged(choice, frame):
    """The same bytes with one to three faults."""
    frame = bytearray(frame)
    for _ in range(choice.randrange(1, 4)):
        at = choice.randrange(len(frame) + 1)
        fault = choice.randrange(6)
        if fault == 0:
            del frame[at:at + choice.randrange(1, 8)]
        elif fault == 1:
            frame[at:at] = bytes(choice.randrange(256) for _ in range(choice.randrange(1, 8)))
        elif fault == 2 and at < len(frame):
            frame[at] ^= 1 << choice.randrange(8)
        elif fault == 3:
            frame[at:at] = frame[:choice.randrange(len(frame) + 1)]
        elif fault == 4:
            numbers = list(re.finditer(rb"[*$](\d+)", bytes(frame)))
            if numbers:
                start, end = choice.choice(numbers).span(1)
                frame[start:end] = choice.choice([b"", b"-1", b"0", b"7", b"65536", b"2147483648", b"01", b"+1", b"1 "])
        else:
            del frame[at:]
    return bytes(frame)


class Malformed(Exception):
    """The server sent what is not RESP."""


def replies(received):
    """Counts whole replies; the last one may have been cut short by the end of the connection."""
    at = count = 0
    while at < len(received):
        end = _reply(received, at, 0)
        if end is None:
            break
        at, count = end, count + 1
    return count


def _reply(received, at, depth):
    """Where the reply that begins at `at` ends; None if it is not all there."""
    if depth > 16:
        raise Malformed("a reply nested deeper than any command has reason to")
    end = received.find(b"\r\n", at)
    if end < 0:
        return None
    kind, rest = received[at:at + 1], received[at + 1:end]
    if kind in b"+-" and b"\n" not in rest and b"\r" not in rest:
        return end + 2
    patterns = {b":": rb"-?\d+", b"_": rb"", b"#": rb"[tf]", b"(": rb"-?\d+", b",": rb"-?(\d.*|inf)|nan",
                b"$": rb"-1|\d+", b"=": rb"\d+", b"*": rb"-1|\d+", b"~": rb"\d+", b"%": rb"\d+", b">": rb"\d+"}
    if kind not in patterns or not re.fullmatch(patterns[kind], rest):
        raise Malformed(f"not a reply: {received[max(at - 60, 0):at]!r} then {received[at:at + 80]!r}")
    if kind in b":_#(,":
        return end + 2
    length = int(rest)
    if kind in b"$=":
        body_end = end + 2 + max(length, 0)
        if length >= 0 and received[body_end:body_end + 2] not in (b"\r\n", b"\r", b""):
            raise Malformed(f"a bulk string without an end: {received[at:at + 80]!r}")
        whole = end + 2 if length < 0 else body_end + 2
        return whole if whole <= len(received) else None
    at = end + 2
    for _ in range(max(length, 0) * (2 if kind == b"%" else 1)):
        at = _reply(received, at, depth + 1)
        if at is None:
            return None
    return at
