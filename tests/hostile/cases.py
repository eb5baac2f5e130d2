"""The cases: each does its worst to a server and gives a sentence about it, or raises Violation."""

import re
import selectors
import socket
import ssl
import time

import frames
from crashlib import Client, ErrorReply, Violation, encode, until
from crowd import connect, connections, drain, push
from stage import CLIENTS_MAX, LOGIN_SECONDS_MAX, OUTPUT_BYTES_MAX, PASSWORD
from watching import resident, until_quiet

MIB = 1 << 20
ANSWER_SECONDS_MAX = 20
# How long silence has to last to count as waiting for more.
SILENCE_SECONDS = 0.15
RECEIVE_BYTES = 4096


def on(kind):
    """The case plays on a server of this kind; see stage.py."""
    def mark(case):
        case.kind = kind
        return case
    return mark


def malformed_frames_get_clear_errors(server, _):
    for sent, pattern, closes in frames.CORPUS:
        with connect(server.port) as plain:
            plain.sendall(sent)
            waits = SILENCE_SECONDS if pattern is None or not closes else ANSWER_SECONDS_MAX
            received = b""
            if pattern and not closes:
                received = plain.recv(1 << 16)
            more, closed = drain(plain, waits)
            received += more
        if not re.fullmatch(pattern or b"", received):
            raise Violation(f"{sent[:80]!r} was answered {received[:200]!r}")
        if closes is not None and closed != closes:
            raise Violation(f"{sent[:80]!r}: the connection was {'' if closed else 'not '}closed")
    return f"{len(frames.CORPUS)} frames"


def the_judge_of_replies_finds_what_is_wrong(_, __):
    wrong = [b"-ERR a\nb\r\n", b"-ERR unknown command 'a\r\nb'\r\n", b"+OK\r\nOK\r\n", b"$3\r\nabcd\r\n", b":x\r\n", b"*x\r\n",
             b"$-2\r\n", b"*1\r\n?\r\n", b"%1\r\n+a\r\n!\r\n", b"\r\n"]
    for received in wrong:
        try:
            frames.replies(received)
        except frames.Malformed:
            continue
        raise Violation(f"{received!r} was taken for replies")
    right = b"+OK\r\n-ERR x\r\n:-1\r\n$-1\r\n$0\r\n\r\n*-1\r\n*2\r\n+a\r\n*0\r\n%1\r\n+a\r\n_\r\n,1.5\r\n#t\r\n~1\r\n+a\r\n"
    if frames.replies(right) != 11 or frames.replies(b"+OK\r\n$5\r\nab") != 1:
        raise Violation("right replies were not counted")
    return f"{len(wrong)} wrong ones"


def damaged_requests_over_all_commands(server, choice):
    with Client(server.port) as client:
        table = {entry[0].decode(): entry[1] for entry in client.expect("COMMAND")}
        for words in (["SET", "string", "v"], ["SET", "number", "7"], ["HSET", "hash", "a", "1"],
                      ["RPUSH", "list", "a", "b"], ["SADD", "set", "a", "b"], ["ZADD", "zset", "1", "a"]):
            client.call(*words)
    commands = {name: arity for name, arity in table.items() if name not in frames.NOT_SENT - {"client", "config"}}
    answered = sent = 0
    unsent = set(commands)
    for number in range(600):
        batch = [frames.encode([b"HELLO", b"3"])] if number % 2 else []
        for _ in range(choice.randrange(1, 60)):
            words = frames.request(choice, commands)
            unsent.discard(words[0].decode().lower())
            frame = frames.encode(words)
            batch.append(frames.damaged(choice, frame) if choice.random() < 0.04 else frame)
        sent += len(batch)
        with connect(server.port) as plain:
            plain.sendall(b"".join(batch) + b"\r\n" + encode("ECHO", "the end"))
            received = converse(plain)
        try:
            answered += frames.replies(received)
        except frames.Malformed as error:
            raise Violation(f"batch {number}: {error}; sent {b''.join(batch)[:2000]!r}") from None
    if unsent or answered < sent / 4:
        raise Violation(f"the test is blind: never sent {unsent}; {answered} replies to {sent} requests")
    return f"{len(commands)} commands, {sent} requests, {answered} replies, all well-formed"


def converse(plain):
    """What comes back until the last word is echoed, the server closes, or it waits for more."""
    received, deadline = b"", time.monotonic() + ANSWER_SECONDS_MAX
    while b"$7\r\nthe end\r\n" not in received[-64:] and time.monotonic() < deadline:
        plain.settimeout(SILENCE_SECONDS)
        try:
            more = plain.recv(1 << 20)
        except TimeoutError:
            break
        except ConnectionError:
            break
        if not more:
            break
        received += more
    return received


def requests_that_arrive_byte_by_byte(server, _):
    wanted = 0
    with connect(server.port) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (encode("SET", "slow", "v" * 50) + encode("GET", "slow") + b"ECHO \"a b\"\r\n") * 10:
            plain.send(bytes([byte]))
            wanted += 1
        received = b""
        while received.count(b"$3\r\na b\r\n") < 10:
            received += plain.recv(1 << 16)
    if received != (b"+OK\r\n$50\r\n" + b"v" * 50 + b"\r\n$3\r\na b\r\n") * 10:
        raise Violation(f"wrong answers: {received[:200]!r}")
    return f"{wanted} pieces"


def inline_garbage(server, choice):
    for number in range(200):
        noise = bytes(choice.randrange(256) for _ in range(choice.randrange(1, 4000)))
        with connect(server.port) as plain:
            plain.sendall(noise.replace(b"*", b"+") + b"\r\n")
            try:
                frames.replies(converse(plain))
            except frames.Malformed as error:
                raise Violation(f"noise {number}: {error}; sent {noise!r}") from None
    return "200 pieces of noise"


def idle_connections(server, _):
    before = resident(server.process.pid, "VmRSS")
    with connections(server.port, 10_000) as idle:
        for plain in idle:
            plain.sendall(b"PING\r\n")
        for plain in idle:
            if plain.recv(100) != b"+PONG\r\n":
                raise Violation("an idle connection was not served")
        each = (resident(server.process.pid, "VmRSS") - before) / len(idle)
    if each > 16 << 10:
        raise Violation(f"{each:.0f} bytes of memory for an idle connection")
    with Client(server.port) as client:
        until(lambda: connected(client) < 10, "closed connections are forgotten")
    return f"10000 connections, {max(each, 0):.0f} bytes each"


def connected(client):
    return int(re.search(rb"connected_clients:(\d+)", client.expect("INFO", "clients"))[1])


def more_connections_than_allowed(server, _):
    """Every one too many gets the whole error, also if it has sent requests that nobody reads.

    Which ones are refused is open: each data thread accepts for itself, so the last to connect may well be let in.
    """
    # The witness has one.
    too_many = 30
    with connections(server.port, CLIENTS_MAX - 1 + too_many) as crowd:
        for plain in crowd[::2]:
            plain.sendall(encode("SET", "k", "x" * 5000))
        told = until(lambda: closed_ones(crowd, too_many), "those too many are closed")
    wrong = [what for what in told.values() if what != b"-ERR max number of clients reached\r\n"]
    # Two threads may look at the last free place at once.
    if wrong or not too_many - 2 <= len(told) <= too_many:
        raise Violation(f"{len(told)} of {too_many} were refused, told otherwise: {wrong[:5]}")
    return f"{CLIENTS_MAX} allowed, {len(told)} refused"


def closed_ones(crowd, enough):
    """What those heard that the server has closed; None while they are too few."""
    heard = {}
    with selectors.DefaultSelector() as ready:
        for plain in crowd:
            ready.register(plain, selectors.EVENT_READ)
        for key, _ in ready.select(1):
            # Whoever was let in has a reply and stays open.
            if key.fileobj.recv(4, socket.MSG_PEEK) not in (b"+OK\r",):
                heard[key.fileobj] = drain(key.fileobj, ANSWER_SECONDS_MAX)[0]
    return heard if len(heard) >= enough - 2 else None


def connections_that_come_and_go(server, _):
    for number in range(1500):
        with connect(server.port) as plain:
            if number % 3:
                plain.sendall(encode("SET", "gone", number) * (number % 50) + b"*3\r\n$3\r\nSE")
    with Client(server.port) as client:
        until(lambda: connected(client) < 10, "closed connections are forgotten")
    return "1500 connections, most with replies unread"


def readers_that_never_read(server, _):
    with Client(server.port) as client:
        client.expect("SET", "big", b"x" * (100 << 10))
    requests = encode("GET", "big") * 20_000
    with connections(server.port, 40, RECEIVE_BYTES) as deaf:
        taken = push(deaf, requests, patience_s=0.5)
        until_quiet(server.process.pid)
        peak = resident(server.process.pid, "VmHWM")
    owed_mb = sum(taken) / len(requests) * 20_000 * 0.1
    return f"40 connections, {peak // MIB} MiB resident while {owed_mb:.0f} MB of replies were asked for"


def readers_that_read_slowly(server, _):
    """They ask for far more than they take: what they are owed is bounded, and what arrives is right."""
    value = b"x" * (100 << 10)
    with Client(server.port) as client:
        client.expect("SET", "big", value)
    # A write before each, so that replies are held behind what is owed.
    reply = b"+OK\r\n$%d\r\n%s\r\n" % (len(value), value)
    with connections(server.port, 40, RECEIVE_BYTES) as slow:
        push(slow, (encode("SET", "small", "v") + encode("GET", "big")) * 20_000, patience_s=0.3)
        received, began_s = [b""] * len(slow), time.monotonic()
        # A few replies each, a little at a time, while the others of a connection's replies are owed.
        while min(map(len, received)) < 4 * len(reply) and time.monotonic() < began_s + 30:
            for at, plain in enumerate(slow):
                plain.setblocking(False)
                try:
                    received[at] += plain.recv(RECEIVE_BYTES)
                except OSError:
                    pass
            time.sleep(0.02)
    if min(map(len, received)) < len(reply):
        raise Violation("a slow reader got less than one reply in 30 s")
    for got in received:
        whole, begun = divmod(len(got), len(reply))
        if not got.startswith(reply * whole) or not reply.startswith(got[whole * len(reply):][:begun]):
            raise Violation("a slow reader got something else than what it asked for")
    return f"40 connections took {sum(map(len, received)) >> 10} KiB, a little at a time"


def clients_that_are_cut_off_and_never_read(server, _):
    """Closed in seconds for what is no request, although they are owed replies, take none and stay connected."""
    size, count = 100 << 10, 12
    with Client(server.port) as client:
        client.expect("SET", "large", b"x" * size)
        with connections(server.port, count, RECEIVE_BYTES) as deaf:
            # Less than keeps them from being read.
            push(deaf, encode("GET", "large") * 9 + b"*x\r\n")
            # Two behave.
            until(lambda: connected(client) == 2, "those that were cut off are closed", 10)
        client.expect("DEL", "large")
    return f"{count} were closed, owed {9 * size >> 10} KiB each"


def replies_that_find_no_memory(server, _):
    """Who asks while others hold what there is for replies gets an error, and the reply once they are gone.

    A reply larger than the kernel takes for them, so that it has to stay with the server.
    """
    size, count = 7 * MIB, 12
    header = b"$%d\r\n" % size
    with Client(server.port) as client:
        client.expect("SET", "large", b"x" * size)
        with connections(server.port, count, RECEIVE_BYTES) as deaf:
            push(deaf, encode("GET", "large"))
            began = []
            for plain in deaf:
                plain.settimeout(ANSWER_SECONDS_MAX)
                began.append(plain.recv(4, socket.MSG_PEEK))
            refused, given = began.count(b"-OOM"), began.count(header[:4])
            # Six fit into the share of connections (48 MiB); a few more may, with what the kernel took.
            if refused < 3 or refused + given != count:
                raise Violation(f"{given} were given and {refused} refused of {count}: {began}")
        until(lambda: client.call("GET", "large") == b"x" * size, "it is given again", 10)
        client.expect("DEL", "large")
    return f"{refused} of {count} were refused {size // MIB} MiB each"


def one_reply_above_the_bound_is_refused(server, _):
    with Client(server.port) as client:
        client.expect("SET", "big", b"x" * (100 << 10))
    count = OUTPUT_BYTES_MAX // (100 << 10) * 2
    return refused_or_cut(server, "MGET", *["big"] * count)


def a_reply_of_1_gb_by_mget(server, _):
    with Client(server.port) as client:
        client.expect("SET", "big", b"x" * (100 << 10))
    return refused_or_cut(server, "MGET", *["big"] * 10_000)


def a_reply_of_800_mb_by_srandmember(server, _):
    with Client(server.port) as client:
        client.expect("DEL", "small set")
        client.expect("SADD", "small set", "member-of-a-set")
    return refused_or_cut(server, "SRANDMEMBER", "small set", -40_000_000)


def refused_or_cut(server, *words):
    """One request whose reply no server should even compose."""
    with connect(server.port, RECEIVE_BYTES) as plain:
        plain.sendall(encode(*words))
        plain.settimeout(ANSWER_SECONDS_MAX)
        received = plain.recv(1000)
        if received.startswith(b"-"):
            return f"refused: {received.decode().strip()}"
        _, closed = drain(plain, ANSWER_SECONDS_MAX)
    if not closed:
        raise Violation(f"{words[0]}: neither refused nor cut")
    return "cut"


def bulks_that_never_come(server, _):
    header = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (60 * MIB)
    before = resident(server.process.pid, "VmRSS")
    with connections(server.port, 500) as crowd:
        push(crowd, header + b"x" * 1000)
        until_quiet(server.process.pid)
        grown = resident(server.process.pid, "VmRSS") - before
    if grown > 64 * MIB:
        raise Violation(f"{grown // MIB} MiB for lengths that were only claimed")
    return f"500 headers of 60 MiB, memory +{grown // MIB} MiB"


def bulks_that_never_end(server, _):
    header = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (30 * MIB)
    with connections(server.port, 20) as crowd:
        taken = push(crowd, header + b"x" * (20 * MIB), patience_s=1)
        until_quiet(server.process.pid)
    return f"20 connections with {sum(taken) // MIB} MiB of values begun"


def a_pipeline_of_100000_commands(server, _):
    count = 100_000
    requests = b"".join(encode("SET", f"p:{at % 1000}", at) for at in range(count))
    with Client(server.port) as client:
        client.send(requests)
        if any(client.read() != "OK" for _ in range(count)):
            raise Violation("not every SET of the pipeline was answered OK")
        client.send(b"".join(encode("GET", f"p:{at}") for at in range(1000)))
        wrong = [at for at in range(1000) if client.read() != b"%d" % (count - 1000 + at)]
        if wrong:
            raise Violation(f"{len(wrong)} keys do not hold what the pipeline wrote last")
    return f"{len(requests) // MIB} MiB sent before the first reply was read"


def transactions_with_huge_queues(server, _):
    count, at_once = 2_000_000, 10_000
    with Client(server.port) as client:
        client.expect("MULTI")
        for sent in range(at_once, count + 1, at_once):
            client.send(encode("PING") * at_once)
            for _ in range(at_once):
                reply = client.read()
                if isinstance(reply, ErrorReply):
                    return f"refused within the first {sent} commands: {reply}"
                if reply != "QUEUED":
                    raise Violation(f"PING in MULTI was answered {reply!r}")
        client.call("DISCARD")
    return f"{count} commands queued and discarded"


def transactions_larger_than_a_record(server, _):
    told = "cut off while queuing"
    with Client(server.port) as client:
        client.expect("DEL", "part:0")
    try:
        with Client(server.port) as client:
            client.expect("MULTI")
            for at in range(70):
                reply = client.call("SET", f"part:{at}", b"x" * MIB)
                if reply != "QUEUED" and not isinstance(reply, ErrorReply):
                    raise Violation(f"SET in MULTI was answered {reply!r}")
            reply = client.call("EXEC")
            if not isinstance(reply, ErrorReply):
                raise Violation("a transaction of 70 MiB was executed: the bound of a record is 64")
            told = f"refused: {reply}"
    except (OSError, EOFError):
        # The queue passed this client's part of the memory for connections first.
        pass
    with Client(server.port) as client:
        if client.expect("EXISTS", "part:0"):
            raise Violation("a refused transaction left a key")
    return told


@on("roomy")
def transactions_that_reach_the_bounds_of_a_record(server, _):
    """With room for the queue: more than 64 MiB queued, and more than 64 MiB of effects from few commands."""
    with Client(server.port) as client:
        client.expect("DEL", "part:0")
        client.expect("MULTI")
        for at in range(70):
            client.call("SET", f"part:{at}", b"x" * MIB)
        queued = client.call("EXEC")
        client.pipeline([["SET", f"grown:{at}", b"x" * 16_000] for at in range(5_000)])
        client.expect("MULTI")
        if any(reply != "QUEUED" for reply in client.pipeline([["APPEND", f"grown:{at}", "y"] for at in range(5_000)])):
            raise Violation("an APPEND was not queued")
        grown = client.call("EXEC")
        for what, reply in (("a queue of 70 MiB", queued), ("a record of 80 MB", grown)):
            if not isinstance(reply, ErrorReply):
                raise Violation(f"{what} was executed: {str(reply)[:100]}")
        if client.expect("EXISTS", "part:0") or client.expect("STRLEN", "grown:0") != 16_000:
            raise Violation("a refused transaction left something")
        client.expect("MULTI")
        for at in range(60):
            client.call("SET", f"part:{at}", b"x" * MIB)
        if client.call("EXEC") != ["OK"] * 60 or client.expect("STRLEN", "part:59") != MIB:
            raise Violation("a transaction of 60 MiB was not executed")
    return f"{queued}; {grown}; 60 MiB executed"


def watching_100000_keys(server, _):
    with Client(server.port) as client:
        told = "all watched"
        for start in range(0, 100_000, 10_000):
            reply = client.call("WATCH", *(f"w:{at}" for at in range(start, start + 10_000)))
            if isinstance(reply, ErrorReply):
                told = f"refused from {start} on: {reply}"
                client.expect("UNWATCH")
                client.expect("WATCH", "w:0")
                break
        client.expect("MULTI")
        client.expect("SET", "w:0", "1")
        if client.expect("EXEC") != ["OK"]:
            raise Violation("a transaction failed though nothing it watched had changed")
    return told


@on("guarded")
def strangers_are_held_to_small_limits(server, _):
    for sent, wanted in [
        (b"*11\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n"),
        (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n"),
        (b"a" * (20 << 10), b"-ERR Protocol error: too big inline request\r\n"),
    ]:
        with connect(server.port) as plain:
            plain.sendall(sent)
            received, closed = drain(plain, ANSWER_SECONDS_MAX)
        if received != wanted or not closed:
            raise Violation(f"{sent[:40]!r} was answered {received!r}, closed: {closed}")
    with Client(server.port) as client:
        for words in (["GET", "k"], ["SET", "k", "v"], ["MULTI"], ["INFO"], ["COMMAND"], ["FLUSHALL"], ["PING"]):
            reply = client.call(*words)
            if not isinstance(reply, ErrorReply) or reply.code != "NOAUTH":
                raise Violation(f"{words[0]} before AUTH was answered {reply!r}")
        if not isinstance(client.call("AUTH", "wrong"), ErrorReply):
            raise Violation("a wrong password was accepted")
        if client.call("AUTH", PASSWORD) != "OK" or client.call("PING") != "PONG":
            raise Violation("the right password was not accepted")
    return "refused, and let in with the password"


@on("guarded")
def floods_of_strangers(server, _):
    half_open = b"*10\r\n" + b"$16384\r\n%s\r\n" % (b"x" * 16384) * 9 + b"$16384\r\n" + b"x" * 16000
    with connections(server.port, 800) as crowd:
        taken = push(crowd, half_open, patience_s=0.5)
        with Client(server.port) as client:
            if client.call("AUTH", PASSWORD) != "OK":
                raise Violation("a client with the password was not let in")
            client.expect("SET", "k", "v")
    with connections(server.port, 50, RECEIVE_BYTES) as deaf:
        push(deaf, encode("GET", "k") * 50_000, patience_s=0.5)
        until_quiet(server.process.pid)
    return f"800 connections, {sum(taken) // MIB} MiB of requests begun; 50 that never read their refusals"


@on("guarded")
def strangers_that_take_their_time(server, _):
    """Slow loris: a byte now and then keeps nobody's place for longer than logging in may take."""
    began = time.monotonic()
    word = encode("AUTH", "x" * 200)
    with Client(server.port) as client, connections(server.port, 400) as crowd:
        client.expect("AUTH", PASSWORD)
        told, at = {}, 0
        while len(told) < len(crowd) and time.monotonic() - began < 4 * LOGIN_SECONDS_MAX + 5:
            for plain in crowd:
                if plain not in told:
                    try:
                        plain.send(word[at:at + 1])
                    except OSError:
                        told[plain] = drain(plain, 1)[0]
            with selectors.DefaultSelector() as ready:
                for plain in crowd:
                    if plain not in told:
                        ready.register(plain, selectors.EVENT_READ)
                for key, _ in ready.select(0.2):
                    told[key.fileobj] = drain(key.fileobj, ANSWER_SECONDS_MAX)[0]
            at += 1
        took = time.monotonic() - began
        wrong = [what for what in told.values() if what != b"-NOAUTH not logged in in time\r\n"]
        if len(told) < len(crowd) or wrong:
            raise Violation(f"{len(told)} of {len(crowd)} were closed within {took:.1f} s, told otherwise: {wrong[:5]}")
        if took < LOGIN_SECONDS_MAX or client.expect("PING") != "PONG":
            raise Violation("a logged-in client was cut off as well, or strangers too early")
    return f"400 closed within {took:.1f} s, each told why"


@on("tls")
def idle_connections_over_tls(server, _):
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    before = resident(server.process.pid, "VmRSS")
    idle = []
    try:
        for _ in range(1000):
            # One after the other: a handshake has its deadline from the connection's begin.
            idle.append(trusting.wrap_socket(connect(server.ports["redis-tls"])))
        for one in idle:
            one.sendall(encode("PING"))
        for one in idle:
            if one.recv(100) != b"+PONG\r\n":
                raise Violation("an idle connection was not served")
        each = (resident(server.process.pid, "VmRSS") - before) / len(idle)
    finally:
        for one in idle:
            one.close()
    if each > 32 << 10:
        raise Violation(f"{each:.0f} bytes of memory for an idle connection")
    return f"1000 connections, {max(each, 0):.0f} bytes each"


@on("tls")
def floods_of_strangers_over_tls(server, choice):
    """Begun hellos, endless messages and noise from 2000 sockets at once: bounded, and closed in time."""
    endless = b"".join(b"\x16\x03\x01\x40\x00" + (b"\x01\x00\xff\xff" if at == 0 else b"\0" * 4) + b"\0" * 16_380
                       for at in range(20))
    with connections(server.ports["redis-tls"], 2000) as crowd:
        taken = push(crowd[:1000], endless, patience_s=0.5)
        for plain in crowd[1000:]:
            noise = b"\x16\x03\x01" + bytes(choice.randrange(256) for _ in range(choice.randrange(200)))
            try:
                plain.sendall(noise)
            except OSError:
                pass
        with Client(server.port) as client:
            until(lambda: connected(client) < 10, "strangers are closed")
    return f"2000 connections, {sum(taken) // MIB} MiB of handshakes taken"


ALL = [
    malformed_frames_get_clear_errors, the_judge_of_replies_finds_what_is_wrong,
    damaged_requests_over_all_commands, requests_that_arrive_byte_by_byte,
    inline_garbage, idle_connections, more_connections_than_allowed, connections_that_come_and_go,
    readers_that_never_read, readers_that_read_slowly, clients_that_are_cut_off_and_never_read,
    replies_that_find_no_memory,
    one_reply_above_the_bound_is_refused, a_reply_of_1_gb_by_mget, a_reply_of_800_mb_by_srandmember,
    bulks_that_never_come, bulks_that_never_end, a_pipeline_of_100000_commands, transactions_with_huge_queues,
    transactions_larger_than_a_record, transactions_that_reach_the_bounds_of_a_record, watching_100000_keys,
    strangers_are_held_to_small_limits, strangers_that_take_their_time, floods_of_strangers,
    idle_connections_over_tls, floods_of_strangers_over_tls,
]
