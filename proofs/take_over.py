#!/usr/bin/env python3
"""A node that stands by takes over from an owner that is killed, stands still, or is told to stop, under load.

Three log servers with three copies and a sync before each acknowledgement, two nodes. After each round every
acknowledged write is looked for on the node that took over, and what stood still must answer nothing old. Bars:
nothing lost, doubled or stale in 20 rounds of each; an owner's death takes 4 s at most at p99.
"""

import argparse
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402
from suites import load  # noqa: E402

DEATH_BAR_S, HAND_OVER_BAR_S = 4.0, 0.2


def part(values, share):
    """The value that `share` of them do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31))
    options = parser.parse_args()
    cluster, load_before, broken = load("cluster"), load_average(), 0
    cluster.end_in_order_on_signals()
    took = {}
    for fault in ("kill", "stop", "hand-over"):
        try:
            with cluster.scratch() as folder:
                took |= cluster.a_node_that_stands_by_takes_over(
                    folder, options.seed, lambda text: print(text, file=sys.stderr, flush=True),
                    options.rounds, (fault,), log_servers=3)
        except cluster.Violation as violation:
            print(f"{fault}: {violation}", file=sys.stderr)
            broken += 1
    times = {fault: {"rounds": len(seconds), "p50_s": round(part(seconds, 0.5), 3), "p99_s": round(part(seconds, 0.99), 3),
                     "worst_s": round(max(seconds), 3)} for fault, seconds in took.items()}
    bars = [Bar("faults under which something was lost, doubled or stale", broken, "=", 0)]
    for fault, bound in (("kill", DEATH_BAR_S), ("stop", DEATH_BAR_S), ("hand-over", HAND_OVER_BAR_S)):
        if fault in times:
            bars.append(Bar(f"{fault}: seconds until writable, p99", times[fault]["p99_s"], "<=", bound))
            bars.append(Bar(f"{fault}: rounds", times[fault]["rounds"], ">=", 20))
    write("take_over", bars, seed=options.seed, until_writable=times, load_average_before=load_before)


if __name__ == "__main__":
    main()
