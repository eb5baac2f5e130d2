#!/usr/bin/env python3
"""A cluster client notices no hand-over: 20 rounds, three log servers with three copies, four threads that write and read.

Each round gives the data to the node that stands by (`holdfast ctl hand-over`) while redis-py's cluster client works.
Bars: no request fails, nothing that was written is missing, no request takes longer than a second.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402
from suites import load  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    cluster, load_before, broken = load("cluster"), load_average(), 0
    cluster.end_in_order_on_signals()
    longest = []
    try:
        with cluster.scratch() as folder:
            longest = cluster.redirects.a_cluster_client_notices_no_hand_over(
                folder, cluster.new_pair, lambda text: print(text, file=sys.stderr, flush=True), options.rounds,
                log_servers=3)
    except cluster.Violation as violation:
        print(violation, file=sys.stderr)
        broken = 1
    ordered = sorted(longest)
    write("hand_over", [
        Bar("rounds in which a request failed or a write was missing", broken, "=", 0),
        Bar("rounds", len(longest), ">=", options.rounds),
        Bar("seconds that the slowest request took, worst round", round(max(longest, default=9.9), 3), "<=", 1.0),
    ], slowest_request_s=[round(one, 3) for one in ordered], load_average_before=load_before)


if __name__ == "__main__":
    main()
