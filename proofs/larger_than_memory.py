#!/usr/bin/env python3
"""Three times more data than memory: the node stays within its setting, and reads go to the disk.

12 GB of values under a memory limit of 4 GB, page cache counted, with `memory=2GiB`: loaded, then read
evenly at random, so that most reads miss every cache. No process may be killed for want of memory and
the resident set stays within the setting.

Beside it raw RocksDB (crates/engine/examples/raw_reads.rs) with the same rows under the same limit, its
caches together as large as the node's whole setting: as many threads as the node has connections, no
protocol, no log, no other process. It is a ceiling; the bars say how near the node has to come.
"""

import argparse
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

import raw_rocksdb  # noqa: E402
from generator import Generator, fill, say  # noqa: E402
from memory_group import memory_group  # noqa: E402
from record import Bar, load_average, write  # noqa: E402
from servers import Holdfast  # noqa: E402

VALUE_BYTES = 1000
CONNECTIONS = (1, 50)
# What a read may cost at the device over raw RocksDB: the node's row cache and its own tasks take memory that
# raw RocksDB spends on blocks.
DEVICE_RATIO_MAX = 1.25
# Of raw RocksDB's rate: at 1 connection a wake-up of another thread and a round trip come on top of each
# read; at 50 they share the cores with the reading.
RATE_RATIO_MIN = 0.5
P99_RATIO_MAX = 2.0
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
    """Reads evenly at random; counts what the devices gave for it while it lasted."""
    warmup = seconds / 4
    load = Generator(server, mix="get", keys=keys, connections=connections, warmup_seconds=warmup,
                     seconds=seconds, value_bytes=VALUE_BYTES)
    time.sleep(warmup + 0.5)
    before, began = counts(server), time.monotonic()
    time.sleep(seconds * 0.6)
    grown = [None if now is None else now - then for now, then in zip(counts(server), before)]
    elapsed = time.monotonic() - began
    figures = load.figures()
    gets = figures.per_second * elapsed
    device_bytes, device_reads, fetches = grown
    run = {"connections": connections, **figures.rounded(), "device_bytes_per_get": round(device_bytes / gets),
           "device_reads_per_get": None if device_reads is None else round(device_reads / gets, 3),
           "fetches_per_get": round(fetches / gets, 3)}
    say(f"node: {run}")
    return run


def counts(server):
    """What is compared before and after: device bytes, device reads, commands that went to a fetch thread."""
    return server.device_read_bytes(), server.device_reads(), server.metrics()["commands_fetched_total"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=12, help="size of the data, in 10^9 bytes of values (12)")
    parser.add_argument("--limit", default="4G", help="memory limit, page cache counted (4G)")
    parser.add_argument("--memory", default="2GiB", help="the node's memory setting (2GiB)")
    parser.add_argument("--seconds", type=float, default=60, help="length of a read run (60)")
    options = parser.parse_args()
    keys, load_before = int(options.gb * 1e9) // VALUE_BYTES, load_average()
    limit, memory = size(options.limit), size(options.memory)
    program = raw_rocksdb.build()
    with memory_group(limit) as group:
        raw = raw_rocksdb.measure(program, keys, VALUE_BYTES, memory, options.seconds, CONNECTIONS, group.path)
        raw["group_peak_bytes"] = group.peak_bytes()
    with memory_group(limit) as group:
        node = measure_node(options, keys, group)
    bars = [
        Bar("processes killed for want of memory", node.pop("killed"), "=", 0),
        Bar("peak resident bytes over the memory setting", node["peak_resident_bytes"] / memory, "<=", 1.0),
        Bar("data over the memory limit", keys * VALUE_BYTES / limit, ">=", 2.5),
        *beside(node["reads"], raw["reads"]),
    ]
    write("larger_than_memory", bars, gigabytes_of_values=options.gb, value_bytes=VALUE_BYTES, memory_limit_bytes=limit,
          memory_setting_bytes=memory, load_average_before=load_before, node=node, raw_rocksdb=raw)


def measure_node(options, keys, group):
    """Fills a node in the group, reads from it, and gives all figures."""
    server = Holdfast({"memory": options.memory}, cgroup=group.path)
    server.start()
    try:
        began = time.monotonic()
        fill(server, keys, VALUE_BYTES, connections=32)
        fill_seconds = time.monotonic() - began
        say(f"{keys} keys in {fill_seconds:.0f} s; resident at most {server.status_bytes('VmHWM') / 1e6:.0f} MB")
        settle_seconds = settle(server)
        say(f"compaction caught up after {settle_seconds:.0f} s")
        reads = [read(server, keys, connections, options.seconds) for connections in CONNECTIONS]
        metrics = server.metrics()
        return {
            "killed": group.killed() + (not server.is_alive()), "peak_resident_bytes": server.status_bytes("VmHWM"),
            "fill_seconds": round(fill_seconds), "settle_seconds": round(settle_seconds), "reads": reads,
            "group_peak_bytes": group.peak_bytes(), "times_at_limit": group.times_at_limit(),
            "page_cache_bytes_at_end": group.page_cache_bytes(), "table_bytes": metrics["engine_table_bytes"],
            "memory_by_owner": {k.split('"')[1]: v for k, v in metrics.items() if k.startswith("memory_bytes{")},
        }
    finally:
        server.stop()


def beside(node, raw):
    """The node's reads over those of raw RocksDB, with as many threads as there were connections."""
    for ours, theirs in zip(node, raw, strict=True):
        if ours["connections"] != theirs["threads"]:
            raise RuntimeError(f"{ours} and {theirs} are not of one kind")
        name = f"{ours['connections']} at a time, over raw RocksDB"
        for what, wanted, bound in (("per_second", ">=", RATE_RATIO_MIN), ("device_bytes_per_get", "<=", DEVICE_RATIO_MAX),
                                    ("p99_ms", "<=", P99_RATIO_MAX)):
            yield Bar(f"{name}: {what}", ours[what] / theirs[what], wanted, bound)


if __name__ == "__main__":
    main()
