"""TCP links that can be cut, each way by itself: bytes are held while a link is cut, as on a network that drops packets."""

import contextlib
import socket
import threading


class Link:
    """Passes connections on to one address. `settings` of a node name it in place of that."""

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        # Set while bytes may pass: to the target, and back.
        self._open = (threading.Event(), threading.Event())
        self._sockets = set()
        self._lock = threading.Lock()
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, there=True, back=True):
        """Holds what goes there, what comes back, or both."""
        for event, is_cut in zip(self._open, (there, back), strict=True):
            if is_cut:
                event.clear()

    def heal(self):
        for event in self._open:
            event.set()

    def close(self):
        self.heal()
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for source, sink, may_pass in ((client, server, self._open[0]), (server, client, self._open[1])):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink, may_pass), daemon=True).start()

    def _pump(self, source, sink, may_pass):
        try:
            while data := source.recv(1 << 16):
                may_pass.wait()
                sink.sendall(data)
        except OSError:
            pass
        # That a peer is gone is news, too, and waits like any other.
        may_pass.wait()
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            with self._lock:
                self._sockets.discard(one)
