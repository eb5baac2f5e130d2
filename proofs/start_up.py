#!/usr/bin/env python3
"""Start-up after a kill: a node with much data is killed under a load of writes and started again.

The time runs from the start of the process to its ready line, replay of the log included, with the page
cache dropped before (if permitted: a machine that lost power has none). Several kills, each after a
different length of load; the worst counts. After each start the keys are there and writes go on.

Last, a start with as much to replay as there can be: flushes are held back until the bound of unflushed log
(`engine.replay_bytes_max`) or the memory for unflushed rows is used up. It is held to the same bar, and
tells how many megabytes a second are replayed.
"""

import argparse
import random
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from generator import Generator, drive, fill, say  # noqa: E402
from record import Bar, load_average, write  # noqa: E402
from servers import Holdfast  # noqa: E402

VALUE_BYTES = 1000
SECONDS_MAX = 10
# Of 1000 bytes each: below that the flushes were not held back.
MOST_RECORDS_MIN = 100_000
PAGE_CACHE = Path("/proc/sys/vm/drop_caches")


def drop_page_cache():
    """Whether the data has to come from the device at the next start."""
    try:
        PAGE_CACHE.write_text("1\n", encoding="ascii")
    except OSError:
        return False
    return True


def kill_under_load(server, keys, seconds):
    """Gives the records that were durable and not yet flushed shortly before the kill."""
    load = Generator(server, mix="set", keys=keys, value_bytes=VALUE_BYTES, connections=50, pipeline=8, seconds=600)
    time.sleep(seconds)
    unflushed = server.metrics()["flush_lag_records"]
    server.kill()
    load.process.communicate()
    return unflushed


def most_to_replay(keys):
    """One start after a kill at the bound. The rate of replay includes all that a start does besides."""
    server = Holdfast({"memory": "4GiB", "engine.background_bytes_per_second": "1MiB"})
    server.start()
    load = Generator(server, mix="set", keys=keys, value_bytes=VALUE_BYTES, connections=50, pipeline=8, seconds=600)
    unflushed, before = 0.0, -1.0
    while unflushed > before:
        time.sleep(3)
        before, unflushed = unflushed, server.metrics()["flush_lag_records"]
    server.kill()
    load.process.communicate()
    server.settings = {"memory": "4GiB"}
    cold, seconds = drop_page_cache(), server.start()
    told = re.findall(r"replaying the log\s+done=(\d+)\s+total=(\d+)", server.log_text())
    server.stop()
    replayed = int(told[-1][1])
    most = {"seconds": round(seconds, 2), "records": replayed, "page_cache_dropped": cold,
            "megabytes_per_second": round(replayed * VALUE_BYTES / 1e6 / seconds, 1)}
    say(f"most to replay: {most}")
    if replayed < MOST_RECORDS_MIN:
        raise RuntimeError(f"only {replayed} records were left to replay: it shows nothing")
    return most


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=10, help="size of the data, in 10^9 bytes of values (10)")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    keys = int(options.gb * 1e9) // VALUE_BYTES
    choice, load_before = random.Random(options.seed), load_average()
    server = Holdfast()
    server.start()
    began = time.monotonic()
    fill(server, keys, VALUE_BYTES, connections=32)
    say(f"{keys} keys in {time.monotonic() - began:.0f} s")
    starts = []
    for number in range(1, options.kills + 1):
        load_seconds = choice.uniform(3, 12)
        unflushed = kill_under_load(server, keys, load_seconds)
        cold = drop_page_cache()
        seconds = server.start()
        with server.client() as client:
            found = client.expect("DBSIZE")
        # Raises if one of the keys is not there.
        drive(server, mix="get", keys=keys, requests=5000, seed=number)
        starts.append({"seconds": round(seconds, 2), "load_seconds": round(load_seconds, 1),
                       "unflushed_records": unflushed, "page_cache_dropped": cold, "keys": found})
        say(f"start {number}: {starts[-1]}")
        if found != keys:
            raise RuntimeError(f"{found} keys after the start, {keys} before")
    table_bytes = server.metrics()["engine_table_bytes"]
    server.stop()
    most = most_to_replay(min(keys, 1_000_000))
    slowest = max(start["seconds"] for start in starts)
    write("start_up", [Bar("seconds, the slowest start", slowest, "<=", SECONDS_MAX),
                       Bar("seconds, a start with the most to replay", most["seconds"], "<=", SECONDS_MAX)],
          seed=options.seed, most_to_replay=most,
          gigabytes_of_values=options.gb, value_bytes=VALUE_BYTES, table_bytes=table_bytes, starts=starts,
          load_average_before=load_before)


if __name__ == "__main__":
    main()
