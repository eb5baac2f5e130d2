#!/usr/bin/env python3
"""100 full disks and 100 failing ones under load: lost writes, unclear refusals, no recovery. Bar: none."""

import sys
from pathlib import Path

# In place of this folder, whose files share their names with modules.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests" / "crash")
from proof import prove  # noqa: E402
import disk_faults  # noqa: E402

prove({
    "full": lambda seed, say: disk_faults.run_enospc(seed, 100, say),
    "failing": lambda seed, say: disk_faults.run_eio(seed, 100, say),
})
