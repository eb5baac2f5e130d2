"""What the kernel knows about a process: memory now and at the peak, CPU time, whether it has come to rest."""

import re
import time
from pathlib import Path

from crashlib import until

QUIET_SECONDS = 0.2
# A well-behaved client beside it may cost the server this much of that time.
QUIET_TICKS = 4


def resident(pid, field):
    """VmRSS (now) or VmHWM (the peak), in bytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) * 1024


def reset_peak(pid):
    """The kernel begins to count the peak anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def cpu_ticks(pid):
    """User and system time, in the kernel's ticks of usually 10 ms."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return sum(int(field) for field in text.rsplit(")", 1)[1].split()[11:13])


def until_quiet(pid, deadline_s=20):
    """Waits until the process has done what there was to do."""
    def quiet():
        before = cpu_ticks(pid)
        time.sleep(QUIET_SECONDS)
        return cpu_ticks(pid) - before <= QUIET_TICKS
    until(quiet, "the server comes to rest", deadline_s)
