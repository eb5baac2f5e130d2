#!/usr/bin/env python3
"""Three nodes by seed on a simulated replicated log: ten thousand seeds, each planted bug found, a lost end of the log noticed."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402

SEEDS_BAR, SECONDS_BAR = 1_000, 600
RUN = re.compile(r"(\d+) seeds in ([\d.]+) s: \[(.*)\]")
FOUND = re.compile(r"^(?:test .* \.\.\. )?(\w+): seed (\d+): ", re.MULTILINE)


def run(seeds, first):
    done = subprocess.run(
        ["cargo", "test", "--release", "-p", "holdfast-sim", "--test", "cluster", "--", "--nocapture", "--test-threads", "1"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={**os.environ, "HOLDFAST_SIM_SEEDS": str(seeds), "HOLDFAST_SIM_FROM": str(first)})
    sys.stderr.write(done.stdout[-4000:])
    return done.returncode, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=1_000_000)
    options = parser.parse_args()
    load_before = load_average()
    code, told = run(options.seeds, options.first)
    ran = RUN.search(told)
    seeds, seconds = (int(ran[1]), float(ran[2])) if ran else (0, float("inf"))
    reached = dict(re.findall(r'\("([^"]+)", (\d+)\)', ran[3])) if ran else {}
    write("three_nodes", [
        Bar("tests that failed", code, "=", 0),
        Bar("seeds that kept every promise", seeds, ">=", SEEDS_BAR),
        Bar("seconds for a thousand of them", round(seconds * SEEDS_BAR / max(seeds, 1), 1), "<=", SECONDS_BAR),
        Bar("kinds of planted bugs that were found", len(FOUND.findall(told)), ">=", 6),
    ], seed=options.first, reached={name: int(count) for name, count in reached.items()},
        planted={name: int(seed) for name, seed in FOUND.findall(told)}, load_average_before=load_before)


if __name__ == "__main__":
    main()
