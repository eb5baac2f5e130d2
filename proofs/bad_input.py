#!/usr/bin/env python3
"""Hostile clients, all cases of tests/hostile: malformed frames, absurd lengths, crowds, clients that never read.

Three times, each with a seed of its own: clear errors, memory within the setting, no panic. Bar: every case passes.
"""

import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import write  # noqa: E402
from suites import bars, run_suite  # noqa: E402

TIMES = 3
seed = int(os.environ.get("HOLDFAST_SEED") or random.SystemRandom().getrandbits(31))
runs = [run_suite(ROOT / "tests/hostile/run", "--seed", seed + number) for number in range(TIMES)]
write("bad_input", bars(runs), seed=seed, runs=runs)
