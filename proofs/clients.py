#!/usr/bin/env python3
"""redis-py and ioredis do real work: all cases of tests/clients. Bar: every case passes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import write  # noqa: E402
from suites import bars, run_suite  # noqa: E402

run = run_suite(ROOT / "tests/clients/run")
write("clients", bars([run]), **run)
