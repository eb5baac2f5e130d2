#!/usr/bin/env python3
"""The log's contract on three real log servers, with three copies and a sync before each acknowledgement.

The whole contract suite; each restart kills the server that leads the stream, the failing append meets a leader
that stands still for three seconds and then goes on with what it has received. Bar: nothing broken.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from record import Bar, load_average, write  # noqa: E402

TEST = "the_contract_holds_on_three_log_servers_whose_leader_is_killed_or_stopped"

load_before, began = load_average(), time.monotonic()
run = subprocess.run(
    ["cargo", "test", "--release", "-p", "holdfast-jetstream", "--test", "contract", "--", "--ignored", "--exact", TEST],
    cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
print(run.stdout[-2000:], run.stderr[-2000:], sep="\n", file=sys.stderr)
passed = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", run.stdout)
if not passed or int(passed[1]) + int(passed[2]) != 1:
    sys.exit("the test was not run")
version = subprocess.run(["nats-server", "--version"], capture_output=True, text=True, check=True).stdout.strip()
write("jetstream", [Bar("suites of the contract broken on three log servers", int(passed[2]), "=", 0)],
      servers=version, seconds=round(time.monotonic() - began), load_average_before=load_before)
