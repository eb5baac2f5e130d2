#!/usr/bin/env python3
"""Faults of a cluster under load: partitions of the owner each way, the death of the log's leader and of a whole machine,
slow disks, a power cut of everything, and an owner that is killed or stands still.

Three log servers with three copies and a sync before each acknowledgement, an owner and a node that stands by. After each
round every acknowledged write is looked for, once, and who was cut off must answer nothing old. Bars: nothing lost, doubled
or stale in 20 rounds of each; writable again within 4 s at p99 after an owner's death, 12 s after a machine's.
"""

import argparse
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402
from suites import load  # noqa: E402
from take_over import part  # noqa: E402

ROUNDS_BAR = 20
BARS_S = {"kill": 4.0, "stop": 4.0, "machine": 12.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS_BAR)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31))
    parser.add_argument("names", nargs="*", metavar="FAULT", help="all of them by default")
    options = parser.parse_args()
    cluster, load_before, broken, took = load("cluster"), load_average(), {}, {}
    import faults  # noqa: PLC0415: found once the suite is loaded
    cluster.end_in_order_on_signals()
    for name in options.names or [*faults.FAULTS, *faults.DISK_FAULTS]:
        try:
            with cluster.scratch() as folder:
                took |= faults.rounds(folder, options.seed, lambda text: print(text, file=sys.stderr, flush=True),
                                      options.rounds, [name])
        except cluster.Violation as violation:
            print(f"{name}: {violation}", file=sys.stderr)
            broken[name] = str(violation)[:500]
    times = {name: {"rounds": len(seconds), "p50_s": round(part(seconds, 0.5), 3), "p99_s": round(part(seconds, 0.99), 3),
                    "worst_s": round(max(seconds), 3)} for name, seconds in took.items()}
    bars = [Bar("faults under which something was lost, doubled or stale, or nobody took writes", len(broken), "=", 0),
            Bar("faults that went through", len(times), "=", len(faults.FAULTS) + len(faults.DISK_FAULTS)),
            Bar("rounds of the least tried", min((one["rounds"] for one in times.values()), default=0), ">=", ROUNDS_BAR)]
    bars += [Bar(f"{name}: seconds until writable, p99", times[name]["p99_s"], "<=", bound)
             for name, bound in BARS_S.items() if name in times]
    write("faults", bars, seed=options.seed, until_writable=times, broken=broken, load_average_before=load_before)


if __name__ == "__main__":
    main()
