#!/usr/bin/env python3
"""`make test` after the build: every step passes, none is skipped, within 15 minutes.

What the steps compile is built before the clock starts: the bar is on the time after the build.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402
from suites import run_suite  # noqa: E402

MINUTES_MAX = 15

load_before = load_average()
for step in ("build", "compile", "clippy"):
    subprocess.run([ROOT / "scripts/steps" / step], stdin=subprocess.DEVNULL, check=True)
run = run_suite(ROOT / "scripts/test")
write("make_test", [
    Bar("steps that failed", run["failed"], "=", 0), Bar("steps that were skipped", run["skipped"], "=", 0),
    Bar("minutes after the build", run["minutes"], "<=", MINUTES_MAX),
], load_average_before=load_before, **run)
