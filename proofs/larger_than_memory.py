#!/usr/bin/env python3
"""Three times more data than memory: the node stays within its setting, and reads go to the disk.

12 GB of values under a memory limit of 4 GB, page cache counted, with `memory=2GiB`: loaded, then read
evenly at random, so that most reads miss every cache. No process may be killed for want of memory and
the resident set stays within the setting. Reads per second, p99 and device bytes per read are recorded.
They are to stand beside raw RocksDB with equal memory: until that is measured, that bar is not met.
"""

import argparse
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from generator import Generator, fill, say  # noqa: E402
from memory_group import memory_group  # noqa: E402
from record import Bar, NotMeasured, load_average, write  # noqa: E402
from servers import Holdfast  # noqa: E402

VALUE_BYTES = 1000
SETTLE_SECONDS_MAX = 900
UNITS = {"": 1, "M": 10**6, "G": 10**9, "MiB": 2**20, "GiB": 2**30}


def size(text):
    """Bytes of a size such as 200M or 2GiB."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", text).groups()
    return int(float(number) * UNITS[unit])


def settle(server):
    """Waits until compaction has caught up; gives the seconds that took."""
    began = time.monotonic()
    while time.monotonic() < began + SETTLE_SECONDS_MAX:
        before = server.metrics()
        time.sleep(1)
        after = server.metrics()
        if all(before[f"engine_{name}"] == after[f"engine_{name}"] for name in
               ("compaction_bytes_total", "flush_bytes_total", "table_bytes")) and not after["apply_lag_records"]:
            return time.monotonic() - began
    raise RuntimeError(f"compaction has not caught up within {SETTLE_SECONDS_MAX} s")


def read(server, keys, connections, seconds):
    """Reads evenly at random; counts what the devices gave for it."""
    load = Generator(server, mix="get", keys=keys, connections=connections, warmup_seconds=seconds / 4,
                     seconds=seconds, value_bytes=VALUE_BYTES)
    time.sleep(seconds / 4 + 0.5)
    bytes_before, fetched_before, began = server.device_read_bytes(), fetched(server), time.monotonic()
    time.sleep(seconds * 0.6)
    device_bytes, elapsed = server.device_read_bytes() - bytes_before, time.monotonic() - began
    commands_fetched = fetched(server) - fetched_before
    figures = load.figures()
    gets = figures.per_second * elapsed
    return {"connections": connections, **figures.rounded(),
            "device_bytes_per_get": round(device_bytes / gets), "disk_fetches_per_get": round(commands_fetched / gets, 3)}


def fetched(server):
    return server.metrics()["commands_fetched_total"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=12, help="size of the data, in 10^9 bytes of values (12)")
    parser.add_argument("--limit", default="4G", help="memory limit, page cache counted (4G)")
    parser.add_argument("--memory", default="2GiB", help="the node's memory setting (2GiB)")
    parser.add_argument("--seconds", type=float, default=60, help="length of a read run (60)")
    options = parser.parse_args()
    keys, load_before = int(options.gb * 1e9) // VALUE_BYTES, load_average()
    limit, memory = size(options.limit), size(options.memory)
    with memory_group(limit) as group:
        server = Holdfast({"memory": options.memory}, cgroup=group.path)
        server.start()
        try:
            began = time.monotonic()
            fill(server, keys, VALUE_BYTES, connections=32)
            fill_seconds = time.monotonic() - began
            say(f"{keys} keys in {fill_seconds:.0f} s; resident at most {server.status_bytes('VmHWM') / 1e6:.0f} MB")
            settle_seconds = settle(server)
            say(f"compaction caught up after {settle_seconds:.0f} s")
            reads = [read(server, keys, connections, options.seconds) for connections in (1, 50)]
            resident, killed = server.status_bytes("VmHWM"), group.killed()
            alive, metrics = server.is_alive(), server.metrics()
            detail = {
                "group_peak_bytes": group.peak_bytes(), "times_at_limit": group.times_at_limit(),
                "page_cache_bytes_at_end": group.page_cache_bytes(),
                "memory_by_owner": {k.split('"')[1]: v for k, v in metrics.items() if k.startswith("memory_bytes{")},
                "table_bytes": metrics["engine_table_bytes"],
            }
        finally:
            server.stop()
    bars = [
        Bar("processes killed for want of memory", killed + (not alive), "=", 0),
        Bar("peak resident bytes over the memory setting", resident / memory, "<=", 1.0),
        Bar("data over the memory limit", keys * VALUE_BYTES / limit, ">=", 1.0),
        NotMeasured("reads per second, device reads per read and p99 beside raw RocksDB",
                    "there is no program yet that reads raw RocksDB with these rows and equal memory"),
    ]
    write("larger_than_memory", bars, gigabytes_of_values=options.gb, value_bytes=VALUE_BYTES, memory_limit_bytes=limit,
          memory_setting_bytes=memory, peak_resident_bytes=resident, fill_seconds=round(fill_seconds),
          settle_seconds=round(settle_seconds), reads=reads, load_average_before=load_before, **detail)


if __name__ == "__main__":
    main()
