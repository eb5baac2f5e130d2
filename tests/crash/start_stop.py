"""Starting and stopping under load: replay tells how far it is, SIGTERM loses nothing and is prompt."""

import random
import re
import time

from crashlib import Server, Violation, must_be_sound, scratch
from kill_rounds import complain, end_in_order
from parallel import shared_rounds
from world import World

# The server's own bound of a stop, and what the end of the process may take beyond it.
STOP_S = 10
STOP_BOUND_S = STOP_S + 5


def run_replay(seed, say):
    """After a crash the start says how much it replays, up to the end."""
    with scratch() as folder:
        server = Server(folder / "data", folder / "server.log", {"engine.replay_bytes_max": "1GiB", "memory": "512MiB"})
        world = World(seed)
        server.start()
        with server.client() as client:
            world.prepare(client)
        world.run(server, lambda: (time.sleep(1), server.kill()))
        code, said = server.check()
        ends = re.search(r"engine has applied (\d+), the log holds \d+ to (\d+)", said)
        if code != 0 or not ends:
            raise Violation(f"check of the killed node ended with {code}: {said}")
        lacking = int(ends[2]) - int(ends[1])
        server.start()
        told = [(int(done), int(total)) for done, total in
                re.findall(r"replaying the log\s+done=(\d+)\s+total=(\d+)", server.log_text())]
        if not told or told[-1][0] != told[-1][1] or told != sorted(told):
            raise Violation(f"no progress up to the end: {told}")
        if lacking == 0 or told[-1][1] != lacking:
            raise Violation(f"{told[-1][1]} records replayed, the engine lacked {lacking}")
        with server.client() as client:
            world.check(client)
        end_in_order(server)
        say(f"replay: told {told}")
    return {"records": told[-1][1]}


def run_stop(seed, count, say):
    """As `stops`, side by side if they are many."""
    return shared_rounds(lambda seed, count: stops(seed, count, say), seed, count)


def stops(seed, count, say):
    """SIGTERM under load, and while starting: the exit is in order and all is there afterwards."""
    choice = random.Random(f"{seed}/stop")
    longest = 0
    with scratch() as folder:
        server = Server(folder / "data", folder / "server.log", {"shutdown.seconds_max": STOP_S})
        world = World(seed)
        server.start()
        with server.client() as client:
            world.prepare(client)
        for number in range(1, count + 1):
            after_ms = choice.randrange(50, 800)
            code, took = world.run(server, lambda: (time.sleep(after_ms / 1000), server.terminate(STOP_BOUND_S))[1])
            longest = max(longest, took)
            if code != 0:
                raise Violation(f"SIGTERM under load: exit code {code}: {server.log_text()[-1000:]}")
            complain(server)
            must_be_sound(server)
            server.spawn()
            time.sleep(choice.randrange(20) / 1000)
            code, _ = server.terminate(STOP_BOUND_S)
            # Before it catches signals the process ends by the signal itself.
            if code not in (0, -15):
                raise Violation(f"SIGTERM while starting: exit code {code}: {server.log_text()[-1000:]}")
            acknowledged = world.pending
            server.start()
            with server.client() as client:
                world.check(client)
            say(f"SIGTERM {number}/{count}: after {after_ms} ms, stopped in {took:.2f} s, "
                f"{acknowledged} acknowledged, all explained")
        end_in_order(server)
    return {"rounds": count, "stop_s_max": round(longest, 2), "acknowledged": world.acknowledged}
