"""redis-py does real work against Holdfast: what an application calls, with assertions.

Prints every failure with its trace and, last, `N passed, M failed`; exits 1 if one failed.
"""

import asyncio
import sys
import threading
import traceback

import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, LockError, ResponseError, WatchError
from redis.retry import Retry

from server import Server

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def both_protocols(function):
    """The check runs over RESP2 and RESP3; it gets the server and a client."""

    def make(protocol):
        def run(server):
            with client(server, protocol=protocol) as connected:
                connected.flushall()
                function(server, connected)

        run.__name__ = f"{function.__name__}_resp{protocol}"
        return run

    CHECKS.extend([make(2), make(3)])
    return function


def client(server, **options):
    options.setdefault("socket_timeout", 30)
    options.setdefault("port", server.port)
    return redis.Redis(host="127.0.0.1", **options)


def refused(call, text):
    try:
        call()
    except ResponseError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"was not refused: {text}")


@both_protocols
def strings_and_every_option_of_set(server, r):
    assert r.set("k", "v") is True
    assert r.get("k") == b"v"
    assert r.set("k", "w", nx=True) is None
    assert r.set("k", "w", xx=True, get=True) == b"v"
    assert r.set("k", "x", ex=100) is True and 95 <= r.ttl("k") <= 100
    assert r.set("k", "y", keepttl=True) is True and r.ttl("k") > 0
    assert r.set("k", "z", px=50_000) is True and 45_000 < r.pttl("k") <= 50_000
    assert r.set("k", "z", exat=4_000_000_000) is True and r.expiretime("k") == 4_000_000_000
    assert r.set("k", "z", pxat=4_000_000_000_123) is True
    assert r.pexpiretime("k") == 4_000_000_000_123
    assert r.getex("k", persist=True) == b"z" and r.ttl("k") == -1
    assert r.getdel("k") == b"z" and r.get("k") is None
    assert r.mset({"a": 1, "b": b"\x00\xff"}) is True
    assert r.mget("a", "b", "none") == [b"1", b"\x00\xff", None]
    assert r.incrby("a", 41) == 42 and r.decr("a") == 41
    assert r.append("b", "!") == 3 and r.strlen("b") == 3
    large = bytes(range(256)) * 8_192
    r.set("large", large)
    assert r.get("large") == large
    refused(lambda: r.incr("b"), "value is not an integer or out of range")
    refused(lambda: r.lpush("a", 1), "WRONGTYPE")


@both_protocols
def hashes_lists_sets_and_sorted_sets(server, r):
    assert r.hset("h", mapping={"name": "ada", "n": 1}) == 2
    assert r.hgetall("h") == {b"name": b"ada", b"n": b"1"}
    assert r.hincrby("h", "n", 9) == 10 and r.hmget("h", "n", "none") == [b"10", None]
    assert r.hdel("h", "n") == 1 and r.hexists("h", "n") is False and r.hlen("h") == 1
    assert r.rpush("l", *range(10)) == 10 and r.lpush("l", "first") == 11
    assert r.lrange("l", 0, 2) == [b"first", b"0", b"1"]
    assert r.lpop("l") == b"first" and r.rpop("l", 2) == [b"9", b"8"]
    assert r.ltrim("l", 1, 3) is True and r.llen("l") == 3 and r.lindex("l", -1) == b"3"
    assert r.sadd("s", "a", "b", "c") == 3 and r.smembers("s") == {b"a", b"b", b"c"}
    assert r.srem("s", "a", "none") == 1 and not r.sismember("s", "a") and r.scard("s") == 2
    assert r.spop("s") in {b"b", b"c"}
    assert r.zadd("z", {"one": 1, "two": 2, "half": 0.5}) == 3
    assert r.zadd("z", {"one": 5, "new": 1}, nx=True) == 1
    assert r.zincrby("z", 0.25, "half") == 0.75 and r.zscore("z", "half") == 0.75
    flat = [tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)]
    assert flat == [(b"half", 0.75), (b"new", 1.0), (b"one", 1.0), (b"two", 2.0)], flat
    assert r.zrange("z", 0, 1, desc=True) == [b"two", b"one"]
    assert r.zrangebyscore("z", "-inf", "(1") == [b"half"]
    assert r.zrank("z", "two") == 3 and r.zcount("z", 1, 2) == 3 and r.zcard("z") == 4
    assert r.zremrangebyscore("z", 1, 1) == 2
    assert r.type("z") == b"zset" and r.exists("h", "l", "none") == 2
    assert r.delete("h", "l", "s", "z") >= 3


@both_protocols
def scan_iter_finds_every_key_once_written(server, r):
    keys = {f"user:{n}".encode() for n in range(2_000)}
    with r.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.set(key, 1)
        pipe.set("other", 1)
        pipe.rpush("user:list", 1)
        assert len(pipe.execute()) == 2_002
    assert set(r.scan_iter(match="user:*", count=100, _type="string")) == keys
    assert set(r.scan_iter(_type="list")) == {b"user:list"}
    assert r.dbsize() == 2_002
    r.hset("h", mapping={f"f{n}": n for n in range(1_000)})
    assert dict(r.hscan_iter("h", match="f1*")) == {
        f"f{n}".encode(): str(n).encode() for n in range(1_000) if str(n).startswith("1")
    }
    r.sadd("s", *range(1_000))
    assert len(set(r.sscan_iter("s", count=50))) == 1_000
    r.zadd("z", {f"m{n}": n for n in range(1_000)})
    assert sum(score for _, score in r.zscan_iter("z")) == 499_500


@both_protocols
def pipelines_and_transactions(server, r):
    with r.pipeline(transaction=False) as pipe:
        for n in range(5_000):
            pipe.incr("n")
        assert pipe.execute() == list(range(1, 5_001))
    with r.pipeline() as pipe:
        replies = pipe.set("a", 1).rpush("l", "x").lrange("l", 0, -1).hgetall("none").execute()
    assert replies == [True, 1, [b"x"], {}], replies
    with r.pipeline() as pipe:
        pipe.set("a", "text").incr("a").get("a")
        replies = pipe.execute(raise_on_error=False)
    assert replies[0] is True and isinstance(replies[1], ResponseError) and replies[2] == b"text"
    with r.pipeline() as pipe:
        pipe.set("a", 2).execute_command("NONSENSE")
        refused(pipe.execute, "unknown command")
    assert r.get("a") == b"text"


@both_protocols
def watch_refuses_what_another_changed(server, r):
    r.set("balance", 100)
    with r.pipeline() as pipe, client(server) as other:
        pipe.watch("balance")
        value = int(pipe.get("balance"))
        other.incrby("balance", 5)
        pipe.multi()
        pipe.set("balance", value - 10)
        try:
            pipe.execute()
        except WatchError:
            pass
        else:
            raise AssertionError("a lost update")
    assert r.get("balance") == b"105"

    def add(pipe):
        value = int(pipe.get("counter") or 0)
        pipe.multi()
        pipe.set("counter", value + 1)

    def work():
        with client(server) as own:
            for _ in range(25):
                own.transaction(add, "counter")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert r.get("counter") == b"100"


@both_protocols
def text_names_and_databases(server, r):
    with client(server, decode_responses=True, client_name="shop", db=3) as text:
        text.set("grüße", "wörld")
        assert text.get("grüße") == "wörld" and text.client_getname() == "shop"
        assert text.info("server")["redis_version"].startswith("7.")
        assert text.config_get("save") == {"save": ""}
        assert text.ping() is True and text.echo("x") == "x"
        assert any(c["name"] == "shop" for c in text.client_list())
        assert text.info("keyspace")["db3"]["keys"] == 1
        assert text.command()["get"]["arity"] == 2 and text.command_count() > 50
        text.flushdb()
    assert r.get("grüße") is None


@check
def a_pool_of_connections_serves_many_threads(server):
    pool = redis.BlockingConnectionPool(
        host="127.0.0.1", port=server.port, max_connections=8, timeout=30
    )
    shared = redis.Redis(connection_pool=pool)
    shared.flushall()

    def work(number):
        for step in range(200):
            shared.incr("total")
            shared.hset(f"t:{number}", step, step)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.get("total") == b"3200"
    assert all(shared.hlen(f"t:{n}") == 200 for n in range(16))
    pool.disconnect()


@check
def a_lock_is_held_by_one_and_released_by_its_owner_only(server):
    """redis-py releases and extends locks by a script; where the server runs none, the lock is
    taken and ends by its time to live."""
    with client(server) as r:
        r.flushall()
        lock = r.lock("lock", timeout=60)
        assert lock.acquire(blocking=False) is True
        assert r.lock("lock", timeout=60).acquire(blocking=False) is False
        assert lock.locked() and lock.owned()
        assert 55_000 < r.pttl("lock") <= 60_000
        if "evalsha" in r.command():
            lock.release()
            try:
                lock.release()
            except LockError:
                pass
            else:
                raise AssertionError("released twice")
        else:
            refused(lock.release, "unknown command")
            assert r.delete("lock") == 1
        short = r.lock("lock", timeout=0.2, blocking_timeout=30, sleep=0.02)
        assert short.acquire()
        assert r.lock("lock", timeout=10, blocking_timeout=30, sleep=0.02).acquire()


@check
def a_client_outlives_a_restart_and_a_crash(server):
    retry = Retry(ConstantBackoff(0.05), 400)
    with client(server, retry=retry, retry_on_error=[ConnectionError]) as r:
        r.flushall()
        r.set("kept", "v")
        r.zadd("board", {"ada": 1})
        for end in (server.stop, server.kill):
            end()
            comes_back = threading.Thread(target=server.start)
            comes_back.start()
            # Sent while nobody listens: tried again until the server is back.
            assert r.get("kept") == b"v"
            comes_back.join()
            assert r.zscore("board", "ada") == 1.0
            assert r.incr("rounds") >= 1
        assert r.get("rounds") == b"2"


async def asynchronous(server, protocol):
    pool = redis.asyncio.BlockingConnectionPool(
        host="127.0.0.1", port=server.port, protocol=protocol, socket_timeout=30,
        max_connections=20, timeout=30,
    )
    r = redis.asyncio.Redis.from_pool(pool)
    await r.flushall()
    await asyncio.gather(*(r.incr("n") for _ in range(500)))
    assert await r.get("n") == b"500"
    async with r.pipeline(transaction=True) as pipe:
        replies = await pipe.hset("h", mapping={"a": 1}).hgetall("h").sadd("s", 1, 2).execute()
    assert replies == [1, {b"a": b"1"}, 2]
    async with r.pipeline() as pipe:
        await pipe.watch("n")
        await r.set("n", 0)
        pipe.multi()
        pipe.incr("n")
        try:
            await pipe.execute()
        except WatchError:
            pass
        else:
            raise AssertionError("a lost update")
    assert {key async for key in r.scan_iter()} == {b"n", b"h", b"s"}
    await r.aclose()


def over_tls(server, **options):
    return client(server, port=server.tls_port, ssl=True, ssl_ca_certs=server.ca, **options)


@check
def everything_over_tls(server):
    for protocol in (2, 3):
        with over_tls(server, protocol=protocol) as r:
            r.flushall()
            large = bytes(range(256)) * 20_000
            assert r.set("k", large) is True and r.get("k") == large
            pipe = r.pipeline(transaction=False)
            for n in range(3_000):
                pipe.incr("n")
            assert pipe.execute()[-1] == 3_000
            with client(server) as plain:
                assert plain.get("n") == b"3000"
    pool = redis.ConnectionPool.from_url(
        f"rediss://127.0.0.1:{server.tls_port}/0", ssl_ca_certs=server.ca, socket_timeout=30)
    threads = [threading.Thread(target=redis.Redis(connection_pool=pool).incrby, args=("n", n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis.Redis(connection_pool=pool).get("n") == b"3190"
    pool.disconnect()


@check
def a_node_that_is_not_trusted_is_refused(server):
    for options in ({"ssl_ca_certs": None}, {"ssl": False}):
        try:
            over = {"port": server.tls_port, "ssl": True, "retry": None, "socket_timeout": 10, **options}
            redis.Redis(host="127.0.0.1", **over).ping()
        except (ConnectionError, ResponseError) as error:
            assert "verify failed" in str(error) or "speaks TLS" in str(error), error
        else:
            raise AssertionError(f"connected with {options}")


@check
def asyncio_over_resp2(server):
    asyncio.run(asynchronous(server, 2))


@check
def asyncio_over_resp3(server):
    asyncio.run(asynchronous(server, 3))


def main():
    server = Server()
    passed = failed = 0
    try:
        for function in CHECKS:
            try:
                function(server)
                passed += 1
            except Exception:
                failed += 1
                print(f"redis-py, {function.__name__}:", file=sys.stderr)
                traceback.print_exc()
        complaints = [line for line in server.told().splitlines() if " WARN " in line or " ERROR " in line]
        if complaints:
            failed += 1
            print("the server complained:", *complaints, sep="\n", file=sys.stderr)
        else:
            passed += 1
    finally:
        server.close()
    print(f"redis-py {redis.__version__}: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
