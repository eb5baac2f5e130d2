"""Faults of a cluster under load: an owner, a node that stands by, three log servers, and links between them.

A round loads the owner, breaks something, waits until a node takes writes, compares all that was acknowledged with
what is there, and mends what it broke. Whoever answered before and is cut off must answer nothing old.
"""

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
for neighbour in ("crash", "powercut"):
    sys.path.append(str(HERE.parent / neighbour))
from crashlib import Client, ErrorReply, Server, TooLate, Violation, need_fuse, until  # noqa: E402
from cuts import Link  # noqa: E402
from logservers import CLIENT_PORT, LogServers  # noqa: E402
from powercut import PowerCutDisk  # noqa: E402
from world import World  # noqa: E402

# What a node may say from WARN on under these faults.
EXPECTED = [r"no longer owns its data", r"another owner has taken", r"connection to the log servers? is lost",
            r"the log failed: writes stop", r"the log took no watermark", r"a log server refused something",
            r"the log holds what had no answer here", r"the cluster.s entries are not up to date",
            r"standing by: the log servers do not answer", r"no other node has taken the data over",
            r"expected INFO, got nothing", r"whether another node took over is not known", r"the log does not know that this node has stopped"]
# How long a cluster may be without a writer before a round counts as failed.
PATIENCE_S = 60
PLANTED_ROUNDS_MAX = 5
# How long a disk is slow.
SLOW_FOR_S = 3
# How long a node that lost the data may take to end, once it can know.
ENDS_WITHIN_S = 20


def expect(condition, what):
    if not condition:
        raise Violation(what)


class Stage:
    """All of it, on folders below one, on a disk whose power can be cut if that is wanted."""

    def __init__(self, folder, seed, on_disk=False, sync="always"):
        self.folder, self.seed, self.sync, self.disk = folder, seed, sync, None
        if on_disk:
            need_fuse()
            # nats-server never syncs a folder: ext4, on which it is meant to run, saves a file's name with the file.
            self.disk = PowerCutDisk(folder / "backing", folder / "mount", seed=seed, fsync_names=True)
        self.choice = random.Random(f"{seed}/faults")
        self.world = World(seed)

    def __enter__(self):
        home = self.folder
        if self.disk:
            self.disk.start()
            home = self.disk.mount
        self.servers = LogServers(home, 3, told=self.folder, advertised=False, sync=self.sync)
        self.servers.__enter__()
        self.links, self.nodes = {}, []
        for name in ("node1", "node2"):
            self.links[name] = [Link((address, CLIENT_PORT)) for address in self.servers.addresses]
            through = ",".join(f"nats://{link.address}" for link in self.links[name])
            settings = {**self.servers.settings, "log.servers": through, "node.name": name, "log.take_over": "when-silent"}
            self.nodes.append(Server(home / name, self.folder / f"{name}.log", settings))
        self.owner, self.other = self.nodes
        self.owner.start()
        with self.owner.client() as client:
            self.world.prepare(client)
        self.stand_by(self.other)
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                os.kill(node.process.pid, signal.SIGCONT)
                node.kill()
        for links in self.links.values():
            for link in links:
                link.close()
        self.servers.__exit__()
        if self.disk:
            self.disk.stop()

    def stand_by(self, node):
        node.spawn()
        until(lambda: "standing by" in node.log_text() or node.process.poll() is not None, "it stands by", PATIENCE_S)
        expect(node.process.poll() is None, f"it ended: {node.log_text()[-1000:]}")

    def links_of(self, node):
        return self.links[node.settings["node.name"]]

    def has_taken_over(self, node):
        """Whether a node that stood by says that it is ready."""
        if node.process.poll() is not None:
            return False
        if select.select([node.process.stdout], [], [], 0)[0]:
            node.ready()
            return True
        return False

    def writes(self, node):
        try:
            with node.client(2) as client:
                return not isinstance(client.call("SET", "probe", "x"), ErrorReply)
        except (ConnectionError, OSError, TooLate):
            return False

    def until_writable(self, began):
        """Waits until one of the two takes a write; makes it the owner. Gives the seconds since `began`."""
        def found():
            if self.has_taken_over(self.other):
                self.owner, self.other = self.other, self.owner
            return self.owner.process.poll() is None and self.is_awake(self.owner) and self.writes(self.owner)
        try:
            until(found, "a node takes writes", PATIENCE_S, 0.02)
        except TooLate:
            logs = [f"{node.settings['node.name']}: {node.log_text()[-1500:]}" for node in self.nodes]
            raise Violation(f"nobody takes writes after {PATIENCE_S} s\n" + "\n".join(logs)) from None
        took = time.monotonic() - began
        with self.owner.client() as client:
            client.expect("DEL", "probe")
        return took

    @staticmethod
    def is_awake(node):
        stat = Path(f"/proc/{node.process.pid}/stat").read_text(encoding="utf-8")
        return stat.rsplit(")", 1)[1].split()[0] != "T"

    def check(self):
        """All that was acknowledged is there, once."""
        acknowledged = self.world.pending
        with self.owner.client() as client:
            self.world.check(client)
        complaints = [line for node in self.nodes for line in node.complaints(EXPECTED)]
        expect(not complaints, f"a node complained: {complaints[:3]}")
        return acknowledged

    def settle(self, former):
        """The one that is not the owner stands by again; if it was the owner before, it has to end first."""
        if self.other is former and former.process.poll() is None:
            try:
                code = former.exited(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                raise Violation(f"the node that lost the data does not end: {former.log_text()[-1500:]}") from None
            expect(code == 1, f"the node that lost the data ended with {code}")
        if self.other.process.poll() is not None:
            self.stand_by(self.other)
        self.servers.wait_until_healthy()


# ---- faults: each is begun, and mended once a node takes writes ----------------------------------


def kill_owner(stage):
    stage.owner.kill()
    return lambda: None


def stop_owner(stage):
    owner = stage.owner
    os.kill(owner.process.pid, signal.SIGSTOP)
    until(lambda: not stage.is_awake(owner), "it stands still")
    return lambda: os.kill(owner.process.pid, signal.SIGCONT)


def cut_owner(there, back):
    def cut(stage):
        links = stage.links_of(stage.owner)
        for link in links:
            link.cut(there, back)

        def heal():
            for link in links:
                link.heal()
        return heal
    return cut


def kill_leader(stage):
    at = stage.servers.leader("holdfast-0")
    stage.servers.kill(at)
    return lambda: stage.servers.start(at)


def kill_machine(stage):
    """The owner, and a log server at the same time; every other time the one that leads."""
    leader = stage.servers.leader("holdfast-0")
    at = leader if stage.choice.random() < 0.5 else (leader + 1) % 3
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
    """Of everything at once; all of it starts again from what was synced."""
    processes = [*stage.servers.processes, *(node.process for node in stage.nodes)]
    stage.disk.cut(kill=processes)
    for node in stage.nodes:
        node.kill()
    stage.disk.remount()
    for at in range(3):
        stage.servers.start(at)
    for node in stage.nodes:
        node.spawn()
    # Whoever is faster owns the data.
    stage.owner, stage.other = stage.other, stage.owner
    first = until(lambda: next((node for node in stage.nodes if stage.has_taken_over(node)), None), "one of them owns the data",
                  PATIENCE_S)
    stage.owner, stage.other = first, next(node for node in stage.nodes if node is not first)
    return lambda: None


FAULTS = {
    "kill": kill_owner,
    "stop": stop_owner,
    "partition": cut_owner(True, True),
    "partition, nothing arrives": cut_owner(True, False),
    "partition, no answers": cut_owner(False, True),
    "leader": kill_leader,
    "machine": kill_machine,
}
DISK_FAULTS = {
    "slow disk of the leader": slow(lambda stage: f"log{stage.servers.leader('holdfast-0')}"),
    "slow disk of the owner": slow(lambda stage: stage.owner.settings["node.name"]),
    "power": cut_power,
}
# Who was the owner is reached by clients all the while.
REACHED = ("stop", "partition", "partition, nothing arrives", "partition, no answers")


def longest_write(stage):
    """The longest that a write waits while the fault is there, in seconds."""
    longest, until_s = 0.0, time.monotonic() + SLOW_FOR_S
    while time.monotonic() < until_s:
        longest = max(longest, stage.until_writable(time.monotonic()))
    return longest


def reads_nothing_old(stage, former, reader):
    """What the former owner answers after the new one has acknowledged another value: that one, or no value."""
    with stage.owner.client() as client:
        client.expect("SET", "stale", "new")
    until_s = time.monotonic() + 1
    answers = 0
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
        answers += 1
        expect(isinstance(reply, ErrorReply) or bytes(reply) == b"new", f"{reply!r} was read after another node had written")
    return answers


def one_round(stage, name, begin):
    """Gives the seconds until a node took a write."""
    former = stage.owner
    with former.client() as client:
        client.expect("SET", "stale", "old")
    took = []

    def moment():
        time.sleep(stage.choice.uniform(0.3, 1.2))
        reader = Client(former.port, 2)
        reader.expect("GET", "stale")
        began = time.monotonic()
        mend = begin(stage)
        took.append(stage.until_writable(began))
        if name.startswith("slow"):
            took[-1] = max(took[-1], longest_write(stage))
        if name in REACHED and stage.owner is not former:
            if name == "stop":
                mend()
                mend = lambda: None  # noqa: E731
            reads_nothing_old(stage, former, reader)
        mend()
    stage.world.run(former, moment)
    with stage.owner.client() as client:
        client.expect("DEL", "stale")
    acknowledged = stage.check()
    # After a power cut nobody is left who was the owner.
    stage.settle(None if name == "power" else former)
    return took[0], acknowledged


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


def rounds(folder, seed, say, count, names):
    """So many rounds of each of these faults; gives the seconds until a node took writes, by fault."""
    took = {name: [] for name in names}
    for faults, on_disk in ((FAULTS, False), (DISK_FAULTS, True)):
        wanted = {name: faults[name] for name in names if name in faults}
        if not wanted:
            continue
        home = folder / ("on-disk" if on_disk else "plain")
        home.mkdir()
        with Stage(home, seed, on_disk) as stage:
            for number in range(1, count + 1):
                for name, begin in wanted.items():
                    seconds, acknowledged = one_round(stage, name, begin)
                    took[name].append(seconds)
                    say(f"{name} {number}/{count}: {acknowledged} acknowledged before, all explained; writable after "
                        f"{seconds:.2f} s")
    return took
