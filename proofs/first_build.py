#!/usr/bin/env python3
"""From a fresh clone without anything built to a node that answers: minutes. Goal: 18 on two idle cores.

`make start` in a clone of this commit, with an empty target folder; crates that were downloaded before are
not downloaded again. Takes as long as it says.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402
from servers import folder  # noqa: E402

MINUTES_MAX = 18

load_before, place = load_average(), folder("first-build")
clone = place / "clone"
subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
began = time.monotonic()
process = subprocess.Popen(
    ["make", "start", "ARGS=--ports auto"], cwd=clone, env={**os.environ, "CARGO_TARGET_DIR": str(place / "target")},
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
try:
    announced = process.stdout.readline().strip()
    ready = any(line.startswith("ready ") for line in process.stdout)
    minutes = (time.monotonic() - began) / 60
finally:
    # The session is this proof's own: make, cargo, the node.
    os.killpg(process.pid, 15)
    process.wait()
if not ready:
    sys.exit(f"make start ended before the node was ready; it began with {announced!r}")
write("first_build", [Bar("minutes from a clone to a node that is ready", minutes, "<=", MINUTES_MAX)],
      announced=announced, cores=len(os.sched_getaffinity(0)), load_average_before=load_before)
