#!/usr/bin/env python3
"""100 rounds of `kill -9` under load, and SIGTERM under load: what is lost, torn or wrong. Bar: nothing."""

import sys
from pathlib import Path

# In place of this folder, whose files share their names with modules.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests" / "crash")
from proof import prove  # noqa: E402
import kill_rounds  # noqa: E402
import start_stop  # noqa: E402
import tampering  # noqa: E402

prove({
    "check": lambda seed, say: tampering.run(seed, say),
    "kill": lambda seed, say: kill_rounds.run(seed, 100, say),
    "replay": lambda seed, say: start_stop.run_replay(seed, say),
    "stop": lambda seed, say: start_stop.run_stop(seed, 100, say),
})
