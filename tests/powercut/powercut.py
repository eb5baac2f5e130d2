"""A disk for crash tests: a mount that loses, when its power is cut, what was not synced.

    with PowerCutDisk(folder / "backing", folder / "mount", seed=7) as disk:
        ...run the program under test on disk.mount...
        disk.cut(kill=[process])    # drops what was not synced, then kills the program
        disk.remount()              # disk.mount shows exactly what survived
        ...start the program again and check...

Needs /dev/fuse and root (or fusermount3). The file system itself is built by cargo at first use;
POWERCUT_BIN names a ready one. Mounts are taken away in every case: at `stop`, at the end of the
interpreter, and by the file system itself when the interpreter dies.
"""

import atexit
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import weakref
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A slow machine under load needs seconds for a cut of many files.
CONTROL_TIMEOUT_S = 120
_running = weakref.WeakSet()


class PowerCutError(Exception):
    """The disk refused a command or did not start."""


def build():
    """Builds the file system unless POWERCUT_BIN names one, as it does from then on; returns its path."""
    given = os.environ.get("POWERCUT_BIN")
    if given:
        return Path(given)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or HERE / "target")
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet"],
        cwd=HERE, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target)},
    )
    os.environ["POWERCUT_BIN"] = str(target / "release" / "powercut")
    return target / "release" / "powercut"


class PowerCutDisk:
    """One disk. `backing_dir` holds it, `mount_dir` shows it; both are made if missing.

    While the disk is off, `tree` is the durable content as an ordinary folder, to read or to fill.
    `fsync_names` makes fsync of a file also save its name, as ext4 does; the default is strict.
    """

    def __init__(self, backing_dir, mount_dir, seed=0, fsync_names=False):
        self.backing = Path(backing_dir)
        self.mount = Path(mount_dir)
        self.seed = seed
        self.fsync_names = fsync_names
        self.cuts = 0
        self._daemon = None
        self._run_dir = None

    @property
    def tree(self):
        """The durable content while the disk is off."""
        return self.backing / "disk"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Mounts the disk."""
        if self._daemon:
            raise PowerCutError("the disk is mounted already")
        binary = build()
        self.backing.mkdir(parents=True, exist_ok=True)
        self._unmount_leftover()
        self.mount.mkdir(parents=True, exist_ok=True)
        # A short path of its own: socket addresses hold about a hundred bytes.
        self._run_dir = tempfile.mkdtemp(prefix="powercut-")
        options = ["--fsync-names"] if self.fsync_names else []
        self._daemon = subprocess.Popen(
            [str(binary), str(self.backing), str(self.mount), self._socket, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        _running.add(self)
        if self._daemon.stdout.readline() != "ready\n":
            self._clean_up()
            raise PowerCutError("the disk did not start; its reason is on standard error")

    def cut(self, files="random", names="random", order="prefix", seed=None, kill=()):
        """Cuts the power, then kills the processes of `kill`. Returns what became of what.

        files: fate of each file's un-synced content: random, drop, keep, subset (of 4 KiB pages),
               torn (subset, and one page half old, half new in 512-byte sectors).
        names: fate of each directory's un-synced operations: random, drop, keep.
        order: whether a random choice of them keeps the oldest (prefix) or any.
        """
        self.cuts += 1
        if seed is None:
            seed = random.Random(f"{self.seed}/{self.cuts}").getrandbits(63)
        try:
            return self._command("cut", files=files, names=names, order=order, seed=seed)
        finally:
            for process in kill:
                process.kill()
                process.wait()

    def remount(self):
        """After a cut: shows what survived. Without one: switches off in order and on again."""
        self.stop()
        self.start()

    def stats(self):
        """Counters since the mount, and what is un-synced now, as a dictionary."""
        return self._command("stats")

    def set_fault(self, kind, op="fsync", path="*", count=None, ms=None, after=None):
        """Switches a fault on.

        "eio":    `op` (fsync, read, write) of paths like `path` fails, `count` times or always.
        "slow":   fsync of paths like `path` first waits `ms` milliseconds.
        "enospc": after `after` more bytes (default 0) the disk is full; after="off" ends it.
        """
        if kind == "enospc":
            self._command("enospc", after=0 if after is None else after)
        elif kind == "eio":
            self._command("fault", op=op, path=path, count=count)
        elif kind == "slow":
            self._command("fault", op="fsync", path=path, count=count, slow_ms=ms)
        else:
            raise ValueError(kind)

    def clear_faults(self):
        """Switches every fault off."""
        self._command("clear")

    def stop(self):
        """Unmounts; without a cut everything becomes durable first. Harmless if not mounted."""
        if not self._daemon:
            return
        try:
            if self._daemon.poll() is None:
                self._command("stop")
                self._daemon.wait(CONTROL_TIMEOUT_S)
            code = self._daemon.returncode
        finally:
            self._clean_up()
        if code != 0:
            raise PowerCutError(f"the disk ended with {code}")

    @property
    def _socket(self):
        return os.path.join(self._run_dir, "control")

    def _command(self, command, **options):
        if not self._daemon:
            raise PowerCutError("the disk is not mounted")
        words = [command]
        for name, value in options.items():
            if value is not None:
                if re.search(r"\s", str(value)):
                    raise ValueError(f"{name} must not contain white space: {value!r}")
                words.append(f"{name}={value}")
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(CONTROL_TIMEOUT_S)
            stream.connect(self._socket)
            stream.sendall((" ".join(words) + "\n").encode())
            with stream.makefile() as lines:
                line = lines.readline()
        if not line:
            raise PowerCutError(f"no answer to {command}")
        answer = json.loads(line)
        if "error" in answer:
            raise PowerCutError(answer["error"])
        return answer

    def _clean_up(self):
        daemon, self._daemon = self._daemon, None
        _running.discard(self)
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        daemon.stdin.close()
        daemon.stdout.close()
        self._unmount_leftover()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def _unmount_leftover(self):
        """A process that was killed leaves its mount behind."""
        while _is_mounted(self.mount):
            how = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*how, str(self.mount)], check=True)


def _is_mounted(path):
    path = os.path.abspath(path)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4]
        if re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point) == path:
            return True
    return False


@atexit.register
def _stop_all():
    for disk in list(_running):
        try:
            disk.stop()
        except (PowerCutError, OSError, subprocess.SubprocessError) as error:
            print(f"powercut: {disk.mount}: {error}")
