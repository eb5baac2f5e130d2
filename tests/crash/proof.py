"""How the full proofs of this folder run: parts, each with its own figures, and one line at the end.

The value is the number of parts that broke a promise; the bar is zero. A part that this machine
cannot run leaves no line, so that it never counts as done. HOLDFAST_SEED repeats a run.
"""

import json
import os
import random
import subprocess
import sys

from crashlib import ROOT, Unavailable, Violation, end_in_order_on_signals


def prove(parts):
    """Runs all parts and writes the line of this proof."""
    end_in_order_on_signals()
    sys.stdout.reconfigure(line_buffering=True)
    seed = int(os.environ.get("HOLDFAST_SEED") or random.SystemRandom().getrandbits(31))
    name = os.environ.get("HOLDFAST_PROOF") or os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"seed {seed}")
    figures, broken = {}, 0
    for part, run in parts.items():
        try:
            figures[part] = run(seed, print)
        except Unavailable as why:
            print(f"{name}: cannot run here: {why}")
            sys.exit(77)
        except Violation as violation:
            broken += 1
            figures[part] = {"violation": str(violation)[:500]}
            print(f"{part}: {violation}")
    command = [sys.executable, str(ROOT / "scripts" / "measured.py"), "write", name, "--value", str(broken),
               "--exactly", "0", "--unit", "violated parts", "--seed", str(seed), "--detail", json.dumps(figures)]
    sys.exit(subprocess.run(command, check=False).returncode)
