#!/usr/bin/env python3
"""What a way of waiting for sockets costs: epoll as the data threads do it, tokio, io_uring.

The three loops of crates/server/examples/echo answer every GET with the same 100 bytes; redis-server
without a log stands beside them for scale. Server on CPU 0, generator on CPU 1. The bars hold the
decision (docs/decisions/0010-data-path-threads.md): our own loop costs no more CPU than tokio's, within
the noise of a small machine.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from comparison import GENERATOR_CPU, SERVER_CPU, VALUE_BYTES, Cell, turn  # noqa: E402
from generator import fill, say  # noqa: E402
from record import Bar, load_average, write  # noqa: E402
from servers import ROOT, Holdfast, Redis  # noqa: E402

LOOPS = ("epoll", "tokio", "uring")
KEYS = 1000
# Own loop over tokio's; above 1 by what two runs of the same loop differ by.
CPU_BAR = 1.05


class Echo(Holdfast):
    """One of the loops."""

    def __init__(self, loop, **placing):
        super().__init__(**placing)
        self.loop = loop

    def command(self):
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        return [str(target / "release" / "examples" / "echo"), "--loop", self.loop]

    def note_ready(self, line):
        self.port = int(line.rsplit(":", 1)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warmup-seconds", type=float, default=0.5)
    options = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "-p", "holdfast-server", "--example", "echo"], cwd=ROOT, check=True)
    load_before = load_average()
    servers = {loop: Echo(loop, pin=SERVER_CPU) for loop in LOOPS} | {"redis": Redis(pin=SERVER_CPU)}
    cells = [Cell(f"{connections} connections, pipeline {pipeline}", "echo",
                  {"mix": "get", "connections": connections, "pipeline": pipeline}, tuple(servers))
             for pipeline in (1, 32) for connections in (50, 200)]
    for name, server in servers.items():
        server.start()
        if name == "redis":
            fill(server, KEYS, VALUE_BYTES, GENERATOR_CPU)
        server.pause()
    for number in range(1, options.rounds + 1):
        say(f"round {number} of {options.rounds}")
        for cell in cells:
            for name in cell.servers:
                turn(cell, name, servers[name], number, pin=GENERATOR_CPU, keys=KEYS, seconds=options.seconds,
                     warmup_seconds=options.warmup_seconds)
    for server in servers.values():
        server.stop()
    bars = [Bar(f"{cell.name}: own loop's CPU over tokio's",
                cell.ratio("cpu_seconds_per_million", over="tokio", of="epoll"), "<=", CPU_BAR) for cell in cells]
    write("echo", bars, rounds=options.rounds, seconds=options.seconds, load_average_before=load_before,
          cells={cell.name: cell.detail() for cell in cells})


if __name__ == "__main__":
    main()
