"""Suites of tests as proofs: each ends with a line `N passed, M failed`, and with exit code 1 if one failed."""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
import time

from record import Bar
from servers import ROOT

COUNTS = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?")


def load(name):
    """tests/NAME/run, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "tests" / name / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def run_suite(*words):
    """Runs it, passing on what it says; gives how many passed, failed and were skipped, and the minutes."""
    began, last = time.monotonic(), ""
    process = subprocess.Popen([str(word) for word in words], cwd=ROOT, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, text=True, errors="replace")
    for line in process.stdout:
        sys.stderr.write(line)
        last = line
    code, counts = process.wait(), COUNTS.search(last)
    if not counts or (code == 0) != (counts[2] == "0"):
        raise RuntimeError(f"{words[0]} ended with {code} and {last!r}")
    passed, failed, skipped = (int(count or 0) for count in counts.groups())
    return {"passed": passed, "failed": failed, "skipped": skipped, "minutes": round((time.monotonic() - began) / 60, 2)}


def bars(runs):
    """That every case ran and passed: one that was skipped shows nothing."""
    total = {count: sum(run[count] for run in runs) for count in ("passed", "failed", "skipped")}
    return [Bar("cases that failed", total["failed"], "=", 0), Bar("cases that were skipped", total["skipped"], "=", 0),
            Bar("cases that passed", total["passed"], ">", 0)]
