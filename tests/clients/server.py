"""A Holdfast of a test's own: starts on free ports, stops, kills, and comes back where it was."""

import os
import signal
import subprocess
import tempfile


class Server:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="holdfast-clients-")
        self.log = open(os.path.join(self.folder.name, "log"), "wb")
        self.port = self.tls_port = 0
        self.process = None
        self.ca = self.path("cert.pem")
        # One certificate that is its own authority.
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-keyout", self.path("key.pem"), "-out", self.ca,
            ],
            check=True, capture_output=True,
        )
        self.start()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def start(self):
        """Starts and waits until it is ready; after the first time on the same port."""
        self.process = subprocess.Popen(
            [
                os.environ["HOLDFAST_BIN"], "serve", "--data", self.path("data"),
                "--redis", f"127.0.0.1:{self.port}", "--http", "127.0.0.1:0",
                "--set", f"redis.tls_addr=127.0.0.1:{self.tls_port}",
                "--set", f"tls.certificate_file={self.ca}", "--set", f"tls.key_file={self.path('key.pem')}",
            ],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )
        line = self.process.stdout.readline()
        if not line.startswith("ready redis="):
            raise RuntimeError(f"not ready: {line!r}\n{self.told()}")
        self.port, self.tls_port = (int(word.rsplit(":", 1)[1]) for word in line.split()[1:3])

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
