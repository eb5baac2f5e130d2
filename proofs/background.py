#!/usr/bin/env python3
"""Reads at half the capacity while the node does its background work: p99 and the longest stall.

An open loop of GETs of hot rows at half the rate that a closed loop reached, in windows: idle, then one
kind of background work, in turn, several rounds. Each window proves that the work it is about happened
in it. The p99 of a kind over the idle p99 of the same round is held to 1.5, the longest read to 50 ms.
Latencies count from the moment a request was due. Checkpoint and backup are windows of their own, as
soon as the node has them: until then those bars are not met.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))
sys.path.insert(0, str(ROOT / "tests" / "crash"))

from crashlib import encode  # noqa: E402
from generator import Generator, drive, fill, say  # noqa: E402
from record import Bar, NotMeasured, load_average, write  # noqa: E402
from servers import Holdfast  # noqa: E402

KEYS, ZIPF = 1_000_000, 0.99
READS = {"mix": "get", "zipf": ZIPF, "keys": KEYS, "connections": 50}
P99_RATIO_MAX, STALL_MS_MAX = 1.5, 50
WARMUP_SECONDS = 1
STORM_BATCH = 20_000
# A flush for every 16 MiB of writes: a window then sees many, and compactions of what they wrote.
SETTINGS = {"memory": "2GiB", "engine.replay_bytes_max": "16MiB"}


def reads(server, rate, seconds):
    """Starts the open loop for one window."""
    return Generator(server, rate=round(rate), arrivals="poisson", warmup_seconds=WARMUP_SECONDS, seconds=seconds, **READS)


def grown(server, name, before):
    return server.metrics()[name] - before[name]


def idle(server, rate, options):
    return reads(server, rate, options.seconds).figures(), "nothing"


def compaction(server, rate, options):
    """Overwrites of values in random order make table files that have to be merged."""
    before = server.metrics()
    window = reads(server, rate, options.seconds)
    writes = Generator(server, mix="set", keys=200_000, key_prefix="churn:", value_bytes=4000, connections=8,
                       rate=options.churn_per_second, seconds=options.seconds + WARMUP_SECONDS)
    figures = window.figures()
    writes.report()
    merged = grown(server, "engine_compaction_bytes_total", before)
    if not merged:
        raise RuntimeError("nothing was compacted in the window: it shows nothing")
    return figures, f"{merged / 1e6:.0f} MB written by compactions, {options.churn_per_second} writes a second"


def flush(server, rate, options):
    """Few, large writes: next to no load but for the flushes that they make due."""
    before = server.metrics()
    window = reads(server, rate, options.seconds)
    writes = Generator(server, mix="set", keys=400, key_prefix="large:", value_bytes=1_000_000, connections=1, rate=20,
                       seconds=options.seconds + WARMUP_SECONDS)
    figures = window.figures()
    writes.report()
    flushed = grown(server, "engine_flush_bytes_total", before)
    if not flushed:
        raise RuntimeError("nothing was flushed in the window: it shows nothing")
    return figures, f"{flushed / 1e6:.0f} MB flushed"


def expiry_storm(server, rate, options):
    """A million keys whose deadlines lie within one second, which is the window's third."""
    began = time.time()
    # Time to write them at 30,000 a second; it raises below if that was not enough.
    due_ms = int((began + options.storm_keys / 30_000 + 10) * 1000)
    with server.client() as client:
        for start in range(0, options.storm_keys, STORM_BATCH):
            batch = range(start, min(start + STORM_BATCH, options.storm_keys))
            client.send(b"".join(encode("SET", f"storm:{at}", "v", "PXAT", due_ms + at % 1000) for at in batch))
            for _ in batch:
                client.read()
        full = client.expect("DBSIZE")
    if time.time() * 1000 > due_ms - 3000:
        raise RuntimeError("the keys of the storm could not be written before they were due")
    time.sleep(due_ms / 1000 - time.time() - 2 - WARMUP_SECONDS)
    before = server.metrics()
    seconds = max(options.seconds, 12)
    figures = reads(server, rate, seconds).figures()
    expired = grown(server, "expired_keys_total", before)
    if not expired:
        raise RuntimeError("nothing expired in the window: it shows nothing")
    deadline = time.monotonic() + 600
    while (left := options.storm_keys - grown(server, "expired_keys_total", before)) > 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{left:.0f} expired keys are still not deleted")
        time.sleep(0.5)
    took = time.time() - due_ms / 1000
    return figures, (f"{expired:.0f} of {options.storm_keys} keys deleted in the window, "
                     f"all {took:.0f} s after they were due; {full} keys before")


KINDS = {"compaction": compaction, "expiry storm": expiry_storm, "flush": flush}


def rest(server):
    """Background work of one window must not reach into the next."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        before = server.metrics()
        time.sleep(1)
        after = server.metrics()
        names = ("engine_compaction_bytes_total", "engine_flush_bytes_total", "expired_keys_total")
        if all(before[name] == after[name] for name in names):
            return
    raise RuntimeError("background work does not come to an end")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="length of a window (20)")
    parser.add_argument("--storm-keys", type=int, default=1_000_000)
    parser.add_argument("--churn-per-second", type=int, default=4000, help="overwrites of 4 kB beside compaction (4000)")
    options = parser.parse_args()
    load_before = load_average()
    server = Holdfast(SETTINGS)
    server.start()
    fill(server, KEYS, 100)
    fill(server, 200_000, 4000, key_prefix="churn:")
    drive(server, requests=3 * KEYS, pipeline=32, **READS)
    rest(server)
    capacity = drive(server, seconds=options.seconds / 2, warmup_seconds=WARMUP_SECONDS, **READS).per_second
    say(f"capacity {capacity:.0f} reads a second")
    rounds = [play(server, capacity / 2, options) for _ in range(options.rounds)]
    server.stop()
    bars = []
    for kind in KINDS:
        ratio = statistics.median(figures[kind][0].p99_ms / figures["idle"][0].p99_ms for figures in rounds)
        bars.append(Bar(f"{kind}: p99 over idle p99", ratio, "<=", P99_RATIO_MAX))
        bars.append(Bar(f"{kind}: longest read, ms", max(figures[kind][0].max_ms for figures in rounds), "<=", STALL_MS_MAX))
    why = "the node has no backup yet"
    bars += [NotMeasured("checkpoint", why), NotMeasured("backup", why)]
    detail = [{kind: {**figures.rounded(), "work": work} for kind, (figures, work) in one.items()} for one in rounds]
    write("background", bars, rate=round(capacity / 2), capacity=round(capacity), seconds=options.seconds,
          settings=SETTINGS, load_average_before=load_before, rounds=detail)


def play(server, rate, options):
    """One round: idle, then each kind, each after the last has come to rest."""
    done = {}
    for name, window in {"idle": idle, **KINDS}.items():
        rest(server)
        done[name] = window(server, rate, options)
        say(f"{name}: p99 {done[name][0].p99_ms:.2f} ms, longest {done[name][0].max_ms:.1f} ms; {done[name][1]}")
    return done


if __name__ == "__main__":
    main()
