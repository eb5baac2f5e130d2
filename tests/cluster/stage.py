"""A cluster for faults: an owner, two nodes that stand by, three log servers, and a link between each node and each server.

It can be put on a disk whose power can be cut. Nodes keep their ports when they start again, as clients expect it of them.
Who owns the data is found by asking: `until_writable` is how long that took.
"""

import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
for neighbour in ("crash", "powercut"):
    sys.path.append(str(HERE.parent / neighbour))
from crashlib import Client, ErrorReply, Server, TooLate, Violation, encode, need_fuse, until  # noqa: E402
from cuts import Link  # noqa: E402
from logservers import CLIENT_PORT, LogServers  # noqa: E402
from powercut import PowerCutDisk  # noqa: E402
from world import World  # noqa: E402

NODES = ("node1", "node2", "node3")
SHARD = "holdfast-0"
# What a node may say from WARN on under these faults.
EXPECTED = [r"no longer owns its data", r"another owner has taken", r"connection to the log servers? is lost",
            r"the log failed: writes stop", r"the log took no watermark", r"a log server refused something",
            r"whether this log server syncs is not known",
            r"the log holds what had no answer here", r"the cluster.s entries are not up to date",
            r"standing by: the log servers do not answer", r"this log server takes nothing", r"no other node has taken the data over",
            r"expected INFO, got nothing", r"whether another node took over is not known", r"the log does not know that this node has stopped"]
# How long a cluster may be without a writer before a round counts as failed.
PATIENCE_S = 60
# How long a node that lost the data may take to end, once it can know.
ENDS_WITHIN_S = 20
# Below the ports that the system gives to connections: a node that starts again finds its own free.
PORTS = range(10_000, 32_000)


def expect(condition, what):
    if not condition:
        raise Violation(what)


class Stage:
    """All of it, on folders below one."""

    def __init__(self, folder, seed, on_disk=False, sync="always"):
        self.folder, self.seed, self.sync, self.disk = folder, seed, sync, None
        if on_disk:
            need_fuse()
            # nats-server never syncs a folder: ext4, on which it is meant to run, saves a file's name with the file.
            self.disk = PowerCutDisk(folder / "backing", folder / "mount", seed=seed, fsync_names=True)
        self.choice = random.Random(f"{seed}/faults")
        self.world = World(seed)
        self.rounds = 0

    def __enter__(self):
        home = self.folder
        if self.disk:
            self.disk.start()
            home = self.disk.mount
        self.servers = LogServers(home, 3, told=self.folder, advertised=False, sync=self.sync, linked=True)
        self.servers.__enter__()
        self.links, self.nodes = {}, []
        for name in NODES:
            self.links[name] = [Link((address, CLIENT_PORT)) for address in self.servers.addresses]
            through = ",".join(f"nats://{link.address}" for link in self.links[name])
            port = port_to_keep()
            settings = {**self.servers.settings, "log.servers": through, "node.name": name, "log.take_over": "when-silent",
                        "redis.addr": f"127.0.0.1:{port}"}
            node = Server(home / name, self.folder / f"{name}.log", settings)
            node.port = port
            self.nodes.append(node)
        self.owner = self.nodes[0].start()
        with self.owner.client() as client:
            self.world.prepare(client)
        for node in self.others:
            self.stand_by(node)
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                os.kill(node.process.pid, signal.SIGCONT)
                node.kill()
        for links in self.links.values():
            for link in links:
                link.end()
        self.servers.__exit__()
        if self.disk:
            self.disk.stop()

    @property
    def others(self):
        """Those that are not the owner."""
        return [node for node in self.nodes if node is not self.owner]

    @property
    def ports(self):
        return [node.port for node in self.nodes]

    @staticmethod
    def name(node):
        return node.settings["node.name"]

    def links_of(self, node):
        return self.links[self.name(node)]

    def stands_by(self, node):
        """Whether it sends clients to another node."""
        try:
            with Client(node.port, 1) as client:
                reply = client.call("GET", "stale")
            return isinstance(reply, ErrorReply) and reply.code == "MOVED" and not reply.text.endswith(f":{node.port}")
        except (ConnectionError, OSError, TooLate):
            return False

    def stand_by(self, node):
        """Starts a node, and waits until it stands by."""
        node.spawn()
        try:
            until(lambda: node.process.poll() is not None or self.stands_by(node), "", PATIENCE_S)
        except TooLate:
            raise Violation(f"{self.name(node)} does not stand by: {node.log_text()[-1500:]}") from None
        expect(node.process.poll() is None, f"{self.name(node)} ended: {node.log_text()[-1500:]}")

    def until_writable(self, began):
        """Waits until a node takes a write; it is the owner from then on. Gives the seconds since `began`."""
        probes = [Probe(node) for node in self.nodes]

        def found():
            if all(node.process.poll() is not None for node in self.nodes):
                raise Violation("every node has ended\n" + self.last_words())
            return next((probe.node for probe in probes if probe.is_taken()), None)
        try:
            self.owner = until(found, "", PATIENCE_S, 0.01)
        except TooLate:
            raise Violation(f"nobody takes writes after {PATIENCE_S} s\n{self.last_words()}") from None
        finally:
            took = time.monotonic() - began
            for probe in probes:
                probe.close()
        return took

    def done(self, *request):
        """Has this done by whoever is the owner by then; gives the reply. It may be done more than once: the log servers may
        choose another leader at any time, on a machine that is busy."""
        for _ in range(10):
            self.until_writable(time.monotonic())
            try:
                with self.owner.client() as client:
                    reply = client.call(*request)
            except (ConnectionError, OSError):
                continue
            if not isinstance(reply, ErrorReply):
                return reply
        raise Violation(f"{request}: not done")

    def last_words(self):
        return "\n".join(f"{self.name(node)}: {node.log_text()[-1500:]}" for node in self.nodes)

    def check(self):
        """All that was acknowledged is there, once; gives how much that was."""
        acknowledged = self.world.pending
        with self.owner.client() as client:
            self.world.check(client)
        return acknowledged

    def nobody_complained(self):
        complaints = [line for node in self.nodes for line in node.complaints(EXPECTED)]
        expect(not complaints, f"a node complained: {complaints[:3]}")

    def settle(self, process):
        """All stand by but one, the owner. A node ends only because it lost the data, or was killed; `process`, which was the
        owner's, has to, and every one that ended is started again."""
        for node in self.others:
            lost = node.process is process
            try:
                until(lambda node=node, lost=lost: node.process.poll() is not None or not lost and self.stands_by(node), "",
                      ENDS_WITHIN_S)
            except TooLate:
                raise Violation(f"{self.name(node)} does not {'end' if lost else 'stand by'}: {node.log_text()[-1500:]}") from None
            code = node.process.poll()
            if code is not None:
                node.exited()
                in_order = code == -signal.SIGKILL or code == 1 and "no longer owns its data" in node.log_text()
                expect(in_order, f"{self.name(node)} ended with {code}: {node.log_text()[-1500:]}")
                self.stand_by(node)
        self.servers.wait_until_healthy()
        # Once more: servers that come back may choose another leader, and another node may be the owner by then.
        self.until_writable(time.monotonic())


class Probe:
    """A write at one node that leaves nothing, repeated until it is acknowledged; nobody waits for it."""

    REQUESTS = (("MULTI",), ("SET", "probe", "x"), ("DEL", "probe"), ("EXEC",))

    def __init__(self, node):
        self.node, self._client, self._answers = node, None, []

    def is_taken(self):
        try:
            if self._client is None:
                if self.node.process.poll() is not None:
                    return False
                self._client, self._answers = Client(self.node.port, 5), []
                self._client.send(b"".join(encode(*words) for words in self.REQUESTS))
            while self._client.has_answer():
                self._answers.append(self._client.read())
                if isinstance(self._answers[-1], ErrorReply):
                    self.close()
                    return False
                if len(self._answers) == len(self.REQUESTS):
                    return True
        except (ConnectionError, OSError, TooLate):
            self.close()
        return False

    def close(self):
        if self._client:
            self._client.close()
            self._client = None


def is_awake(process):
    stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    return stat.rsplit(")", 1)[1].split()[0] != "T"


def stand_still(process):
    """Gives what wakes it again."""
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: not is_awake(process), "it stands still")
    return lambda: os.kill(process.pid, signal.SIGCONT)


def port_to_keep():
    """A port that is free, and that no connection takes while its node is down."""
    choice = random.SystemRandom()
    while True:
        port = choice.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
