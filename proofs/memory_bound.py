#!/usr/bin/env python3
"""The memory setting holds: caches full, then 10,000 idle connections, slow readers, unfinished requests.

`memory=1GiB`, twice as much data loaded and read, so that every cache is as full as it gets. Then one
crowd after the other. The peak of the resident set, taken anew for each, must stay within the setting,
and an ordinary client must be served in each. Crowds that the server refuses or cuts are fine. A server
that a crowd left beyond the setting is killed and started again before the next one.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))
sys.path.insert(0, str(ROOT / "tests" / "hostile"))
sys.path.insert(0, str(ROOT / "tests" / "crash"))

from crashlib import encode  # noqa: E402
from crowd import connections, push  # noqa: E402
from generator import drive, fill, say  # noqa: E402
from record import Bar, load_average, write  # noqa: E402
from servers import Holdfast  # noqa: E402
from watching import reset_peak, until_quiet  # noqa: E402

MIB = 1 << 20
VALUE_BYTES = 1000
RECEIVE_BYTES = 4096
ANSWER_SECONDS_MAX = 5
REST_SECONDS_MAX = 60


def idle(server, _):
    with connections(server.port, 10_000) as crowd:
        push(crowd, encode("PING"))
        for plain in crowd:
            if plain.recv(100) != b"+PONG\r\n":
                raise RuntimeError("an idle connection was not served")
        yield f"{len(crowd)} connections, idle after one PING"


def slow_readers(server, _):
    with connections(server.port, 1000, RECEIVE_BYTES) as crowd:
        push(crowd, encode("GET", "big") * 2000)
        yield f"{len(crowd)} connections that ask for 200 MB each and read nothing"


def slow_scanners(server, _):
    with connections(server.port, 200, RECEIVE_BYTES) as crowd:
        push(crowd, encode("MGET", *["big"] * 150) * 20)
        yield f"{len(crowd)} connections with replies of 15 MB that read nothing"


def big_pipelines(server, _):
    with connections(server.port, 200) as crowd:
        taken = push(crowd, b"".join(encode("SET", f"p:{at}", b"x" * VALUE_BYTES) for at in range(5000)))
        yield f"{len(crowd)} connections that pipelined {sum(taken) // MIB} MiB of writes"


def unfinished_values(server, _):
    header = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (30 * MIB)
    with connections(server.port, 100) as crowd:
        taken = push(crowd, header + b"x" * (20 * MIB))
        yield f"{len(crowd)} connections with {sum(taken) // MIB} MiB of values begun and not ended"


def open_transactions(server, _):
    queue = b"MULTI\r\n" + encode("SET", "queued", b"x" * MIB) * 50
    with connections(server.port, 40) as crowd:
        taken = push(crowd, queue)
        yield f"{len(crowd)} connections with {sum(taken) // MIB} MiB of writes queued in MULTI"


def strangers(server, _):
    request = b"*10\r\n" + b"$16384\r\n%s\r\n" % (b"x" * 16384) * 9
    with connections(server.port, 10_000) as crowd:
        taken = push(crowd, request)
        yield f"{len(crowd)} connections before AUTH with {sum(taken) // MIB} MiB of requests begun"


CROWDS = [idle, slow_readers, slow_scanners, big_pipelines, unfinished_values, open_transactions]


def read_all(server, keys):
    """Fills the caches."""
    drive(server, mix="get", keys=keys, requests=keys // 2, pipeline=8)


def play(crowd, server, memory, password=None):
    """One crowd; gives its bars."""
    reset_peak(server.pid)
    before = server.status_bytes("VmRSS")
    longest = 0.0
    for what in crowd(server, password):
        until_quiet(server.pid, REST_SECONDS_MAX)
        with server.client() as client:
            if password:
                client.expect("AUTH", password)
            for _ in range(20):
                began = time.monotonic()
                client.expect("GET", "absent")
                longest = max(longest, time.monotonic() - began)
    until_quiet(server.pid, REST_SECONDS_MAX)
    peak = server.status_bytes("VmHWM")
    say(f"{what}: {before // MIB} MiB before, {peak // MIB} MiB at the peak, a reply took at most {longest:.2f} s")
    yield Bar(f"{what}: peak resident bytes over the memory setting", peak / memory, "<=", 1.0)
    yield Bar(f"{what}: seconds that an ordinary client waited", longest, "<=", ANSWER_SECONDS_MAX)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-mib", type=int, default=1024)
    options = parser.parse_args()
    memory, load_before = options.memory_mib * MIB, load_average()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keys = 2 * memory // VALUE_BYTES
    bars, password = [], "open sesame"
    for crowds, settings in ((CROWDS, {}), ([strangers], {"redis.password": password})):
        server = Holdfast({"memory": f"{options.memory_mib}MiB", **settings})
        server.start()
        if not settings:
            fill(server, keys, VALUE_BYTES, connections=32)
            read_all(server, keys)
            with server.client() as client:
                client.expect("SET", "big", b"x" * (100 << 10))
            full = server.status_bytes("VmHWM")
            say(f"caches are full: {full // MIB} MiB at the peak")
            bars.append(Bar("caches full, no crowd: peak resident bytes over the memory setting", full / memory, "<=", 1.0))
        for crowd in crowds:
            if server.status_bytes("VmRSS") > memory:
                # Each crowd is judged for itself, and not for what an earlier one left behind.
                server.kill()
                server.start()
                if not settings:
                    read_all(server, keys)
            bars += play(crowd, server, memory, settings.get("redis.password"))
        alive, panicked = server.is_alive(), "panicked" in server.log_text()
        bars.append(Bar("servers that ended or panicked", int(not alive) + int(panicked), "=", 0))
        server.stop()
    write("memory_bound", bars, memory_setting_bytes=memory, keys=keys, value_bytes=VALUE_BYTES,
          load_average_before=load_before)


if __name__ == "__main__":
    main()
