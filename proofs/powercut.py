#!/usr/bin/env python3
"""100 power cuts under load: what is lost, torn or wrong. Bar: nothing; without syncs the loss is seen."""

import sys
from pathlib import Path

# In place of this folder, whose files share their names with modules.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests" / "crash")
from proof import prove  # noqa: E402
import powercut_rounds  # noqa: E402

prove({
    "powercut": lambda seed, say: powercut_rounds.run(seed, 100, say),
    "planted": lambda seed, say: powercut_rounds.run_planted(seed, say),
})
