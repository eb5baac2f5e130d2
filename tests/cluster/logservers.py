"""nats-servers on loopback, each with its data in a folder of its own."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import urllib.request

from crashlib import Unavailable, Violation, until
from cuts import Link

CLIENT_PORT, ROUTE_PORT, MONITOR_PORT, NOBODY_LISTENS_PORT = 4222, 6222, 8222, 9
# Each set of servers has loopback addresses of its own, so that their ports are free.
_nets = itertools.count(1)


class LogServers:
    """One log server, or several that form a cluster; they end with the `with`."""

    def __init__(self, folder, count, told=None, advertised=True, sync="always", more="", linked=False, threads=None):
        """Data below `folder`, settings and logs below `told` if they are to be elsewhere. Without `advertised` the
        servers tell clients nothing of each other; `more` are further settings. With `linked` they reach each other
        through links, so that one can be cut off from the others. `threads` bounds what each runs Go code on."""
        told = told or folder
        self.program = os.environ.get("HOLDFAST_NATS_SERVER") or shutil.which("nats-server")
        if not self.program:
            raise Unavailable("no nats-server: scripts/steps/clients installs it")
        pid = os.getpid()
        net = f"127.{128 + pid // 256 % 64}.{pid % 256}"
        first = 10 * next(_nets)
        self.addresses = [f"{net}.{first + at}" for at in range(count)]
        self.processes = [None] * count
        self._sync = sync
        self._environment = {**os.environ, **({"GOMAXPROCS": str(threads)} if threads else {})}
        self._told = told
        # By the server that connects, and the one that it connects to.
        self.links = {}
        if linked:
            pairs = itertools.permutations(range(count), 2)
            self.links = {(a, b): Link((self.addresses[b], ROUTE_PORT)) for a, b in pairs}
        for at, address in enumerate(self.addresses):
            routes = ", ".join(f"nats://{one}" for one in self._routes(at))
            home = folder / f"log{at}"
            home.mkdir()
            text = (f'server_name: n{at}\nlisten: "{address}:{CLIENT_PORT}"\nhttp: "{address}:{MONITOR_PORT}"\n'
                    f'log_file: "{told}/log{at}.log"\njetstream {{ store_dir: "{home}/store", sync_interval: {sync} }}\n')
            if count > 1:
                # What servers tell each other of a third one must not be a way around its links.
                told_of = f'advertise: "{address}:{NOBODY_LISTENS_PORT}", ' if linked else ""
                text += (f'cluster {{ name: test, listen: "{address}:{ROUTE_PORT}", routes: [{routes}], {told_of}'
                         f'no_advertise: {"false" if advertised else "true"} }}\n')
            (told / f"log{at}.conf").write_text(text + more, encoding="utf-8")

    def _routes(self, at):
        """What this server connects to."""
        if self.links:
            return [link.address for (one, _), link in self.links.items() if one == at]
        return [f"{address}:{ROUTE_PORT}" for address in self.addresses]

    def links_of(self, at):
        """All that lies between this server and the others."""
        return [link for pair, link in self.links.items() if at in pair]

    @property
    def settings(self):
        """What a node needs to know of them."""
        settings = {"log.servers": ",".join(f"nats://{address}:{CLIENT_PORT}" for address in self.addresses),
                    "log.replicas": len(self.addresses)}
        if self._sync == "always":
            settings["log.monitors"] = self.monitors
        return settings

    @property
    def monitors(self):
        """Where the servers tell how they run."""
        return ",".join(f"http://{address}:{MONITOR_PORT}" for address in self.addresses)

    def __enter__(self):
        for at in range(len(self.addresses)):
            self.start(at)
        self.wait_until_healthy()
        return self

    def __exit__(self, *_):
        for at in range(len(self.addresses)):
            self.kill(at)
        for link in self.links.values():
            link.end()

    def start(self, at):
        self.processes[at] = subprocess.Popen(
            [self.program, "-c", self._told / f"log{at}.conf"], stdin=subprocess.DEVNULL, env=self._environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, at):
        if self.processes[at]:
            self.processes[at].send_signal(signal.SIGCONT)
            self.processes[at].kill()
            self.processes[at].wait()

    def wait_until_healthy(self):
        for at in range(len(self.addresses)):
            until(lambda at=at: '"ok"' in (self._ask(at, "/healthz") or ""), f"log server {at} is healthy", 40)

    def leader(self, stream):
        """The server without which the stream takes nothing."""
        def found():
            for at in range(len(self.addresses)):
                report = json.loads(self._ask(at, "/jsz?streams=true&accounts=true") or "{}")
                for account in report.get("account_details") or []:
                    for one in account.get("stream_detail") or []:
                        leader = (one.get("cluster") or {}).get("leader")
                        if one["name"] == stream and leader:
                            return int(leader.removeprefix("n")) + 1
            return 0
        return until(found, f"{stream} has a leader", 40) - 1

    def clients(self, at):
        """How many connections of clients a server has."""
        return json.loads(self._ask(at, "/connz") or "{}").get("num_connections", 0)

    def _ask(self, at, path):
        if self.processes[at].poll() is not None:
            raise Violation(f"log server {at} has ended")
        try:
            with urllib.request.urlopen(f"http://{self.addresses[at]}:{MONITOR_PORT}{path}", timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            return None
