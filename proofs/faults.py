#!/usr/bin/env python3
"""The table of a cluster's faults: partitions of the owner each way, of the log's leader and of a whole machine, the death
of each of them, slow disks, a power cut of everything, an owner or a leader that stands still, and storms of all that.

Three log servers with three copies and a sync before each acknowledgement, three nodes, clients that are recorded. After
each round every acknowledged write is looked for, once, and one order has to explain all that clients were told. Each fault
gets a line of its own in docs/measured/fault_NAME.jsonl, and all of them one here. Bars: 20 rounds, in none of them
anything lost, doubled or old; and how long a cluster may take no writes.

Can be interrupted: rounds that were made for the code as it is now are not made again. What a failed round leaves behind is
kept beside them.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for place in ("proofs/lib", "scripts"):
    sys.path.insert(0, str(ROOT / place))

import measured  # noqa: E402
from record import Bar, append, load_average, write  # noqa: E402
from suites import load  # noqa: E402
from take_over import part  # noqa: E402

ROUNDS = 20
# A fault that fails so often is not tried further; nor one whose rounds are broken off so often.
FAILED_MAX = 3
# Seconds without a writer, at p99. An owner's death costs its lease; a log server's death the election of another leader,
# which takes 4 to 9 s; a power cut the start of everything, and an election.
OWNER_S, ELECTION_S, START_S = 4.0, 12.0, 30.0
# A leader that was cut off keeps the nodes that are with it for some seconds, and its copy is still asked for reads. A
# storm lasts twelve seconds itself.
CUT_OFF_S, STORM_S = 15.0, 32.0
# A slow disk costs no more than the round trips that it slows down: a fifth of a second for each sync.
SLOW_S = 2.0
# No answer leaves an owner whose lease of two seconds has run out, so it must not keep its clients waiting either; but
# for who stands still.
HANG_S = 3.0
STANDS_STILL = ("stop", "storm")
BARS_S = {"kill": OWNER_S, "stop": OWNER_S, "partition": OWNER_S, "nothing_arrives": OWNER_S, "no_answers": OWNER_S,
          "leader": ELECTION_S, "leader_stops": ELECTION_S, "machine": ELECTION_S, "leader_cut": CUT_OFF_S,
          "machine_cut": CUT_OFF_S, "storm": STORM_S,
          "slow_log": SLOW_S, "slow_owner": SLOW_S, "power": START_S}


def cache():
    return Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast") / "faults" / measured.commit()[:12]


class Rounds:
    """The rounds of one fault that were made so far for this code, one line each."""

    def __init__(self, name):
        self.name, self.place = name, cache()
        self._file = self.place / f"{name}.jsonl"
        resumes = not measured.commit().endswith("+changes")
        lines = self._file.read_text(encoding="utf-8").splitlines() if resumes and self._file.exists() else []
        self.seen = [json.loads(line) for line in lines]
        if not resumes:
            self._file.unlink(missing_ok=True)

    @property
    def good(self):
        return [one for one in self.seen if "violation" not in one]

    @property
    def failed(self):
        return [one["violation"] for one in self.seen if "violation" in one]

    def add(self, one):
        self.seen.append(one)
        self.place.mkdir(parents=True, exist_ok=True)
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")

    def make(self, cluster, faults, count, seed):
        """Makes those that are missing; after one that failed, on a new stage. One that was broken off is made again: the
        log servers chose another leader while it was being checked, which shows nothing of the fault."""
        broken_off = 0
        while len(self.seen) < count and len(self.failed) < FAILED_MAX and broken_off < FAILED_MAX:
            with cluster.scratch() as folder:
                try:
                    for one in faults.rounds(folder, f"{seed}/{self.name}/{len(self.seen)}", self.name, count - len(self.seen)):
                        self.add(one.told())
                        say(f"{self.name} {len(self.seen)}/{count}: {one.told()}")
                except cluster.Violation as violation:
                    kept = self.place / f"{self.name}-{len(self.seen) + 1}"
                    faults.keep(folder, kept)
                    self.add({"violation": str(violation)[:1000]})
                    say(f"{self.name} {len(self.seen)}/{count}: {violation}\nkept in {kept}")
                except ConnectionError as error:
                    broken_off += 1
                    faults.keep(folder, self.place / f"{self.name}-broken-off-{broken_off}")
                    say(f"{self.name} {len(self.seen) + 1}/{count}: broken off: {error}")

    def bars(self, count):
        bars = [Bar("rounds in which something was lost, doubled or old, or the cluster did not recover", len(self.failed), "=", 0),
                Bar("rounds", len(self.seen), ">=", count),
                Bar("rounds on whose history the judge came to no end", sum(not one["decided"] for one in self.good), "=", 0)]
        if self.good:
            bars.append(Bar("seconds until writable, p99", part(self.column("writable_s"), 0.99), "<=", BARS_S[self.name]))
            if self.name not in STANDS_STILL:
                bars.append(Bar("seconds that a request was left on an open connection, worst", max(self.column("hang_s")), "<=", HANG_S))
        return bars

    def column(self, name):
        return [one[name] for one in self.good]

    def figures(self):
        """p50, p99 and the worst of each time, and how much was checked."""
        times = {name: spread(self.column(name)) for name in ("writable_s", "write_stall_s", "read_stall_s", "hang_s") if self.good}
        sums = {name: sum(self.column(name)) for name in ("acknowledged", "recorded", "unknown")}
        return {"rounds": len(self.seen), **times, **sums, "violations": self.failed}


def spread(values):
    return {"p50": part(values, 0.5), "p99": part(values, 0.99), "worst": max(values)}


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31))
    parser.add_argument("names", nargs="*", metavar="FAULT", help=f"all by default: {', '.join(BARS_S)}")
    options = parser.parse_args()
    cluster, load_before = load("cluster"), load_average()
    import faults  # noqa: PLC0415: found once the suite is loaded
    cluster.end_in_order_on_signals()
    unmet, figures = [], {}
    for name in options.names or BARS_S:
        made = Rounds(name)
        made.make(cluster, faults, options.rounds, options.seed)
        figures[name], bars = made.figures(), made.bars(ROUNDS)
        if not append(f"fault_{name}", bars, options.seed, **figures[name], load_average_before=load_before):
            unmet.append(name)
    write("faults", [Bar("faults whose bars are not met", len(unmet), "=", 0), Bar("faults", len(figures), "=", len(BARS_S))],
          seed=options.seed, faults=figures, unmet=unmet, load_average_before=load_before)


if __name__ == "__main__":
    main()
