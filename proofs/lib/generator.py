"""Load from `holdfast bench`, which drives ours and peers alike, and what it measured.

A run with error replies, or with misses where every key exists, is no measurement: it raises.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from servers import binary


@dataclass
class Figures:
    """One run, or the medians of several."""

    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_seconds_per_million: float

    def rounded(self):
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


class Generator:
    """A running `holdfast bench`; `figures` waits for its end."""

    def __init__(self, server, may_miss=False, **options):
        """Options are those of `holdfast bench`, with underscores; True stands for a bare flag."""
        self._may_miss = may_miss
        self._result = tempfile.NamedTemporaryFile(prefix="holdfast-bench-", suffix=".json")
        words = [binary(), "bench", "--addr", server.address, "--server-pid", f"server={server.pid}",
                 "--json", self._result.name, *server.bench_words]
        for name, value in options.items():
            if value is not None and value is not False:
                words.append("--" + name.replace("_", "-"))
                words += [] if value is True else [str(value)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def report(self):
        """Everything that it measured."""
        _, said = self.process.communicate()
        if self.process.returncode != 0:
            raise RuntimeError(f"holdfast bench: {said[-1000:]}")
        report = json.loads(Path(self._result.name).read_text(encoding="utf-8"))
        total = report["total"]
        if total["errors"]:
            raise RuntimeError(f"{total['errors']} error replies, the first: {report['first_error']}")
        if total["misses"] and not self._may_miss:
            raise RuntimeError(f"{total['misses']} reads of keys that exist found nothing")
        dropped = (report["open_loop"] or {}).get("dropped", 0)
        if dropped:
            raise RuntimeError(f"{dropped} requests of the open loop were dropped: the server is overloaded")
        return report

    def figures(self):
        report = self.report()
        total = report["total"]
        return Figures(
            total["per_second"], total["p50_ms"], total["p99_ms"], total["max_ms"],
            report["processes"][0]["cpu_seconds_per_million"])


def drive(server, **options):
    """Runs `holdfast bench` to its end."""
    return Generator(server, **options).figures()


def fill(server, keys, value_bytes, pin=None, key_prefix="key:", connections=16):
    """Writes every key once."""
    drive(server, keys=keys, value_bytes=value_bytes, pin=pin, key_prefix=key_prefix,
          connections=connections, mix="set", preload=True, requests=1)


def say(text):
    """Progress goes to standard error: standard output belongs to the result."""
    print(text, file=sys.stderr, flush=True)
