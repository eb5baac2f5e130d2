#!/usr/bin/env python3
"""Durable SET beside redis-server with `appendfsync always`: rate, p99 and CPU, turn by turn.

Every acknowledgement waits for a sync on both sides. Server on CPU 0 and generator on CPU 1 alike; the
bars hold for these cells. The rows that pin neither, where each server may use the second core with
whatever threads it has, are recorded without a bar.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

import comparison  # noqa: E402
from record import Bar, load_average, write  # noqa: E402

# Requests per second over redis', by (connections, pipeline).
RATE_BARS = {(1, 1): 1.0, (50, 1): 1.5, (200, 1): 1.2, (50, 16): 1.0, (200, 16): 1.0}
UNSYNCED_BAR = 0.9


def bars(cells):
    for cell in cells:
        if cell.group != "durable":
            continue
        bound = RATE_BARS[cell.load["connections"], cell.load["pipeline"]]
        yield Bar(f"{cell.name}: rate over redis'", cell.ratio("per_second"), ">=", bound)
        yield Bar(f"{cell.name}: p99 over redis'", cell.ratio("p99_ms"), "<", 1.0)
        if "holdfast without sync" in cell.servers:
            ratio = cell.ratio("per_second", over="holdfast without sync")
            yield Bar(f"{cell.name}: rate over our own without durability", ratio, ">=", UNSYNCED_BAR)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warmup-seconds", type=float, default=1.5)
    options = parser.parse_args()
    load_before = load_average()
    cells = comparison.durable_cells()
    comparison.run(cells, options.rounds, options.seconds, options.warmup_seconds)
    write("durable_set", list(bars(cells)), rounds=options.rounds, seconds=options.seconds,
          keys=comparison.KEYS, value_bytes=comparison.VALUE_BYTES, load_average_before=load_before,
          cells={cell.name: cell.detail() for cell in cells})


if __name__ == "__main__":
    main()
