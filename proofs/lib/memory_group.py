"""A control group that bounds the memory of the processes in it, page cache counted.

Needs root and the memory controller of control groups version 1. The group goes away at the end.
"""

import os
import re
from contextlib import contextmanager
from pathlib import Path

CONTROLLER = Path("/sys/fs/cgroup/memory")


class Unavailable(Exception):
    """This machine has no such groups; the text says what is missing."""


class MemoryGroup:
    """An existing group."""

    def __init__(self, path):
        self.path = path

    def _read(self, name):
        return (self.path / name).read_text(encoding="ascii")

    def peak_bytes(self):
        """Most that was charged at once, page cache included."""
        return int(self._read("memory.max_usage_in_bytes"))

    def times_at_limit(self):
        """How often the limit made the kernel reclaim: above zero, the limit was felt."""
        return int(self._read("memory.failcnt"))

    def killed(self):
        """Processes that were killed for want of memory."""
        return int(re.search(r"^oom_kill (\d+)", self._read("memory.oom_control"), re.M)[1])

    def page_cache_bytes(self):
        """Page cache charged now."""
        return int(re.search(r"^cache (\d+)", self._read("memory.stat"), re.M)[1])


@contextmanager
def memory_group(limit_bytes):
    """A group with this limit. Processes in it must have ended before the block does."""
    path = CONTROLLER / f"holdfast-proof-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise Unavailable(f"no control group at {path}: {error}") from None
    try:
        (path / "memory.limit_in_bytes").write_text(str(limit_bytes), encoding="ascii")
        yield MemoryGroup(path)
    finally:
        path.rmdir()
