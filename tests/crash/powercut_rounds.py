"""Rounds of power cuts under load: the data folder lies on a disk that loses what was not synced.

The same rounds with `log.sync=never` must lose acknowledged writes: if they do not, the instrument is
blind and the rounds prove nothing.
"""

import random
import time

from crashlib import Server, Violation, must_be_sound, need_fuse, scratch, until
from kill_rounds import end_in_order
from parallel import shared_rounds
from powercut import PowerCutDisk
from world import World

PLANTED_ROUNDS_MAX = 5


def rounds(seed, count, folder, say):
    """Runs the rounds; gives figures. Raises Violation."""
    choice = random.Random(f"{seed}/powercut")
    totals = dict.fromkeys(("files_unsynced", "pages_dropped", "names_unsynced"), 0)
    with PowerCutDisk(folder / "backing", folder / "mount", seed=seed) as disk:
        server = Server(disk.mount / "data", folder / "server.log")
        world = World(seed)
        # The first start may be cut off, too: a folder half made must not stop the next one.
        server.spawn()
        time.sleep(choice.randrange(1, 40) / 1000)
        cut(disk, server, totals)
        server.start()
        with server.client() as client:
            world.prepare(client)
        for number in range(1, count + 1):
            after_ms = choice.randrange(50, 1500)
            world.run(server, lambda: (time.sleep(after_ms / 1000), cut(disk, server, totals)))
            while choice.random() < 0.3:
                server.spawn()
                time.sleep(choice.randrange(1, 100) / 1000)
                cut(disk, server, totals)
            sent, acknowledged = sum(len(w.ops) for w in world.writers), world.pending
            server.start()
            with server.client() as client:
                world.check(client)
            say(f"power cut {number}/{count}: after {after_ms} ms, {acknowledged} of {sent} acknowledged, "
                "all explained")
        end_in_order(server)
        must_be_sound(server)
        server.start()
        with server.client() as client:
            world.check(client)
            world.check_everything_expires(client)
        end_in_order(server)
    return {"rounds": count, "acknowledged": world.acknowledged, "reads": world.reads, **totals}


def cut(disk, server, totals):
    report = disk.cut(kill=[server.process])
    for name in totals:
        totals[name] += report[name]
    server.kill()
    disk.remount()


def run(seed, count, say):
    """As `rounds`, in folders of their own, side by side if they are many."""
    need_fuse()

    def share(seed, count):
        with scratch() as folder:
            return rounds(seed, count, folder, say)
    return shared_rounds(share, seed, count)


def run_planted(seed, say):
    """Without syncs acknowledged writes must be seen to be lost; a violation if none is."""
    need_fuse()
    for number in range(1, PLANTED_ROUNDS_MAX + 1):
        with scratch() as folder:
            lost = planted_round(f"{seed}/{number}", folder)
        say(f"planted bug, power cut {number}: {lost} acknowledged operations lost")
        if lost:
            return {"rounds": number, "lost": lost}
    raise Violation(f"log.sync=never lost nothing in {PLANTED_ROUNDS_MAX} power cuts: the disk or the check is blind")


def planted_round(seed, folder):
    """One cut that drops all that was not synced, on a node that syncs neither log nor engine."""
    with PowerCutDisk(folder / "backing", folder / "mount", seed=seed) as disk:
        settings = {"log.sync": "never", "engine.replay_bytes_max": "1GiB", "log.segment_bytes": "64MiB"}
        server = Server(disk.mount / "data", folder / "server.log", settings).start()
        world = World(seed)
        with server.client() as client:
            world.prepare(client)
        world.run(server, lambda: until(lambda: world.pending > 2000, "some operations are acknowledged"))
        disk.cut(files="drop", kill=[server.process])
        server.kill()
        disk.remount()
        server.start()
        with server.client() as client:
            return world.check(client, may_lose=True)
