"""`holdfast bench` held against others' figures: redis-benchmark, the server's own clock and counters, the law.

Every function measures one thing on a redis-server that it is given and returns what it found, so that the
slice in `make test` and the proof draw the same figures and only their bounds and their lengths differ.
Server and generator are pinned alike for both generators, which take turns.
"""

import csv
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from generator import Generator, fill  # noqa: E402

KEYS, VALUE_BYTES, CONNECTIONS = 100_000, 100, 50
SERVER_CPU, GENERATOR_CPU = 0, 1
# Both write and read these keys, each in its own way of naming them.
THEIR_PREFIX = "key:"


@dataclass
class Load:
    """A closed loop."""

    command: str
    connections: int
    pipeline: int
    requests: int

    def __str__(self):
        return f"{self.command}, {self.connections} connections, pipeline {self.pipeline}"


@dataclass
class Seen:
    """What one generator says about one run. `accounted` is the share of the connections' time that its
    latencies add up to: in a closed loop that sends at once it is 1 (Little's law). `served` is how many
    requests the server counted of each that is told, `told` how much of the time that passed."""

    per_second: float
    p50_ms: float
    p99_ms: float
    accounted: float
    served: float
    told: float


def accounted(load, per_second, mean_ms):
    return per_second * mean_ms / 1000 / (load.connections * load.pipeline)


def ours(server, load):
    """One run of `holdfast bench`."""
    before, began = calls(server, load), time.monotonic()
    generator = Generator(server, mix=load.command, pipeline=load.pipeline, requests=load.requests,
                          connections=load.connections, keys=KEYS, value_bytes=VALUE_BYTES, pin=GENERATOR_CPU)
    total = generator.report()["total"]
    passed = time.monotonic() - began
    rate = total["per_second"]
    return Seen(rate, total["p50_ms"], total["p99_ms"], accounted(load, rate, total["mean_ms"]),
                (calls(server, load) - before) / total["requests"], total["requests"] / rate / passed)


def calls(server, load):
    """How often the server has run the load's command so far."""
    with server.client() as client:
        told = client.expect("INFO", "commandstats").decode()
    found = re.search(rf"^cmdstat_{load.command}:calls=(\d+)", told, re.M)
    return int(found[1]) if found else 0


def theirs(server, load):
    """One run of redis-benchmark. It reads the replies of all connections that have one before it sends any of
    them its next request, and does not count the time in between: its `accounted` says how much that is."""
    words = ["taskset", "--cpu-list", GENERATOR_CPU, "redis-benchmark", "-p", server.port, "-t", load.command,
             "-P", load.pipeline, "-n", load.requests, "-c", load.connections, "-r", KEYS, "-d", VALUE_BYTES, "--csv"]
    before, began = calls(server, load), time.monotonic()
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    row = next(row for row in csv.DictReader(done.stdout.splitlines()) if row["test"] == load.command.upper())
    passed = time.monotonic() - began
    rate = float(row["rps"])
    return Seen(rate, float(row["p50_latency_ms"]), float(row["p99_latency_ms"]),
                accounted(load, rate, float(row["avg_latency_ms"])),
                (calls(server, load) - before) / load.requests, load.requests / rate / passed)


def side_by_side(server, load, rounds):
    """Ours over theirs, by figure: medians of the rounds' ratios; and the medians themselves."""
    pairs = [(ours(server, load), theirs(server, load)) for _ in range(rounds)]

    def median(pick):
        return {name: statistics.median(pick(pair, name) for pair in pairs) for name in Seen.__dataclass_fields__}
    return (median(lambda pair, name: getattr(pair[0], name) / getattr(pair[1], name)),
            {"ours": median(lambda pair, name: getattr(pair[0], name)),
             "theirs": median(lambda pair, name: getattr(pair[1], name))})


def stopped_for(server, stop_seconds, **load):
    """Latencies of a run in whose middle the server is stopped (SIGSTOP) for a while."""
    def stop():
        server.pause()
        time.sleep(stop_seconds)
        server.resume()
    timer = threading.Timer(load["seconds"] / 2, stop)
    generator = Generator(server, mix="get", keys=KEYS, value_bytes=VALUE_BYTES, connections=CONNECTIONS,
                          pin=GENERATOR_CPU, **load)
    timer.start()
    try:
        return generator.report()
    finally:
        timer.join()


def cpu_seconds(server, **load):
    """The server's CPU time in one run, as we report it and as redis counts it itself (getrusage)."""
    def of_itself():
        with server.client() as client:
            facts = client.expect("INFO", "cpu").decode()
        return sum(float(line.split(":")[1]) for line in facts.split("\r\n")
                   if line.startswith(("used_cpu_sys:", "used_cpu_user:")))
    before = of_itself()
    report = Generator(server, mix="get", keys=KEYS, value_bytes=VALUE_BYTES, connections=CONNECTIONS,
                       pin=GENERATOR_CPU, **load).report()
    process = report["processes"][0]
    return process["user_seconds"] + process["system_seconds"], of_itself() - before


def zipf_statistic(server, exponent, keys, requests, as_if=None):
    """How far the counts of requests that arrived lie from Zipf's law, in standard deviations of a
    chi-squared sum; the server counts them: one counter a key. `as_if` plants another exponent."""
    prefix = f"zipf:{exponent}:"
    Generator(server, may_miss=True, mix="incr", keys=keys, zipf=exponent, requests=requests, pipeline=32,
              connections=CONNECTIONS, key_prefix=prefix, pin=GENERATOR_CPU).report()
    counts = sorted(counters(server, prefix), reverse=True)
    if sum(counts) != requests:
        raise RuntimeError(f"{sum(counts)} requests arrived, {requests} were sent")
    counts += [0] * (keys - len(counts))
    weights = [rank ** -(as_if or exponent) for rank in range(1, keys + 1)]
    total = sum(weights)
    # By powers of two: inside such a bin it does not matter that ranks are those of the counts.
    squares, edges = 0.0, [0, *(2 ** power for power in range(keys.bit_length()) if 2 ** power < keys), keys]
    for low, high in zip(edges, edges[1:]):
        expected = requests * sum(weights[low:high]) / total
        squares += (sum(counts[low:high]) - expected) ** 2 / expected
    freedom = len(edges) - 2
    return (squares - freedom) / (2 * freedom) ** 0.5


def counters(server, prefix):
    """The values of all counters with this prefix."""
    with server.client() as client:
        cursor, held = b"0", []
        while True:
            cursor, names = client.expect("SCAN", cursor, "MATCH", prefix + "*", "COUNT", 1000)
            if names:
                held += [int(value) for value in client.expect("MGET", *names)]
            if cursor == b"0":
                return held


def prepare(server):
    """Every key of both generators exists: no read misses."""
    fill(server, KEYS, VALUE_BYTES, GENERATOR_CPU)
    with server.client() as client:
        client.pipeline([("SET", f"{THEIR_PREFIX}{at:012d}", "x" * VALUE_BYTES) for at in range(KEYS)], at_once=1000)
