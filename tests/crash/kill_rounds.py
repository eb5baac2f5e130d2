"""Rounds of `kill -9` under load, on one data folder: what was acknowledged is there, and nothing else."""

import random
import time

from crashlib import Server, Violation, must_be_sound, scratch
from parallel import shared_rounds
from world import World

# What a start after a kill may say from WARN on.
TORN = r"the log's last write was torn; it is cut off there"


def rounds(seed, count, folder, say):
    """Runs the rounds; gives figures. Raises Violation."""
    choice = random.Random(f"{seed}/kill")
    server = Server(folder / "data", folder / "server.log")
    world = World(seed)
    replayed = 0
    server.start()
    with server.client() as client:
        world.prepare(client)
    for number in range(1, count + 1):
        after_ms = choice.randrange(50, 1500)
        world.run(server, lambda: (time.sleep(after_ms / 1000), server.kill()))
        complain(server)
        # Killed while it starts, too: replay must be repeatable.
        while choice.random() < 0.3:
            server.spawn()
            time.sleep(choice.randrange(1, 60) / 1000)
            server.kill()
        server.start()
        replayed += "replaying the log" in server.log_text()
        sent, acknowledged = sum(len(w.ops) for w in world.writers), world.pending
        with server.client() as client:
            world.check(client)
        complain(server)
        say(f"kill {number}/{count}: after {after_ms} ms, {acknowledged} of {sent} acknowledged, all explained")
        if number % 3 == 0 or number == count:
            end_in_order(server)
            must_be_sound(server)
            server.start()
    with server.client() as client:
        world.check(client)
        world.check_everything_expires(client)
    end_in_order(server)
    must_be_sound(server)
    return {"rounds": count, "acknowledged": world.acknowledged, "reads": world.reads,
            "starts_with_replay": replayed, "types": ["string", *world.kinds]}


def end_in_order(server):
    code, _ = server.terminate()
    if code != 0:
        raise Violation(f"SIGTERM: exit code {code}: {server.log_text()[-1000:]}")
    complain(server)


def complain(server):
    lines = server.complaints([TORN])
    if lines:
        raise Violation(f"the server complained: {lines[:3]}")


def run(seed, count, say):
    """As `rounds`, in folders of their own, side by side if they are many."""
    def share(seed, count):
        with scratch() as folder:
            return rounds(seed, count, folder, say)
    return shared_rounds(share, seed, count)
