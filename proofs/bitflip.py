#!/usr/bin/env python3
"""1,000 flipped bits in every kind of file: wrong answers, missing keys, unclear errors. Bar: none."""

import sys
from pathlib import Path

# In place of this folder, whose files share their names with modules.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests" / "crash")
from proof import prove  # noqa: E402
import bitflip  # noqa: E402

prove({"bitflip": lambda seed, say: bitflip.run(seed, 1000, say)})
