"""The node, its backups and restores as the tests here use them: the real binary throughout."""

import os
import re
import subprocess
import threading
import urllib.request

from crashlib import COLOURS, Server, Violation, binary, until

# A restore or a backup of these sizes takes a second.
COMMAND_S = 60


class Node(Server):
    """A server with its metrics; environment variables of its own may be added."""

    def __init__(self, folder, name="node", settings=(), environment=()):
        super().__init__(folder / name, folder / f"{name}.log", settings)
        self.environment = dict(environment)

    def spawn(self):
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            return super().spawn()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)

    def metric(self, name):
        """One number of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}/metrics", timeout=20) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        raise Violation(f"no metric {name}")

    def lsn(self):
        """The position of the last staged record; with one client, that of its last write."""
        with self.client() as client:
            text = client.expect("INFO", "persistence").decode()
        return int(re.search(r"staged_lsn:(\d+)", text)[1])

    def kill_under(self, writers):
        """SIGKILL while they write; their failures are expected from now on."""
        writers.ending()
        self.kill()

    def backup_again(self, url):
        """Two backups in a row between which the engine merged no tables: bytes uploaded and reused by the second."""
        tables = lambda: sorted(path.name for path in (self.data / "engine").glob("*.sst"))  # noqa: E731
        told = lambda name: self.metric(f"holdfast_backup_bytes_{name}_total")  # noqa: E731

        def unmerged():
            before = tables()
            self.backup(url)
            uploaded, reused = told("uploaded"), told("reused")
            self.backup(url)
            return tables() == before and (told("uploaded") - uploaded, told("reused") - reused)

        return until(unmerged, "backups while the engine is quiet", every_s=0.5)

    def backup(self, url, *more, code=0):
        """`holdfast backup`; gives the backup's name, or what it said if it was to fail."""
        done = run("backup", "--node", f"127.0.0.1:{self.port}", "--to", url, *more, environment=self.environment)
        return expect(done, code)


def run(*arguments, environment=()):
    """The binary, as a person runs it."""
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}, **dict(environment)}
    return subprocess.run([binary(), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=COMMAND_S, env=environment)


def expect(done, code=0):
    """Standard output if it was to succeed, standard error if not."""
    if done.returncode != code:
        raise Violation(f"{done.args[1:]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip() if code == 0 else COLOURS.sub("", done.stderr)


def restore(url, data, *more, environment=()):
    """`holdfast restore`; gives the position that it says it reached."""
    said = expect(run("restore", "--from", url, "--data", data, *more, environment=environment))
    return int(re.search(r"up to record (\d+)", said)[1])


def refused(url, data, *more, environment=()):
    """A restore that must fail, and may not claim anything; gives the error."""
    done = run("restore", "--from", url, "--data", data, *more, environment=environment)
    if "restored" in done.stdout:
        raise Violation(f"it reports success: {done.stdout}")
    return expect(done, 1)


def listed(url, environment=()):
    """Names of the backups at a URL, oldest first."""
    return [line.split()[0] for line in expect(run("backup", "list", url, environment=environment)).splitlines()]


def must(condition, what):
    if not condition:
        raise Violation(what)


class Writers:
    """Writers that each count up, every step one transaction on two keys; `acked` is what they were told."""

    def __init__(self, node, count=4, value_bytes=200):
        self._node = node
        self._value = "x" * value_bytes
        self._ending = threading.Event()
        self.acked = [0] * count
        self.failures = []
        self._expected = False
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number):
        try:
            with self._node.client() as client:
                step = 0
                while not self._ending.is_set():
                    step += 1
                    client.expect("MULTI")
                    client.expect("SET", f"w{number}:{step}", f"{step}:{self._value}")
                    client.expect("SET", f"w{number}:last", step)
                    client.expect("EXEC")
                    self.acked[number] = step
        except Exception as error:  # noqa: BLE001: told by the test's own thread
            if not self._expected:
                self.failures.append(error)

    def ending(self):
        """The node is about to go."""
        self._expected = True

    def wait_for(self, steps):
        until(lambda: self.failures or min(self.acked) >= steps, f"{steps} steps of every writer")
        must(not self.failures, f"a writer failed: {self.failures[:1]}")


def steps_in(node, writers):
    """How far each writer's steps reach in a restored node; each must be there whole, and no later one."""
    reached = []
    with node.client() as client:
        for number in range(writers):
            last = int(client.expect("GET", f"w{number}:last") or 0)
            values = client.pipeline([("GET", f"w{number}:{step}") for step in range(1, last + 2)])
            for step, value in enumerate(values[:-1], 1):
                must(value is not None and value.startswith(b"%d:" % step), f"writer {number}: step {step} is gone")
            must(values[-1] is None, f"writer {number}: step {last + 1} is there, half a transaction")
            reached.append(last)
    return reached
