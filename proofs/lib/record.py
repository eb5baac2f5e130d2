"""One line of docs/measured for a proof, through scripts/measured.py.

With one bar, its value is the line's. With several, the line's value is the number of bars that are not
met, and each stands with its own value in the detail.
What was not measured is a bar that is not met, with the reason: nothing is left out silently.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from servers import ROOT

# How measured.py is told what is wanted.
ARGUMENTS = {">=": "--at-least", "<=": "--at-most", "=": "--exactly"}


@dataclass
class Bar:
    """A value, and the bound that it is held to."""

    what: str
    value: float
    wanted: str
    bound: float

    @property
    def met(self):
        return {
            ">=": self.value >= self.bound, ">": self.value > self.bound,
            "<=": self.value <= self.bound, "<": self.value < self.bound, "=": self.value == self.bound,
        }[self.wanted]

    def line(self):
        return {"what": self.what, "value": float(f"{self.value:.4g}"), "bar": f"{self.wanted} {self.bound:g}",
                "met": self.met}


@dataclass
class NotMeasured:
    """A bar without a measurement."""

    what: str
    why: str
    met = False

    def line(self):
        return {"what": self.what, "not_measured": self.why, "met": False}


def write(proof, bars, seed=None, **detail):
    """Appends the line, says every bar, and ends the script: 0 only if all are met."""
    sys.exit(0 if append(proof, bars, seed, **detail) else 1)


def append(proof, bars, seed=None, **detail):
    """Appends the line and says every bar; gives whether all are met."""
    for bar in bars:
        line = bar.line()
        shown = line.get("not_measured") or f"{line['value']:g}, wanted {line['bar']}"
        print(f"{'met    ' if bar.met else 'NOT MET'} {bar.what}: {shown}", file=sys.stderr, flush=True)
    detail = {"bars": [bar.line() for bar in bars], **detail}
    words = [sys.executable, str(ROOT / "scripts" / "measured.py"), "write", proof,
             *value_and_bar(bars), "--detail", json.dumps(detail)]
    if seed is not None:
        words += ["--seed", str(seed)]
    return subprocess.run(words, check=False).returncode == 0


def value_and_bar(bars):
    """What the line says for all of them."""
    only = bars[0] if len(bars) == 1 else None
    if isinstance(only, Bar) and only.wanted in ARGUMENTS:
        return ["--value", str(only.value), ARGUMENTS[only.wanted], str(only.bound), "--unit", only.what]
    unmet = sum(not bar.met for bar in bars)
    return ["--value", str(unmet), "--exactly", "0", "--unit", f"of {len(bars)} bars not met"]


def load_average():
    """For judging how quiet the machine was."""
    return round(os.getloadavg()[0], 2)
