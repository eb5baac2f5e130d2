"""Waking up without delay, and seeing whether the machine lets one.

A load generator that waits for its turn behind the server measures its own waiting. `wake_promptly` gives this
process, and all that it starts, the shortest slice: Linux 6.12 and later then runs it as soon as it wakes up. Where
that is refused, things stay as they are.
"""

import ctypes
import os
import platform
import struct
import subprocess
import sys

# linux/sched/types.h, and the call's number on x86-64 and on everything newer.
SCHED_OTHER, SLICE_NS = 0, 100_000
SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}

# A millisecond's sleep that took this much longer counts as the machine standing still.
OVERSLEPT_SECONDS = 0.0005
WITNESS = """
import os, select, sys, time
cpu, least = int(sys.argv[1]), float(sys.argv[2])
os.sched_setaffinity(0, {cpu})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except PermissionError:
    pass
longest = still = 0.0
first = time.monotonic()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    began = time.monotonic()
    time.sleep(0.001)
    over = time.monotonic() - began - 0.001
    if over > least:
        still += over
        longest = max(longest, over)
print(longest * 1000, still / (time.monotonic() - first), flush=True)
"""


def wake_promptly():
    """From now on, for this process and what it starts."""
    number = SYS_SCHED_SETATTR.get(platform.machine())
    if number is not None:
        attributes = struct.pack("=IIQiIQQQ", 48, SCHED_OTHER, 0, 0, 0, SLICE_NS, 0, 0)
        ctypes.CDLL(None, use_errno=True).syscall(number, 0, attributes, 0)


class Witness:
    """A process on each CPU that sleeps for a millisecond at a time, before every other one where the system allows
    that: what it oversleeps then is the machine's own standing still, as a host does with a guest that has used up
    its share of a CPU. `paused_ms` is the longest time, `still` the part of the time, of the CPU that had more."""

    paused_ms = still = 0.0

    def begin(self):
        words = [sys.executable, "-c", WITNESS]
        self._processes = [
            subprocess.Popen([*words, str(cpu), str(OVERSLEPT_SECONDS)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
            for cpu in sorted(os.sched_getaffinity(0))]
        for process in self._processes:
            process.stdout.readline()

    def end(self):
        for process in self._processes:
            paused_ms, still = (float(word) for word in process.communicate("over\n")[0].split())
            self.paused_ms, self.still = max(self.paused_ms, paused_ms), max(self.still, still)
