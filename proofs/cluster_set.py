#!/usr/bin/env python3
"""SET on a replicated log beside Redis with two replicas, one log server or replica for each of three nodes.

Ours: three log servers with three copies and a sync before each acknowledgement, an owner and two nodes that
stand by and follow. Redis: a master and two replicas, `appendfsync always` on all three, each SET followed by a WAIT
for both, in one round trip. Everything runs on this machine beside the generator, nothing is pinned; turns alternate,
with a pause between them. What is idle meanwhile takes next to nothing. Each log server runs Go code on one thread
(GOMAXPROCS=1), as it would in a container of one CPU: three of them share the cores with everything else.
"""

import argparse
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))
sys.path.append(str(ROOT / "tests" / "cluster"))

from generator import Figures, drive, fill, say  # noqa: E402
from promptness import Witness  # noqa: E402
from record import Bar, load_average, write  # noqa: E402
from servers import Holdfast, Redis, folder  # noqa: E402
from logservers import LogServers  # noqa: E402

KEYS, VALUE_BYTES, CONNECTIONS = 1_000_000, 100, 200
RATE_BAR, RATIO_BAR = 30_000, 1.5
SETTLE_S = 3


class Standby(Holdfast):
    """Follows the log. Ready once it says so."""

    def wait_ready(self, deadline):
        while "standing by" not in self.log_text():
            if time.monotonic() > deadline or not self.is_alive():
                raise RuntimeError(f"it does not stand by: {self.log_text()[-2000:]}")
            time.sleep(0.05)


class Replica(Redis):
    """Of a master."""

    def __init__(self, master):
        super().__init__("always")
        self.master = master

    def command(self):
        return [*super().command(), "--replicaof", "127.0.0.1", str(self.master.port)]


def wait_for_replicas(master, count):
    with master.client() as client:
        while client.call("WAIT", count, 1000) < count:
            client.expect("SET", "probe", "x")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--warmup-seconds", type=float, default=2)
    options = parser.parse_args()
    load_before, rounds, still = load_average(), {}, {}
    with LogServers(folder("log-servers"), 3, threads=1) as servers:
        owner = Holdfast({**servers.settings, "node.name": "one"})
        nodes = [owner, *(Standby({**servers.settings, "node.name": name}) for name in ("two", "three"))]
        for node in nodes:
            node.start()
        master = Redis("always")
        master.start()
        replicas = [Replica(master) for _ in range(2)]
        for replica in replicas:
            replica.start()
        wait_for_replicas(master, 2)
        sides = {"holdfast": (owner, {}), "redis": (master, {"wait": 2})}
        for name, (server, _) in sides.items():
            say(f"filling {name}")
            fill(server, KEYS, VALUE_BYTES, connections=50)
        for number in range(1, options.rounds + 1):
            say(f"round {number} of {options.rounds}")
            for name, (server, words) in sides.items():
                time.sleep(SETTLE_S)
                witness = Witness()
                witness.begin()
                figures = drive(server, mix="set", keys=KEYS, value_bytes=VALUE_BYTES, connections=CONNECTIONS, seed=number,
                                seconds=options.seconds, warmup_seconds=options.warmup_seconds, **words)
                witness.end()
                say(f"{name}: {figures.rounded()}")
                rounds.setdefault(name, []).append(figures)
                still.setdefault(name, []).append(witness.still)
        for server in [*nodes, *replicas, master]:
            server.stop()
    medians = {name: Figures(*map(statistics.median, zip(*(asdict(turn).values() for turn in turns))))
               for name, turns in rounds.items()}
    ratio = statistics.median(a.per_second / b.per_second for a, b in zip(rounds["holdfast"], rounds["redis"], strict=True))
    write("cluster_set", [
        Bar("SET per second, 200 connections, three copies, synced", medians["holdfast"].per_second, ">=", RATE_BAR),
        Bar("rate over that of redis with two replicas and WAIT 2", ratio, ">=", RATIO_BAR),
    ], rounds=options.rounds, seconds=options.seconds, keys=KEYS, value_bytes=VALUE_BYTES, load_average_before=load_before,
        figures={name: {**figures.rounded(), "machine_still": round(statistics.median(still[name]), 4)}
                 for name, figures in medians.items()})


if __name__ == "__main__":
    main()
