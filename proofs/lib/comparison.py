"""Holdfast and redis-server side by side: the same cells, the same generator, turn by turn.

All servers of a group run at once, but only the one whose turn it is is not paused, so that its
background work falls into its own turns and into nobody else's. A round gives every cell a turn on
every server (A B A B); figures are medians over rounds, ratios are medians of the rounds' ratios.
"""

import statistics
from dataclasses import astuple, dataclass, field

from generator import Figures, Generator, drive, fill, say
from promptness import Witness
from servers import Holdfast, HoldfastOverTls, Redis

SERVER_CPU, GENERATOR_CPU = 0, 1
KEYS, VALUE_BYTES, ZIPF = 1_000_000, 100, 0.99
# Room for all keys in the row cache: the reads that are compared are those of hot rows.
GET_MEMORY = "4GiB"


class TooShort(Exception):
    """The turns were so short that the kernel counted no CPU time: it counts in ticks of 10 ms."""


@dataclass
class Cell:
    """One kind of load, and what each server made of it, round by round."""

    name: str
    group: str
    load: dict
    servers: tuple = ("holdfast", "redis")
    rounds: dict = field(default_factory=dict)
    # Part of each turn in which the machine stood still.
    still: dict = field(default_factory=dict)

    def median(self, server):
        columns = zip(*(astuple(figures) for figures in self.rounds[server]))
        return Figures(*(statistics.median(column) for column in columns))

    def ratio(self, what, over="redis", of="holdfast"):
        """Median over the rounds of `of` divided by `over`."""
        pairs = [(getattr(a, what), getattr(b, what)) for a, b in zip(self.rounds[of], self.rounds[over], strict=True)]
        if any(b == 0 for _, b in pairs):
            raise TooShort(f"{self.name}: {what} of {over} is 0 in a round: longer turns are needed")
        return statistics.median(a / b for a, b in pairs)

    def detail(self):
        return {server: {**self.median(server).rounded(), "machine_still": round(statistics.median(self.still[server]), 4)}
                for server in self.servers}


def durable_cells():
    """SET, acknowledged when it is on the disk."""
    def cell(connections, pipeline, servers=("holdfast", "redis"), group="durable"):
        name = f"durable SET, {connections} connection{'s' * (connections > 1)}, pipeline {pipeline}"
        name += ", not pinned" if group == "durable, not pinned" else ""
        return Cell(name, group, {"mix": "set", "connections": connections, "pipeline": pipeline}, servers)
    return [
        cell(1, 1), cell(50, 1), cell(200, 1, ("holdfast", "redis", "holdfast without sync")),
        cell(50, 16), cell(200, 16), cell(50, 1, group="durable, not pinned"),
        cell(200, 1, group="durable, not pinned"), cell(200, 16, group="durable, not pinned"),
    ]


def hot_get_cells():
    """GET of rows that lie in memory."""
    def cell(pipeline, group="hot"):
        name = f"hot GET, 50 connections, pipeline {pipeline}"
        name += ", not pinned" if group == "hot, not pinned" else ""
        return Cell(name, group, {"mix": "get", "zipf": ZIPF, "connections": 50, "pipeline": pipeline})
    return [cell(1), cell(32), cell(1, "hot, not pinned"), cell(32, "hot, not pinned")]


def tls_cells():
    """What TLS costs: the same load in clear and over TLS, once the connections stand."""
    servers = ("holdfast", "holdfast over TLS")
    load = {"zipf": ZIPF, "connections": 50}
    return [Cell(f"{what}, 50 connections, pipeline {pipeline}", "tls", {**load, "mix": mix, "pipeline": pipeline}, servers)
            for what, mix in (("hot GET", "get"), ("durable SET", "set")) for pipeline in (1, 32)]


def servers_of(group):
    """What takes turns in a group. Not pinned, each may use every core with every thread it has."""
    pin = None if group.endswith("not pinned") else SERVER_CPU
    if group == "tls":
        settings = {"memory": GET_MEMORY}
        return {"holdfast": Holdfast(settings, pin=pin), "holdfast over TLS": HoldfastOverTls(settings, pin=pin)}
    if group.startswith("durable"):
        servers = {"holdfast": Holdfast(pin=pin), "redis": Redis("always", pin=pin)}
        if pin is not None:
            servers["holdfast without sync"] = Holdfast({"log.sync": "never"}, pin=pin)
        return servers
    return {"holdfast": Holdfast({"memory": GET_MEMORY}, pin=pin), "redis": Redis(pin=pin)}


def run(cells, rounds, seconds, warmup_seconds, keys=KEYS):
    """Takes all turns of all cells, group by group."""
    for group in dict.fromkeys(cell.group for cell in cells):
        mine = [cell for cell in cells if cell.group == group]
        pin = None if group.endswith("not pinned") else GENERATOR_CPU
        servers = servers_of(group)
        for name, server in servers.items():
            server.start()
            say(f"{group}: filling {name}")
            fill(server, keys, VALUE_BYTES, pin, connections=50)
            if group.startswith(("hot", "tls")):
                # Every row is read once, evenly: it then lies in memory.
                drive(server, mix="get", keys=keys, requests=3 * keys, pipeline=32, pin=pin)
            server.pause()
        for number in range(1, rounds + 1):
            say(f"{group}: round {number} of {rounds}")
            for cell in mine:
                for name in cell.servers:
                    turn(cell, name, servers[name], number, pin=pin, keys=keys, seconds=seconds,
                         warmup_seconds=warmup_seconds)
        for server in servers.values():
            server.stop()


def turn(cell, name, server, number, **options):
    """One cell on one server."""
    server.resume()
    witness = Witness()
    witness.begin()
    try:
        generator = Generator(server, value_bytes=VALUE_BYTES, seed=number, **cell.load, **options)
        cell.rounds.setdefault(name, []).append(generator.figures())
    finally:
        server.pause()
        witness.end()
    cell.still.setdefault(name, []).append(witness.still)
