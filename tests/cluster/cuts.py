"""TCP links that can be cut, each way by itself: bytes are held while a link is cut, as on a network that drops packets.

A link can be closed as well: then its connections end, and new ones are not taken.
"""

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
        self._is_closed = False
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
        self._is_closed = False
        for event in self._open:
            event.set()

    def close(self):
        """Until it is healed."""
        self.heal()
        self._is_closed = True
        self._end_connections()

    def end(self):
        """For good."""
        self.close()
        self._listener.close()

    def _end_connections(self):
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
            if self._is_closed:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
            for source, sink, may_pass in ((client, server, self._open[0]), (server, client, self._open[1])):
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


def cut_links(links, there=True, back=True):
    """Cuts all of them; gives what heals them."""
    for link in links:
        link.cut(there, back)

    def heal():
        for link in links:
            link.heal()
    return heal
