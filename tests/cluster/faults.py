"""Faults of a cluster under load; what stands there is in stage.py.

A round loads the owner, breaks something, waits until a node takes writes, compares all that was acknowledged with
what is there, and mends what it broke. Clients that are recorded go on all the while, at every node: what they were told
has one order that explains it. Whoever answered before and is cut off must answer nothing old.
"""

import shutil
import time
from dataclasses import asdict, dataclass

from stage import SHARD, Stage, expect, stand_still
from crashlib import Client, ErrorReply, TooLate, Violation, until
from cuts import cut_links
from history import READER, WRITER, Recorder, judge
from storm import Storm

PLANTED_ROUNDS_MAX = 5
# How long a disk is slow.
SLOW_FOR_S = 3
# How long a storm lasts.
STORM_S = 12
# How long clients go on once all is mended: what was held comes through then.
AFTERWARDS_S = 0.5


@dataclass
class Round:
    """What a round showed."""

    writable_s: float
    # The longest that a client which only writes, and one which only reads, waited from one answer to the next.
    write_stall_s: float
    read_stall_s: float
    # The longest that any request was left without an answer on a connection that stayed open, at whichever node.
    hang_s: float
    # Requests of the load, and of the recorded clients; of those, without an answer.
    acknowledged: int
    recorded: int
    unknown: int
    # Whether the judge came to an end.
    decided: bool

    def told(self):
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


# ---- faults: each is begun, and mended once a node takes writes ----------------------------------


def kill_owner(stage):
    stage.owner.kill()
    return lambda: None


def stop_owner(stage):
    return stand_still(stage.owner.process)


def cut_owner(there, back):
    return lambda stage: cut_links(stage.links_of(stage.owner), there, back)


def gather_at_leader(stage):
    """Brings all nodes to the log's leader: then none of them is with a server that takes anything once it is cut off."""
    leader = stage.servers.leader(SHARD)
    elsewhere = [link for links in stage.links.values() for at, link in enumerate(links) if at != leader]
    for link in elsewhere:
        link.close()
    until(lambda: stage.servers.clients(leader) == len(stage.nodes), "all nodes are with the leader")
    for link in elsewhere:
        link.heal()
    stage.until_writable(time.monotonic())
    stage.settle(None)


def cut_leader(stage):
    """From the other log servers. Nodes reach it, and it does not know yet that it leads nothing any more."""
    return cut_links(stage.servers.links_of(stage.servers.leader(SHARD)))


def cut_machine(stage):
    """The owner and the leader of the log see each other, and nobody else sees them but clients."""
    at, owner = stage.servers.leader(SHARD), stage.owner
    others = [links[at] for name, links in stage.links.items() if name != stage.name(owner)]
    mine = [link for server, link in enumerate(stage.links_of(owner)) if server != at]
    return cut_links([*stage.servers.links_of(at), *others, *mine])


def kill_leader(stage):
    at = stage.servers.leader(SHARD)
    stage.servers.kill(at)
    return lambda: stage.servers.start(at)


def stop_leader(stage):
    """Its connections stay open, and nothing comes from them."""
    return stand_still(stage.servers.processes[stage.servers.leader(SHARD)])


def kill_machine(stage):
    """The owner, and a log server at the same time: every other time the one that leads."""
    leader = stage.servers.leader(SHARD)
    at = leader if stage.rounds % 2 else (leader + 1) % 3
    stage.servers.processes[at].kill()
    stage.owner.kill()
    stage.servers.kill(at)
    return lambda: stage.servers.start(at)


def slow(path):
    """Each sync there waits for a fifth of a second."""
    def begin(stage):
        name = path(stage)
        stage.disk.set_fault("slow", path=f"{name}/*", ms=200)
        return stage.disk.clear_faults
    return begin


def cut_power(stage):
    """Of everything at once; all of it starts again from what was synced, and whoever is faster owns the data."""
    processes = [*stage.servers.processes, *(node.process for node in stage.nodes)]
    stage.disk.cut(kill=processes)
    for node in stage.nodes:
        node.kill()
    stage.disk.remount()
    for at in range(3):
        stage.servers.start(at)
    for node in stage.nodes:
        node.spawn()
    return lambda: None


def storm(stage):
    """Nodes and log servers are cut off, stand still, are killed and come back, several at once; never two log servers."""
    weather = Storm(stage)
    until_s = time.monotonic() + STORM_S
    while (left := until_s - time.monotonic()) > 0:
        weather.change()
        time.sleep(min(left, stage.choice.uniform(0.1, 1.5)))
    weather.calm()
    return lambda: None


FAULTS = {
    "kill": kill_owner,
    "stop": stop_owner,
    "partition": cut_owner(True, True),
    "nothing_arrives": cut_owner(True, False),
    "no_answers": cut_owner(False, True),
    "leader": kill_leader,
    "leader_stops": stop_leader,
    "leader_cut": cut_leader,
    "machine": kill_machine,
    "machine_cut": cut_machine,
    "storm": storm,
}
DISK_FAULTS = {
    "slow_log": slow(lambda stage: f"log{stage.servers.leader(SHARD)}"),
    "slow_owner": slow(lambda stage: stage.name(stage.owner)),
    "power": cut_power,
}
# Who was the owner is reached by clients all the while.
REACHED = ("stop", "partition", "nothing_arrives", "no_answers", "leader_cut", "machine_cut")


def longest_write(stage):
    """The longest that a write waits while the fault is there, in seconds."""
    longest, until_s = 0.0, time.monotonic() + SLOW_FOR_S
    while time.monotonic() < until_s:
        longest = max(longest, stage.until_writable(time.monotonic()))
    return longest


def reads_nothing_old(stage, former, reader):
    """What the former owner answers after the new one has acknowledged another value: that one, or no value."""
    stage.done("SET", "stale", "new")
    until_s = time.monotonic() + 1
    while time.monotonic() < until_s:
        try:
            reply = reader.call("GET", "stale")
        except (ConnectionError, OSError, TooLate):
            if former.process.poll() is not None:
                break
            time.sleep(0.02)
            try:
                reader = Client(former.port, 1)
            except OSError:
                break
            continue
        expect(isinstance(reply, ErrorReply) or bytes(reply) == b"new", f"{reply!r} was read after another node had written")


def one_round(stage, name, begin):
    stage.rounds += 1
    if name == "leader_cut" and stage.rounds % 2:
        gather_at_leader(stage)
    stage.done("SET", "stale", "old")
    former, process = stage.owner, stage.owner.process
    recorder = Recorder(stage.ports, f"{stage.seed}/{stage.rounds}")

    def moment():
        time.sleep(stage.choice.uniform(0.3, 1.2))
        reader = Client(former.port, 2)
        reader.expect("GET", "stale")
        began = time.monotonic()
        mend = begin(stage)
        took = stage.until_writable(began)
        if name.startswith("slow"):
            took = max(took, longest_write(stage))
        if name in REACHED and stage.owner is not former:
            if name == "stop":
                mend()
                mend = lambda: None  # noqa: E731
            reads_nothing_old(stage, former, reader)
        mend()
        time.sleep(AFTERWARDS_S)
        return took
    recorder.start()
    try:
        took = stage.world.run(former, moment)
    finally:
        recorder.stop()
    stage.until_writable(time.monotonic())
    stage.nobody_complained()
    stage.settle(process)
    recorder.read_all(stage.owner.port)
    decided = judge(recorder.log.text(), stage.folder / f"history{stage.rounds}.txt")
    stage.done("DEL", "stale")
    acknowledged = stage.check()
    log = recorder.log
    return Round(took, log.stall(WRITER), log.stall(READER), log.hang, acknowledged, len(log.requests), log.unknown, decided)


def planted(folder, seed, say):
    """Log servers that acknowledge before they sync lose acknowledged writes in a power cut: if the rounds do not see that,
    they see nothing."""
    for number in range(1, PLANTED_ROUNDS_MAX + 1):
        home = folder / f"planted{number}"
        home.mkdir()
        with Stage(home, f"{seed}/{number}", True, sync="2m") as stage:
            try:
                one_round(stage, "power", cut_power)
            except Violation as violation:
                return say(f"not synced, power cut {number}: {str(violation)[:160]!r}")
    raise Violation(f"{PLANTED_ROUNDS_MAX} power cuts of servers that do not sync went unnoticed")


def rounds(folder, seed, name, count):
    """So many rounds of one fault, each given once it has ended."""
    on_disk = name in DISK_FAULTS
    begin = DISK_FAULTS[name] if on_disk else FAULTS[name]
    with Stage(folder, seed, on_disk) as stage:
        for _ in range(count):
            yield one_round(stage, name, begin)


def a_round_of_each(folder, seed, say, names):
    """One round of each of these faults, on one stage."""
    on_disk = names[0] in DISK_FAULTS
    with Stage(folder, seed, on_disk) as stage:
        for name in names:
            seen = one_round(stage, name, (DISK_FAULTS if on_disk else FAULTS)[name])
            expect(seen.decided, f"{name}: the judge came to no end")
            say(f"{name}: {seen.acknowledged} acknowledged before, {seen.recorded} recorded, all explained; writable after "
                f"{seen.writable_s:.2f} s, longest wait {seen.write_stall_s:.2f} s for a write, {seen.read_stall_s:.2f} s for a read")


def keep(folder, place):
    """What a person needs to see why a round failed."""
    place.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.log", "*.conf", "history*.txt"):
        for path in folder.glob(pattern):
            shutil.copy(path, place)
