"""Reads at a node that stands by: what it shows, how old that may be, and what a token promises."""

import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "crash"))
from crashlib import Client, ErrorReply, Server, binary, until  # noqa: E402
from logservers import LogServers  # noqa: E402
from redirects import expect, metrics_of_other, port_of_other  # noqa: E402

# How long a read may wait for its token: a node that follows looks every 50 ms.
WAITS_AT_MOST_S = 1.0


def read_after(owner, replica, *request):
    """Reads on the replica what the owner has by now; gives the reply and the seconds that it took."""
    token = owner.call("TOKEN")
    began = time.monotonic()
    replica.expect("READAFTER", token)
    reply = replica.call(*request)
    return reply, time.monotonic() - began


def says(client, reply, *request):
    """Asks, and expects this reply."""
    told = client.call(*request)
    expect(told == reply, f"{request}: {told!r} in place of {reply!r}")


def text(reply):
    return reply if isinstance(reply, (ErrorReply, int)) or reply is None else bytes(reply).decode()


def has_heard(replica):
    """Waits until the replica has heard of the owner: until then nothing is fresh."""
    until(lambda: "master_link_status:up" in text(replica.call("INFO", "replication")), "the replica hears the owner", 5, 0.05)


def own_writes_are_read(owner, replica, say):
    waits = []
    for number in range(100):
        owner.expect("SET", "x", str(number))
        reply, took = read_after(owner, replica, "GET", "x")
        expect(text(reply) == str(number), f"{reply!r} was read after {number} was written")
        waits.append(took)
    waits.sort()
    say(f"100 writes read behind their tokens: p50 {waits[49] * 1000:.0f} ms, worst {waits[-1] * 1000:.0f} ms")
    expect(waits[-1] < WAITS_AT_MOST_S, f"a read waited for {waits[-1]:.2f} s")


def every_kind_is_read(owner, replica):
    says(owner, 2, "HSET", "h", "f", "1", "g", "2")
    says(owner, 3, "RPUSH", "l", "a", "b", "c")
    says(owner, 2, "SADD", "s", "m", "n")
    says(owner, 2, "ZADD", "z", "1", "one", "2", "two")
    owner.expect("SET", "large", "y" * 300_000)
    read_after(owner, replica, "PING")
    for request in (("HGETALL", "h"), ("LRANGE", "l", "0", "-1"), ("ZRANGE", "z", "0", "-1", "WITHSCORES"), ("GET", "large"),
                    ("MGET", "x", "none"), ("DBSIZE",), ("EXISTS", "h", "l", "none"), ("TYPE", "z")):
        here, there = owner.call(*request), replica.call(*request)
        expect(here == there and not isinstance(there, ErrorReply), f"{request}: {here!r} and {there!r}")
    expect(sorted(replica.call("SMEMBERS", "s")) == sorted(owner.call("SMEMBERS", "s")), "SMEMBERS")
    expect(replica.call("SCAN", "0", "COUNT", "100") == owner.call("SCAN", "0", "COUNT", "100"), "SCAN")
    says(owner, 1, "HDEL", "h", "f")
    says(owner, 1, "ZREM", "z", "one")
    says(owner, b"a", "LPOP", "l")
    says(owner, 1, "DEL", "s")
    read_after(owner, replica, "PING")
    for request in (("HGETALL", "h"), ("LRANGE", "l", "0", "-1"), ("ZRANGE", "z", "0", "-1"), ("EXISTS", "s")):
        here, there = owner.call(*request), replica.call(*request)
        expect(here == there, f"{request}: {here!r} and {there!r}")


def only_reads_are_answered(owner, replica):
    for request in (("SET", "x", "1"), ("INCR", "n"), ("EXPIRE", "x", "5"), ("GETDEL", "x")):
        expect(str(replica.call(*request)).startswith("-MOVED "), f"{request} was answered by a replica")
    expect(str(replica.call("FLUSHALL")).startswith("-READONLY "), "FLUSHALL")
    replica.expect("MULTI")
    says(replica, "QUEUED", "GET", "x")
    says(replica, "QUEUED", "HLEN", "h")
    answers = replica.call("EXEC")
    expect(answers == [owner.call("GET", "x"), owner.call("HLEN", "h")], f"{answers!r}")
    replica.expect("MULTI")
    expect(str(replica.call("SET", "x", "1")).startswith("-MOVED "), "a write in a transaction")
    expect(str(replica.call("EXEC")).startswith("-EXECABORT"), "the transaction is off")
    replica.expect("READWRITE")
    expect(str(replica.call("GET", "x")).startswith("-MOVED "), "after READWRITE")


def tokens_are_checked(owner, replica):
    life, lsn = text(owner.call("TOKEN")).split(":")
    for token in ("", "x", f"{life}", f"{life}:", f"{life}:-1", f"{int(life, 16) ^ 1:016x}:{lsn}"):
        expect(isinstance(replica.call("READAFTER", token), ErrorReply), f"the token {token!r}")
    replica.expect("READAFTER", f"{life}:{int(lsn) + 1_000_000}")
    began = time.monotonic()
    reply = replica.call("GET", "x")
    expect(str(reply).startswith("-TRYAGAIN ") and 0.5 < time.monotonic() - began < 3, f"of the future: {reply!r}")
    says(replica, "RESET", "RESET")


def the_catalog_follows(owner, replica_port, replica):
    owner.expect("ACL", "SETUSER", "reader", "on", ">secret", "~a*", "+get", "+readonly", "+token")
    owner.expect("SET", "ax", "1")
    owner.expect("KEYSPACE", "CREATE", "extra")
    read_after(owner, replica, "PING")
    with Client(replica_port) as other:
        other.expect("AUTH", "reader", "secret")
        other.expect("READONLY")
        expect(text(other.call("GET", "ax")) == "1", "what the user may read")
        expect(str(other.call("GET", "x")).startswith("-NOPERM"), "and what not")
    says(owner, 1, "ACL", "DELUSER", "reader")
    read_after(owner, replica, "PING")
    with Client(replica_port) as other:
        expect(isinstance(other.call("AUTH", "reader", "secret"), ErrorReply), "the user is gone here too")


def backup_status(client):
    """What BACKUP STATUS tells of the last wish, once that has ended."""
    def told():
        return dict(zip(*[iter(text(reply) for reply in client.expect("BACKUP", "STATUS"))] * 2, strict=True))
    until(lambda: told()["state"] != "running", "the backup ends", 30, 0.05)
    return told()


def a_backup_is_taken_there(owner, replica, folder):
    """It holds what the replica had followed by then, and is restored like any other."""
    owner.expect("SET", "backed-up", "yes")
    token = owner.expect("TOKEN")
    replica.expect("READAFTER", token)
    replica.expect("BACKUP", "START", f"file://{folder}/backup")
    status = backup_status(replica)
    expect(status["state"] == "done" and int(status["lsn"]) >= int(text(token).split(":")[1]), f"{status}")
    node = Server(folder / "restored", folder / "restored.log")
    done = subprocess.run([binary(), "restore", "--from", f"file://{folder}/backup", "--data", node.data],
                          capture_output=True, text=True, timeout=60, check=False)
    expect(done.returncode == 0, done.stderr)
    with node.start().client() as client:
        expect(text(client.call("GET", "backed-up")) == "yes", "the restored node has it")
    node.terminate()


def a_replica_shows_records_whole_and_in_order(owner_node, port):
    """A writer counts `a`, then `b`, and both of a pair at once; a reader of the replica never sees `b` ahead of
    `a`, half a pair, or anything go back."""
    ended = threading.Event()

    def write():
        with owner_node.client() as client:
            while not ended.is_set():
                client.call("INCR", "a")
                client.call("INCR", "b")
                client.expect("MULTI")
                says(client, "QUEUED", "INCR", "pair:1")
                says(client, "QUEUED", "INCR", "pair:2")
                client.call("EXEC")
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    seen, last = 0, (0, 0)
    try:
        with Client(port) as replica:
            replica.expect("READONLY")
            end = time.monotonic() + 3
            while time.monotonic() < end:
                b, a = (int(replica.call("GET", name) or 0) for name in ("b", "a"))
                expect(a >= b, f"b is {b} and a is {a}")
                expect((b, a) >= last, f"{last} was read before {(b, a)}")
                seen += (b, a) != last
                last = (b, a)
                first, second = (int(value or 0) for value in replica.call("MGET", "pair:1", "pair:2"))
                expect(first == second, f"half a transaction: {first} and {second}")
    finally:
        ended.set()
        writer.join(20)
    expect(seen > 10, f"only {seen} states were seen: this checked nothing")
    return seen


def a_replica_answers_reads_that_may_be_old(folder, pair, say):
    """READONLY reads, tokens, order, and what happens when the replica becomes the owner."""
    with LogServers(folder, 1) as servers:
        owner_node, other = pair(folder, servers)
        port = port_of_other(owner_node)
        with owner_node.client() as owner, Client(port) as replica:
            has_heard(replica)
            owner.expect("SET", "x", "first")
            expect(str(replica.call("GET", "x")).startswith("-MOVED "), "not without READONLY")
            own_writes_are_read(owner, replica, say)
            every_kind_is_read(owner, replica)
            only_reads_are_answered(owner, replica)
            tokens_are_checked(owner, replica)
            the_catalog_follows(owner, port, replica)
            a_backup_is_taken_there(owner, replica, folder)
            states = a_replica_shows_records_whole_and_in_order(owner_node, port)
            say(f"{states} states read while they were written, each whole and none before an older one")
            owner.expect("SET", "gone", "1", "PX", "50")
            time.sleep(0.1)
            expect(read_after(owner, replica, "GET", "gone")[0] is None, "what is past its deadline")
            owner.expect("FLUSHALL")
            expect(read_after(owner, replica, "DBSIZE")[0] == 0, "an emptied keyspace")
            owner.expect("SET", "x", "last")
            info = text(read_after(owner, replica, "INFO", "replication")[0])
            expect("role:slave" in info and f"master_port:{owner_node.port}" in info and "master_link_status:up" in info, info)
            staleness = next(float(line.split()[1]) for line in metrics_of_other(owner_node).splitlines()
                             if line.startswith("holdfast_replica_staleness_seconds "))
            expect(0 < staleness < 2, f"staleness {staleness}")
            owner_node.kill()
            began = time.monotonic()
            expect(text(replica.call("GET", "x")) == "last", "reads go on without an owner")
            other.ready()
            took = time.monotonic() - began
            replica.expect("SET", "x", "mine")
            expect(text(replica.call("GET", "x")) == "mine", "the same connection, at the owner now")
            expect(replica.call("DBSIZE") == 1, "nothing else")
        complaints = other.complaints()
        expect(not complaints, f"the replica complained: {complaints[:3]}")
        say(f"reads went on for {took:.1f} s without an owner, then the replica was the owner")


def a_replica_that_hears_nothing_sends_reads_to_the_owner(folder, pair_with, say):
    """With a bound of zero seconds nothing is fresh enough."""
    with LogServers(folder, 1) as servers:
        owner, _ = pair_with(folder, servers, {"redis.replica_seconds_max": "0"})
        with Client(port_of_other(owner)) as replica:
            replica.expect("READONLY")
            reply = replica.call("GET", "x")
            expect(str(reply).startswith("-MOVED "), f"{reply!r}")
            expect(str(replica.call("DBSIZE")).startswith("-READONLY "), "what names no key")
            info = text(replica.call("INFO", "replication"))
            expect("master_link_status:down" in info, info)
        say("MOVED, and a link that is down")
