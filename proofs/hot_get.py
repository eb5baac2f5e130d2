#!/usr/bin/env python3
"""GET of hot rows beside redis-server without a log: CPU-seconds per million requests, turn by turn.

50 connections, a million keys of 100 bytes, Zipf 0.99, all rows in memory. Server on CPU 0, generator
on CPU 1. The bars are on the server's CPU time, which other load on the machine disturbs least; rates,
p50 and p99 are recorded beside it, as are the rows that pin neither side.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

import comparison  # noqa: E402
from record import Bar, load_average, write  # noqa: E402

# Server CPU time over redis', by pipeline.
CPU_BARS = {1: 1.0, 32: 1.5}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warmup-seconds", type=float, default=1.5)
    options = parser.parse_args()
    load_before = load_average()
    cells = comparison.hot_get_cells()
    comparison.run(cells, options.rounds, options.seconds, options.warmup_seconds)
    bars = [Bar(f"{cell.name}: server CPU over redis'", cell.ratio("cpu_seconds_per_million"), "<=",
                CPU_BARS[cell.load["pipeline"]])
            for cell in cells if cell.group == "hot"]
    write("hot_get", bars, rounds=options.rounds, seconds=options.seconds, keys=comparison.KEYS,
          value_bytes=comparison.VALUE_BYTES, zipf=comparison.ZIPF, memory=comparison.GET_MEMORY,
          load_average_before=load_before, cells={cell.name: cell.detail() for cell in cells})


if __name__ == "__main__":
    main()
