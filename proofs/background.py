#!/usr/bin/env python3
"""Reads at half the capacity while the node does its background work: p99 and the longest stall.

An open loop of GETs of hot rows at half the rate that a closed loop reached, in windows: several rounds, in
each one kind of background work after the other, each between two idle windows. Each window proves that the
work it is about happened in it. The p99 of a kind is compared with that of the calmer of its two idle
neighbours, and the median of the rounds is held to 1.5; the longest read of all rounds is held to 50 ms.
Latencies count from the moment a request was due. Generators run with a short slice, so that their own waking up
is not what is measured. Witnesses do nothing but sleep for a millisecond, before every other process; how much they
overslept is told with each window. Where they overslept by more than the bar for stalls, the machine itself stood
still, and where they did for more than half a percent of the time, it alone can be the p99: then the window's longest
read, or its p99, is told and not judged, and a kind without another window counts as not measured. What an idle
neighbour's reads did excuses nothing.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))
sys.path.insert(0, str(ROOT / "tests" / "crash"))

from crashlib import ErrorReply, encode  # noqa: E402
from generator import Figures, Generator, drive, fill, say  # noqa: E402
from promptness import Witness, wake_promptly  # noqa: E402
from record import Bar, NotMeasured, load_average, write  # noqa: E402
from servers import Holdfast  # noqa: E402

KEYS, ZIPF = 1_000_000, 0.99
READS = {"mix": "get", "zipf": ZIPF, "keys": KEYS, "connections": 50}
P99_RATIO_MAX, STALL_MS_MAX = 1.5, 50
STILL_MAX = 0.005
WARMUP_SECONDS = 1
STORM_BATCH = 20_000
# A flush for every 16 MiB of writes: a window then sees many, and compactions of what they wrote.
SETTINGS = {"memory": "2GiB", "engine.replay_bytes_max": "16MiB"}


class Reads:
    """The open loop of one window, and what the machine did meanwhile."""

    def __init__(self, server, rate, seconds):
        self.witness = Witness()
        self.witness.begin()
        self._generator = Generator(server, rate=round(rate), arrivals="poisson", warmup_seconds=WARMUP_SECONDS,
                                    seconds=seconds, **READS)

    def end(self):
        self.figures = self._generator.figures()
        self.witness.end()
        return self


def grown(server, name, before):
    return server.metrics()[name] - before[name]


def idle(server, rate, options):
    return Reads(server, rate, options.seconds).end(), "nothing"


def compaction(server, rate, options):
    """Overwrites of values in random order make table files that have to be merged. Large values, so that the
    window is about compaction and not about the writes that cause it."""
    before = server.metrics()
    window = Reads(server, rate, options.seconds)
    writes = Generator(server, mix="set", keys=6000, key_prefix="churn:", value_bytes=64_000, connections=4,
                       rate=options.churn_per_second, seconds=options.seconds + WARMUP_SECONDS)
    window.end()
    writes.report()
    merged = grown(server, "engine_compaction_bytes_total", before)
    if not merged:
        raise RuntimeError("nothing was compacted in the window: it shows nothing")
    return window, f"{merged / 1e6:.0f} MB written by compactions, {options.churn_per_second} writes a second"


def flush(server, rate, options):
    """Few, large writes: next to no load but for the flushes that they make due."""
    before = server.metrics()
    window = Reads(server, rate, options.seconds)
    writes = Generator(server, mix="set", keys=400, key_prefix="large:", value_bytes=1_000_000, connections=1, rate=20,
                       seconds=options.seconds + WARMUP_SECONDS)
    window.end()
    writes.report()
    flushed = grown(server, "engine_flush_bytes_total", before)
    if not flushed:
        raise RuntimeError("nothing was flushed in the window: it shows nothing")
    return window, f"{flushed / 1e6:.0f} MB flushed"


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
    window = Reads(server, rate, seconds).end()
    expired = grown(server, "expired_keys_total", before)
    if not expired:
        raise RuntimeError("nothing expired in the window: it shows nothing")
    deadline = time.monotonic() + 600
    while (left := options.storm_keys - grown(server, "expired_keys_total", before)) > 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{left:.0f} expired keys are still not deleted")
        time.sleep(0.5)
    took = time.time() - due_ms / 1000
    return window, (f"{expired:.0f} of {options.storm_keys} keys deleted in the window, "
                     f"all {took:.0f} s after they were due; {full} keys before")


def backup(server, rate, options):
    """A backup to a folder, with the checkpoint that it begins with."""
    before = server.metrics()
    target = server.folder / f"backup-{time.monotonic_ns()}"
    target.mkdir()
    window = Reads(server, rate, options.seconds)
    time.sleep(WARMUP_SECONDS)
    with server.client() as client:
        reply = client.call("BACKUP", "START", f"file://{target}")
        if isinstance(reply, ErrorReply):
            raise RuntimeError(f"BACKUP START: {reply}")
        began = time.monotonic()
        window.end()
        while not grown(server, "backup_succeeded_total", before):
            if grown(server, "backup_failures_total", before) or time.monotonic() > began + 300:
                raise RuntimeError("the backup failed, or does not come to an end")
            time.sleep(0.2)
    stored = grown(server, "backup_bytes_uploaded_total", before)
    return window, f"{stored / 1e6:.0f} MB stored, done {time.monotonic() - began:.1f} s after it began"


KINDS = {"compaction": compaction, "expiry storm": expiry_storm, "flush": flush, "checkpoint and backup": backup}


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
    parser.add_argument("--churn-per-second", type=int, default=250, help="overwrites of 64 kB beside compaction (250)")
    options = parser.parse_args()
    load_before = load_average()
    wake_promptly()
    server = Holdfast(SETTINGS)
    server.start()
    fill(server, KEYS, 100)
    drive(server, requests=3 * KEYS, pipeline=32, **READS)
    rest(server)
    capacity = drive(server, seconds=options.seconds / 2, warmup_seconds=WARMUP_SECONDS, **READS).per_second
    say(f"capacity {capacity:.0f} reads a second")
    rounds = [play(server, capacity / 2, options) for _ in range(options.rounds)]
    server.stop()
    bars = [bar for kind in KINDS for bar in judge(kind, [figures[kind] for figures in rounds])]
    detail = [{kind: window.line() for kind, window in one.items()} for one in rounds]
    write("background", bars, rate=round(capacity / 2), capacity=round(capacity), seconds=options.seconds,
          settings=SETTINGS, load_average_before=load_before, rounds=detail)


@dataclass
class Window:
    """One kind of work between two idle windows."""

    figures: Figures
    witness: Witness
    idle_p99_ms: float
    idle_max_ms: float
    work: str

    def line(self):
        return {**self.figures.rounded(), "idle_p99_ms": round(self.idle_p99_ms, 3),
                "idle_max_ms": round(self.idle_max_ms, 1), "machine_paused_ms": round(self.witness.paused_ms, 1),
                "machine_still": round(self.witness.still, 4), "work": self.work}


def judge(kind, windows):
    """Both bars of a kind over all rounds."""
    ratios = [window.figures.p99_ms / window.idle_p99_ms for window in windows if window.witness.still <= STILL_MAX]
    if ratios:
        yield Bar(f"{kind}: p99 over idle p99", statistics.median(ratios), "<=", P99_RATIO_MAX)
    else:
        least = min(window.witness.still for window in windows)
        yield NotMeasured(f"{kind}: p99 over idle p99", f"the machine stood still for {least:.1%} of each window or more")
    calm = [window.figures.max_ms for window in windows if window.witness.paused_ms <= STALL_MS_MAX]
    if calm:
        yield Bar(f"{kind}: longest read, ms", max(calm), "<=", STALL_MS_MAX)
    else:
        yield NotMeasured(f"{kind}: longest read, ms", "the machine stood still in every window")


def play(server, rate, options):
    """One round: each kind between two idle windows, each after the last has come to rest."""
    done = {}
    rest(server)
    before = idle(server, rate, options)[0].figures
    for name, work in KINDS.items():
        window, what = work(server, rate, options)
        figures, witness = window.figures, window.witness
        rest(server)
        after = idle(server, rate, options)[0].figures
        done[name] = Window(figures, witness, min(before.p99_ms, after.p99_ms), max(before.max_ms, after.max_ms), what)
        say(f"{name}: p99 {figures.p99_ms:.2f} ms beside {done[name].idle_p99_ms:.2f} idle, longest {figures.max_ms:.1f} ms "
            f"(idle {done[name].idle_max_ms:.1f}, machine {witness.paused_ms:.1f}, still {witness.still:.1%}); {what}")
        before = after
    return done


if __name__ == "__main__":
    main()
