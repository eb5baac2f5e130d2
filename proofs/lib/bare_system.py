"""A root file system in a folder: a bare Debian 12, or the content of an image; and a node that runs in it.

Needs root. A node has namespaces of its own for mounts and network, so that it serves on its default ports
whatever runs on this machine; it is reached through `nsenter`. Everything goes away with the folder.
"""

import hashlib
import json
import os
import select
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ENTER = Path(__file__).resolve().parent / "enter.py"
READY_SECONDS_MAX, STOP_SECONDS_MAX = 60, 60


def run(*words, **options):
    """Runs to the end; raises with what it said if it fails."""
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout


def inside(root, *words, uid=0, gid=0):
    """The command that runs `words` in this root."""
    return ["unshare", "--mount", "--net", sys.executable, ENTER, root, uid, gid, *words]


def debian_12(folder):
    """Unpacks a minimal Debian 12; the first time it is fetched, then it comes from the cache folder."""
    cache = Path(os.environ["HOLDFAST_CACHE"]) / "debian-12-minbase.tar"
    if not cache.exists():
        made, packed = folder / "made", cache.with_suffix(".new")
        run("debootstrap", "--variant=minbase", "bookworm", made)
        run("tar", "--one-file-system", "-C", made, "-cf", packed, ".")
        packed.rename(cache)
        run("rm", "-rf", "--one-file-system", made)
    root = folder / "debian"
    root.mkdir()
    run("tar", "-C", root, "-xpf", cache)
    return root


def unpack_image(archive, root):
    """Lays the image's layers into `root`, every digest compared; gives the image's configuration."""
    with tarfile.open(archive) as tar:
        def blob(described):
            content = tar.extractfile("blobs/" + described["digest"].replace(":", "/")).read()
            if "sha256:" + hashlib.sha256(content).hexdigest() != described["digest"]:
                raise RuntimeError(f"{described['digest']} is not what it says")
            return content
        manifest = json.loads(blob(json.load(tar.extractfile("index.json"))["manifests"][0]))
        root.mkdir()
        for layer in manifest["layers"]:
            packed = root.parent / "layer.tar.gz"
            packed.write_bytes(blob(layer))
            run("tar", "-C", root, "-xzpf", packed)
        return json.loads(blob(manifest["config"]))["config"]


class Node:
    """`holdfast serve` in a root, on whatever ports its command says."""

    def __init__(self, root, *words, uid=0, gid=0):
        began = time.monotonic()
        self._process = subprocess.Popen(
            [str(word) for word in inside(root, *words, uid=uid, gid=gid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.ready_line = self._ready_line(began + READY_SECONDS_MAX)
        self.seconds = time.monotonic() - began

    def _ready_line(self, deadline):
        line, output = b"", self._process.stdout
        while not line.endswith(b"\n"):
            left = max(0, deadline - time.monotonic())
            more = os.read(output.fileno(), 4096) if select.select([output], [], [], left)[0] else b""
            if not more:
                self._process.kill()
                raise RuntimeError(f"the node did not become ready: {self._process.communicate()[1][-1500:]!r}")
            line += more
        return line.decode()

    def _beside(self, *words):
        """Runs a program of this machine in the node's network."""
        return run("nsenter", f"--net=/proc/{self._process.pid}/ns/net", *words).strip()

    def must_serve(self, redis_port=6379, http_port=8080):
        """A write, a read and the health page."""
        said = [self._beside("redis-cli", "-p", redis_port, "SET", "greeting", "hello"),
                self._beside("redis-cli", "-p", redis_port, "GET", "greeting"),
                self._beside("curl", "--silent", "--fail", f"http://127.0.0.1:{http_port}/readyz")]
        if said[:2] != ["OK", "hello"]:
            raise RuntimeError(f"SET and GET said {said}")

    def user(self):
        """The user that the process runs as."""
        return os.stat(f"/proc/{self._process.pid}").st_uid

    def stop(self):
        """SIGTERM; raises unless the end is in order."""
        self._process.terminate()
        _, said = self._process.communicate(timeout=STOP_SECONDS_MAX)
        if self._process.returncode != 0:
            raise RuntimeError(f"SIGTERM: exit code {self._process.returncode}: {said[-1000:]!r}")
