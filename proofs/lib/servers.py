"""Servers as processes: Holdfast and the peer that it is measured beside, started alike.

Guarantees: a server owns a fresh folder and a free port of 127.0.0.1; whatever ends the script ends
every server that it started, by its own id, and removes the folders. Paused servers use no CPU.
"""

import atexit
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "crash"))
sys.path.append(str(ROOT / "tests" / "tls"))

from certificates import Authority  # noqa: E402
from crashlib import Client, binary  # noqa: E402

START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60
_servers = []
_folders = []


def folder(prefix):
    """A folder that goes away with this script; HOLDFAST_SCRATCH says on which disk."""
    path = Path(tempfile.mkdtemp(prefix=f"holdfast-{prefix}-", dir=os.environ.get("HOLDFAST_SCRATCH")))
    _folders.append(path)
    return path


def placed(cgroup=None, pin=None):
    """What goes before a command: a control group, then a CPU. Both keep the process id."""
    words = []
    if cgroup:
        words += ["sh", "-c", 'echo $$ >"$0" && exec "$@"', f"{cgroup}/cgroup.procs"]
    if pin is not None:
        words += ["taskset", "--cpu-list", str(pin)]
    return words


class Server:
    """One process that speaks the Redis protocol."""

    name = ""

    # What `holdfast bench` is told beside the address.
    bench_words = ()

    def __init__(self, pin=None, cgroup=None):
        self.pin, self.cgroup = pin, cgroup
        self.folder = folder(self.name)
        self.log = self.folder / "server.log"
        self.process = None
        self.port = None

    def start(self):
        """Starts and waits until requests are served; gives the seconds that took."""
        began = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*placed(self.cgroup, self.pin), *self.command()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, env=environment)
        _servers.append(self)
        self.wait_ready(began + START_SECONDS_MAX)
        return time.monotonic() - began

    @property
    def pid(self):
        return self.process.pid

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def client(self, timeout_s=60):
        return Client(self.port, timeout_s)

    def pause(self):
        """No turn of another server is disturbed by this one's background work."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def is_alive(self):
        return self.process.poll() is None

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self._ended()

    def stop(self):
        """SIGTERM, and SIGKILL for one that does not obey."""
        self.resume()
        self.process.terminate()
        try:
            self._ended()
        except subprocess.TimeoutExpired:
            self.kill()

    def _ended(self):
        self.process.wait(STOP_SECONDS_MAX)
        self.process.stdout.close()
        if self in _servers:
            _servers.remove(self)

    def log_text(self):
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))

    # ---- what the kernel counts ----

    def status_bytes(self, field):
        """VmRSS or VmHWM of the process."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) * 1024

    def device_read_bytes(self):
        """Bytes that this process made the kernel fetch from a device."""
        text = Path(f"/proc/{self.pid}/io").read_text(encoding="ascii")
        return int(re.search(r"^read_bytes: (\d+)", text, re.M)[1])

    def device_reads(self):
        """Reads that the device under the server's folder has served, for whomever; None if it is
        not on one device."""
        number = self.folder.stat().st_dev
        try:
            counts = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text(encoding="ascii")
        except OSError:
            return None
        return int(counts.split()[0])


class Holdfast(Server):
    """`holdfast serve` on a folder of its own; it may be started again on the same data."""

    name = "holdfast"

    def __init__(self, settings=(), **placing):
        super().__init__(**placing)
        self.settings = dict(settings)
        self.http_port = None

    def command(self):
        words = [binary(), "serve", "--data", str(self.folder / "data"),
                 "--redis", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value}"]
        return words

    def wait_ready(self, deadline):
        line, output = b"", self.process.stdout
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            more = os.read(output.fileno(), 4096) if select.select([output], [], [], max(left, 0))[0] else b""
            if not more:
                raise RuntimeError(f"it did not become ready: {self.log_text()[-2000:]}")
            line += more
        self.note_ready(line.decode())

    def note_ready(self, line):
        """Takes the ports from the line that it prints when ready."""
        self.port, self.http_port = (int(re.search(rf"\b{name}=\S*:(\d+)", line)[1])
                                     for name in ("redis", "http"))

    def metrics(self):
        """The numbers of /metrics without histograms, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "_bucket{" not in line)
        return {name.removeprefix("holdfast_"): float(value) for name, value in pairs}


class HoldfastOverTls(Holdfast):
    """The same, driven over TLS: its address is that of the port with it."""

    def __init__(self, settings=(), **placing):
        super().__init__(settings, **placing)
        certificate, key = Authority(self.folder / "certificates").issue("node")
        self.settings.update({
            "redis.tls_addr": "127.0.0.1:0", "tls.certificate_file": certificate, "tls.key_file": key})
        self.bench_words = ("--tls", str(self.folder / "certificates" / "ca.pem"))
        self.tls_port = None

    def note_ready(self, line):
        super().note_ready(line)
        self.tls_port = int(re.search(r"redis-tls=\S*:(\d+)", line)[1])

    @property
    def address(self):
        return f"127.0.0.1:{self.tls_port}"


class Redis(Server):
    """redis-server; `append="always"` syncs before every acknowledgement, None keeps no log at all.

    It never rewrites its log here, which spares it work that it would have to do in the long run.
    """

    name = "redis"

    def __init__(self, append=None, **placing):
        super().__init__(**placing)
        self.append = append

    def command(self):
        self.port = free_port()
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                 "--dir", str(self.folder), "--daemonize", "no", "--logfile", str(self.log)]
        if self.append:
            words += ["--appendonly", "yes", "--appendfsync", self.append,
                      "--auto-aof-rewrite-percentage", "0"]
        return words

    def wait_ready(self, deadline):
        while True:
            try:
                with self.client(5) as client:
                    if client.call("PING") == "PONG":
                        return
            except ConnectionError:
                pass
            except OSError:
                pass
            if time.monotonic() > deadline or not self.is_alive():
                raise RuntimeError(f"redis-server did not become ready: {self.log_text()[-2000:]}")
            time.sleep(0.02)


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@atexit.register
def _clean_up():
    for server in list(_servers):
        server.process.kill()
        server.process.wait()
    for path in _folders:
        shutil.rmtree(path, ignore_errors=True)


def _interrupted(number, _):
    raise SystemExit(128 + number)


signal.signal(signal.SIGTERM, _interrupted)
signal.signal(signal.SIGINT, _interrupted)
