"""Many faults at once, by chance. At most one log server is away at a time: two of three hold all that was acknowledged."""

import os
import signal

from crashlib import Violation
from cuts import cut_links


class Storm:
    """Changes what is broken; `calm` mends all of it."""

    def __init__(self, stage):
        self._stage, self._choice = stage, stage.choice
        self._stopped = set()
        # The log server that is away, and how it comes back.
        self._away = None

    def change(self):
        """Breaks or mends one thing."""
        node = self._choice.choice(self._stage.nodes)
        if node.process.poll() is not None:
            # As its supervisor.
            self._start(node)
            return
        change = self._choice.choice((self._cut, self._cut, self._heal, self._heal, self._stop, self._wake, self._kill, self._server))
        change(node)

    def calm(self):
        for node in self._stage.nodes:
            self._heal(node)
            self._wake(node)
            if node.process.poll() is not None:
                self._start(node)
        self._server_back()

    def _cut(self, node):
        """One link or all of them, one way or both."""
        links = self._stage.links_of(node)
        there, back = self._choice.choice(((True, True), (True, False), (False, True)))
        for link in links if self._choice.random() < 0.5 else [self._choice.choice(links)]:
            link.cut(there, back)

    def _heal(self, node):
        for link in self._stage.links_of(node):
            link.heal()

    def _stop(self, node):
        os.kill(node.process.pid, signal.SIGSTOP)
        self._stopped.add(node)

    def _wake(self, node):
        if node in self._stopped and node.process.poll() is None:
            os.kill(node.process.pid, signal.SIGCONT)
        self._stopped.discard(node)

    def _kill(self, node):
        self._stopped.discard(node)
        node.kill()

    def _start(self, node):
        self._stopped.discard(node)
        code = node.exited()
        if code not in (1, -signal.SIGKILL):
            raise Violation(f"{node.settings['node.name']} ended with {code}: {node.log_text()[-1500:]}")
        node.spawn()

    def _server(self, _node):
        """One stands still, is killed, or is cut off from the others; the one that is away comes back."""
        if self._away:
            self._server_back()
            return
        at, servers = self._choice.randrange(3), self._stage.servers
        how = self._choice.choice(("stop", "kill", "cut"))
        if how == "stop":
            process = servers.processes[at]
            os.kill(process.pid, signal.SIGSTOP)
            self._away = lambda: os.kill(process.pid, signal.SIGCONT)
        elif how == "kill":
            servers.kill(at)
            self._away = lambda: servers.start(at)
        else:
            self._away = cut_links(servers.links_of(at))

    def _server_back(self):
        if self._away:
            self._away()
            self._away = None
