"""What every crash test here stands on: a small Redis client, the server as a process, a place to work.

Guarantees: only processes that were started here are ended, each by its own id, also when the test
itself is stopped; mounts and folders go away in every case. It knows nothing of what is written.
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
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "powercut"))

# A loaded machine takes its time; nothing here waits longer without saying so.
DEADLINE_S = 60
_servers = set()
_folders = set()
_mounts = set()


class Violation(Exception):
    """The server broke a promise."""


class TooLate(Violation):
    """Something did not come to pass in time."""


class Unavailable(Exception):
    """This machine lacks what a test needs; the text says what."""


def binary():
    """The server under test."""
    path = os.environ.get("HOLDFAST_BIN") or str(ROOT / "target" / "release" / "holdfast")
    if not os.access(path, os.X_OK):
        raise Unavailable(f"no server at {path}: build it, or set HOLDFAST_BIN")
    return path


def need_root():
    """Mounting needs it."""
    if os.geteuid() != 0:
        raise Unavailable("needs root")


def need_fuse():
    """The power-cut disk needs it."""
    need_root()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Unavailable("needs /dev/fuse")


# ---- the Redis protocol ------------------------------------------------------------------------


class ErrorReply:
    """An error that the server answered with."""

    def __init__(self, text):
        self.text = text
        self.code = text.split(" ", 1)[0]

    def __repr__(self):
        return f"-{self.text}"


def encode(*words):
    """One request."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        if not isinstance(word, bytes):
            word = str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


class Client:
    """One connection. Every failure of the connection is a ConnectionError."""

    def __init__(self, port, timeout_s=DEADLINE_S):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bytes = b""
        self._at = 0

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, requests):
        """Sends encoded requests."""
        self._guarded(self._socket.sendall, requests)

    def has_answer(self):
        """Whether `read` would find something, without waiting for it."""
        return self._at < len(self._bytes) or bool(select.select([self._socket], [], [], 0)[0])

    def read(self):
        """The next reply: bytes, int, None, list or ErrorReply; simple strings are str."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return ErrorReply(rest.decode("utf-8", "replace"))
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        raise Violation(f"not a reply: {line[:100]!r}")

    def call(self, *words):
        """One request, one reply."""
        self.send(encode(*words))
        return self.read()

    def expect(self, *words):
        """As `call`; an error reply is a violation."""
        reply = self.call(*words)
        if isinstance(reply, ErrorReply):
            raise Violation(f"{words[0]} {words[1:2]}: {reply}")
        return reply

    def pipeline(self, commands, at_once=500):
        """All replies of many requests."""
        replies = []
        for start in range(0, len(commands), at_once):
            part = commands[start:start + at_once]
            self.send(b"".join(encode(*words) for words in part))
            replies += [self.read() for _ in part]
        return replies

    def _guarded(self, call, *arguments):
        try:
            return call(*arguments)
        except TimeoutError:
            raise TooLate(f"no answer within {self._socket.gettimeout()} s") from None
        except ConnectionError:
            raise
        except OSError as error:
            raise ConnectionError(str(error)) from None

    def _more(self):
        received = self._guarded(self._socket.recv, 1 << 18)
        if not received:
            raise ConnectionError("closed by the server")
        self._bytes = self._bytes[self._at:] + received
        self._at = 0

    def _line(self):
        while True:
            end = self._bytes.find(b"\r\n", self._at)
            if end >= 0:
                line = self._bytes[self._at:end]
                self._at = end + 2
                return line
            self._more()

    def _bulk(self, length):
        if length < 0:
            return None
        while len(self._bytes) - self._at < length + 2:
            self._more()
        start, self._at = self._at, self._at + length + 2
        return self._bytes[start:start + length]


# ---- the server --------------------------------------------------------------------------------

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Server:
    """`holdfast serve` on one data folder; it may be started and ended many times.

    Small segments, little memory and a short replay, so that rolls, trims and flushes are frequent.
    """

    SMALL = {"memory": "64MiB", "log.segment_bytes": "1MiB", "engine.replay_bytes_max": "1MiB"}

    def __init__(self, data, log, settings=()):
        self.data = Path(data)
        self.settings = {**self.SMALL, **dict(settings)}
        self.process = None
        self.port = None
        self.ports = {}
        self._log = Path(log)
        self._log_start = 0

    def spawn(self):
        """Starts the process, without waiting for it."""
        command = [binary(), "serve", "--data", str(self.data), "--redis", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment)
        _servers.add(self)
        return self

    def start(self, deadline_s=DEADLINE_S):
        """Starts and waits until it is ready; a violation if it does not get there."""
        self.spawn()
        return self.ready(deadline_s)

    def ready(self, deadline_s=DEADLINE_S):
        """Waits until a server that was spawned is ready; a violation if it does not get there."""
        line = self._ready_line(deadline_s)
        if not line:
            code = self.kill()
            raise Violation(f"it did not start (exit code {code}): {self.log_text()[-2000:]}")
        self._note(line)
        return self

    def started(self, deadline_s=DEADLINE_S):
        """As `start`, but gives False if it refuses to start by itself."""
        self.spawn()
        line = self._ready_line(deadline_s)
        if line:
            self._note(line)
        return bool(line)

    def _note(self, line):
        """Takes the ports from the line that it prints when ready, by their names there."""
        addresses = (word.split("=") for word in line.split()[1:])
        self.ports = {name: int(address.rsplit(":", 1)[1]) for name, address in addresses}
        self.port = self.ports.get("redis")

    def _ready_line(self, deadline_s):
        deadline = time.monotonic() + deadline_s
        output, line = self.process.stdout, b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise Violation(f"not ready after {deadline_s} s: {self.log_text()[-2000:]}")
            more = os.read(output.fileno(), 4096)
            if not more:
                return ""
            line += more
        return line.decode()

    def client(self, timeout_s=DEADLINE_S):
        return Client(self.port, timeout_s)

    def kill(self):
        """SIGKILL; gives the exit code."""
        if self.process is None:
            return None
        self.process.kill()
        return self._ended(DEADLINE_S)

    def terminate(self, bound_s=35):
        """SIGTERM; gives the exit code and how long it took. A violation beyond the bound."""
        begun = time.monotonic()
        self.process.terminate()
        try:
            code = self._ended(bound_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Violation(f"SIGTERM: still running after {bound_s} s") from None
        return code, time.monotonic() - begun

    def exited(self, deadline_s=DEADLINE_S):
        """The exit code of a server that ends by itself."""
        return self._ended(deadline_s)

    def _ended(self, deadline_s):
        code = self.process.wait(deadline_s)
        self.process.stdout.close()
        _servers.discard(self)
        return code

    def log_text(self):
        """What was logged since the last start."""
        with open(self._log, "rb") as log:
            log.seek(self._log_start)
            return COLOURS.sub("", log.read().decode("utf-8", "replace"))

    def complaints(self, allowed=()):
        """Lines of the log from WARN on, without those that match one of `allowed`."""
        lines = [line for line in self.log_text().splitlines()
                 if re.search(r" (WARN|ERROR) |panicked", line) or line.startswith("thread '")]
        return [line for line in lines if not any(re.search(known, line) for known in allowed)]

    def check(self):
        """`holdfast check`: exit code and everything it said."""
        done = subprocess.run(
            [binary(), "check", "--data", str(self.data)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=DEADLINE_S)
        return done.returncode, COLOURS.sub("", done.stdout)


def must_be_sound(server):
    """A violation if `holdfast check` finds anything."""
    code, said = server.check()
    if code != 0 or not said.endswith("ok\n"):
        raise Violation(f"check ended with {code}: {said}")


def until(condition, what, deadline_s=DEADLINE_S, every_s=0.02):
    """Waits for a condition; gives what it gave."""
    deadline = time.monotonic() + deadline_s
    while True:
        met = condition()
        if met:
            return met
        if time.monotonic() > deadline:
            raise TooLate(f"not within {deadline_s} s: {what}")
        time.sleep(every_s)


# ---- places ------------------------------------------------------------------------------------


MEMORY = Path("/dev/shm")


def memory_with_room(bytes_needed):
    """A place in memory, for what does not test the disk; None if there is not so much room."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= bytes_needed else None


@contextmanager
def scratch(place=None):
    """A folder that goes away, in `place` or where temporary files lie."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=place))
    _folders.add(folder)
    try:
        yield folder
    finally:
        _end_servers(folder)
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


@contextmanager
def small_disk(folder, size):
    """A file system in memory with so much room."""
    need_root()
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    _mounts.add(folder)
    try:
        yield folder
    finally:
        _end_servers(folder)
        _unmount(folder)


def _unmount(folder):
    subprocess.run(["umount", "-l", str(folder)], check=False)
    _mounts.discard(folder)


def _end_servers(folder):
    for server in [server for server in _servers if server.data.is_relative_to(folder)]:
        server.kill()


@atexit.register
def _clean_up():
    for server in list(_servers):
        server.kill()
    for folder in list(_mounts):
        _unmount(folder)
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)


def end_in_order_on_signals():
    """A stopped test cleans up, too."""
    def stop(number, _):
        raise SystemExit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
