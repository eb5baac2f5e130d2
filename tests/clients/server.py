"""A Holdfast of a test's own: starts on free ports, stops, kills, and comes back where it was."""

import os
import signal
import subprocess
import tempfile


class Server:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="holdfast-clients-")
        self.log = open(os.path.join(self.folder.name, "log"), "wb")
        self.port = 0
        self.process = None
        self.start()

    def start(self):
        """Starts and waits until it is ready; after the first time on the same port."""
        self.process = subprocess.Popen(
            [
                os.environ["HOLDFAST_BIN"], "serve", "--data", os.path.join(self.folder.name, "data"),
                "--redis", f"127.0.0.1:{self.port}", "--http", "127.0.0.1:0",
            ],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )
        line = self.process.stdout.readline()
        if not line.startswith("ready redis="):
            raise RuntimeError(f"not ready: {line!r}\n{self.told()}")
        self.port = int(line.split()[1].rsplit(":", 1)[1])

    def stop(self):
        """As an operator does."""
        self.end(signal.SIGTERM)

    def kill(self):
        """As a crash does."""
        self.end(signal.SIGKILL)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def told(self):
        """What it logged."""
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def close(self):
        if self.process.poll() is None:
            self.stop()
        self.log.close()
        self.folder.cleanup()
