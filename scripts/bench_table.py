#!/usr/bin/env python3
"""Prints one table: what, holdfast, peer, ratio, machine, date.

  bench_table.py [--rounds N] [--seconds S] [--only durable|hot|tls]

The peer is redis-server from the PATH: for SET with `appendfsync always`, for GET without a log. Both
run on CPU 0 and the generator, the same for both, on CPU 1; rows marked so pin neither. They take
turns; the last rows are holdfast in clear beside itself over TLS. Figures are medians over the rounds, ratios medians of the rounds' ratios. About three minutes
with the defaults, which is too short to judge a few percent by: raise --rounds and --seconds.
It records nothing: that is what the proofs do, with the same loads (proofs/durable_set.py, hot_get.py).
"""

import argparse
import datetime
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))
sys.path.insert(0, str(ROOT / "scripts"))

import comparison  # noqa: E402
from measured import machine  # noqa: E402

UNSYNCED = "holdfast without sync"
OVER_TLS = "holdfast over TLS"


def lines(cells):
    """Rows of the table, one measure each: (what, holdfast, peer, ratio)."""
    for cell in cells:
        peers = [name for name in cell.servers if name != "holdfast"]
        ours = cell.median("holdfast")
        for peer in peers:
            theirs = cell.median(peer)
            name = cell.name + {UNSYNCED: " / the same without durability", OVER_TLS: " / the same over TLS"}.get(peer, "")
            yield (f"{name}: requests/s", f"{ours.per_second:,.0f}", f"{theirs.per_second:,.0f}",
                   cell.ratio("per_second", peer))
            if peer != UNSYNCED:
                yield f"{name}: p50 ms", f"{ours.p50_ms:.2f}", f"{theirs.p50_ms:.2f}", cell.ratio("p50_ms", peer)
                yield f"{name}: p99 ms", f"{ours.p99_ms:.2f}", f"{theirs.p99_ms:.2f}", cell.ratio("p99_ms", peer)
            try:
                ratio = cell.ratio("cpu_seconds_per_million", peer)
            except comparison.TooShort:
                ratio = None
            yield (f"{name}: server CPU-s per million", f"{ours.cpu_seconds_per_million:.2f}",
                   f"{theirs.cpu_seconds_per_million:.2f}", ratio)


def redis_version():
    return subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True) \
        .stdout.split("v=", 1)[1].split()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every server for every row (3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (1)")
    parser.add_argument("--only", choices=["durable", "hot", "tls"], help="SET, GET, or what TLS costs, alone")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("this takes two cores: one for the server, one for the generator")
    cells = [cell for cell in comparison.durable_cells() + comparison.hot_get_cells() + comparison.tls_cells()
             if not options.only or cell.group.startswith(options.only)]
    comparison.run(cells, options.rounds, options.seconds, min(0.5, options.seconds / 3))
    peer, here = f"redis {redis_version()}", machine()
    today = datetime.date.today().isoformat()
    print(f"| what | holdfast | {peer} | ratio | machine | date |\n|---|---:|---:|---:|---|---|")
    for what, ours, theirs, ratio in lines(cells):
        shown = "too short" if ratio is None else f"{ratio:.2f}"
        print(f"| {what} | {ours} | {theirs} | {shown} | {here} | {today} |")


if __name__ == "__main__":
    main()
