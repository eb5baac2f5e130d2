"""Waking up without delay, and seeing whether the machine lets one.

A load generator that waits for its turn behind the server measures its own waiting. `wake_promptly` gives this
process, and all that it starts, the shortest slice: Linux 6.12 and later then runs it as soon as it wakes up. Where
that is refused, things stay as they are.
"""

import ctypes
import platform
import struct
import subprocess
import sys

# linux/sched/types.h, and the call's number on x86-64 and on everything newer.
SCHED_OTHER, SLICE_NS = 0, 100_000
SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}

WITNESS = """
import select, sys, time
longest = 0.0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    began = time.monotonic()
    time.sleep(0.001)
    longest = max(longest, time.monotonic() - began - 0.001)
print(longest * 1000, flush=True)
"""


def wake_promptly():
    """From now on, for this process and what it starts."""
    number = SYS_SCHED_SETATTR.get(platform.machine())
    if number is not None:
        attributes = struct.pack("=IIQiIQQQ", 48, SCHED_OTHER, 0, 0, 0, SLICE_NS, 0, 0)
        ctypes.CDLL(None, use_errno=True).syscall(number, 0, attributes, 0)


class Witness:
    """A process that sleeps for a millisecond at a time; `paused_ms` is the most that it overslept."""

    paused_ms = 0.0

    def __enter__(self):
        self._process = subprocess.Popen([sys.executable, "-c", WITNESS], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()
        return self

    def __exit__(self, *_):
        told, _ = self._process.communicate("over\n")
        self.paused_ms = float(told)
