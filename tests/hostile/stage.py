"""The server that the hostile cases play on, and what must hold in every one of them.

Guarantees: each case runs beside a witness; its peak of resident memory is measured for itself; a server
that a case killed is started anew for the next one.
"""

import json
import subprocess
import sys
from pathlib import Path

from certificates import Authority
from crashlib import Server, Violation
from watching import reset_peak, resident

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
MEMORY = 256 * MIB
OUTPUT_BYTES_MAX = 8 * MIB
PASSWORD = "open sesame"
CLIENTS_MAX = 10_050
LOGIN_SECONDS_MAX = 2
# The machine may be busy; a client that waits longer than this has been locked out.
WITNESS_MS_MAX = 5000
# What a case may make the server log from WARN on.
EXPECTED = [r"took too few of its replies"]

# By kind; `roomy` has enough memory for one connection to reach the bounds of a record.
KINDS = {"open": {}, "guarded": {"redis.password": PASSWORD, "redis.login_seconds_max": LOGIN_SECONDS_MAX},
         "roomy": {"memory": "2GiB"}, "tls": {"redis.tls_addr": "127.0.0.1:0", "tls.handshake_seconds_max": 2}}
SETTINGS = {"memory": "256MiB", "redis.output_bytes_max": "8MiB", "redis.clients_max": CLIENTS_MAX,
            "log.segment_bytes": "64MiB", "engine.replay_bytes_max": "64MiB"}


class Stage:
    """Servers by kind, started at their first use."""

    def __init__(self, folder):
        self._folder = folder
        self._servers = {}

    def servers(self):
        return [server for server in self._servers.values() if server.process.poll() is None]

    def _server(self, kind):
        server = self._servers.get(kind)
        if server is None:
            settings = {**SETTINGS, **KINDS[kind], **(self._certificate() if kind == "tls" else {})}
            server = Server(self._folder / kind, self._folder / f"{kind}.log", settings)
            self._servers[kind] = server
        if server.process is None or server.process.poll() is not None:
            server.start()
        return server

    def _certificate(self):
        authority = Authority(self._folder / "certificates")
        certificate, key = authority.issue("node")
        return {"tls.certificate_file": certificate, "tls.key_file": key}

    def play(self, case, choice):
        """Runs one case; gives what it tells. Raises Violation."""
        kind = getattr(case, "kind", "open")
        server, password = self._server(kind), KINDS[kind].get("redis.password")
        reset_peak(server.process.pid)
        before = resident(server.process.pid, "VmRSS")
        witness = Witness(server.port, password)
        try:
            told = case(server, choice)
        finally:
            seen = witness.end()
            alive = server.process.poll() is None
            log = server.complaints(EXPECTED) if alive else [server.log_text()[-2000:]]
        if not alive:
            raise Violation(f"the server ended: {log}")
        if log:
            raise Violation(f"unexpected in the log: {log[:5]}")
        peak, memory = resident(server.process.pid, "VmHWM"), 2048 * MIB if kind == "roomy" else MEMORY
        if peak > memory:
            # The next case begins with a server that is not swollen.
            server.kill()
            raise Violation(f"{peak // MIB} MiB resident at the peak, {before // MIB} before, memory={memory // MIB}MiB")
        if "failure" in seen:
            raise Violation(f"the well-behaved client: {seen['failure']}")
        if seen["longest_ms"] > WITNESS_MS_MAX:
            raise Violation(f"the well-behaved client waited {seen['longest_ms']} ms")
        return (f"{told}; memory +{max(peak - before, 0) // MIB} MiB; the other client did "
                f"{seen['requests']}, the longest in {seen['longest_ms']} ms")


class Witness:
    """See witness.py."""

    def __init__(self, port, password):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "witness.py"), str(port), *([password] if password else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # What it says if it cannot begin is told at its end.
        self._first = self._process.stdout.readline()

    def end(self):
        said, _ = self._process.communicate()
        if self._process.returncode != 0:
            return {"failure": f"{self._first}{said}".replace("at work\n", "").strip()}
        return json.loads(said)
