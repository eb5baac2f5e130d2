#!/usr/bin/env python3
"""redis-py and ioredis do real work: all cases of tests/clients. Bar: no case fails."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, write  # noqa: E402
from suites import run_suite  # noqa: E402

run = run_suite(ROOT / "tests/clients/run")
write("clients", [Bar("cases that failed", run["failed"], "=", 0)], **run)
