"""Connections that misbehave: many idle ones, ones that never read, ones that never finish.

Nothing here waits for ever: sending stops where the server takes no more, and says how far it came.
"""

import selectors
import socket
import time
from contextlib import contextmanager

CONNECT_SECONDS_MAX = 20
CHUNK_BYTES = 1 << 16


def connect(port, receive_bytes=None):
    """A plain connection; `receive_bytes` keeps the kernel from taking replies for one that never reads."""
    plain = socket.socket()
    plain.settimeout(CONNECT_SECONDS_MAX)
    if receive_bytes:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.connect(("127.0.0.1", port))
    return plain


@contextmanager
def connections(port, count, receive_bytes=None):
    """Many of them, closed at the end."""
    sockets = []
    try:
        for _ in range(count):
            sockets.append(connect(port, receive_bytes))
        yield sockets
    finally:
        for plain in sockets:
            plain.close()


def push(sockets, payload, patience_s=1.0):
    """Sends `payload` on each without reading, all at once; ends when no socket took anything for a while.

    Gives the bytes that each one took; a connection that was cut off keeps what it had taken.
    """
    taken = [0] * len(sockets)
    view = memoryview(payload)
    with selectors.DefaultSelector() as ready:
        for at, plain in enumerate(sockets):
            plain.setblocking(False)
            ready.register(plain, selectors.EVENT_WRITE, at)
        while ready.get_map():
            events = ready.select(patience_s)
            if not events:
                break
            for key, _ in events:
                at = key.data
                try:
                    taken[at] += key.fileobj.send(view[taken[at]:taken[at] + CHUNK_BYTES])
                except BlockingIOError:
                    continue
                except OSError:
                    ready.unregister(key.fileobj)
                    continue
                if taken[at] == len(view):
                    ready.unregister(key.fileobj)
    for plain in sockets:
        plain.settimeout(CONNECT_SECONDS_MAX)
    return taken


def drain(plain, seconds_max):
    """Reads until the server closes; gives what came and whether it closed within the time."""
    deadline, parts = time.monotonic() + seconds_max, []
    while (left := deadline - time.monotonic()) > 0:
        plain.settimeout(left)
        try:
            more = plain.recv(1 << 20)
        except TimeoutError:
            break
        except OSError:
            return b"".join(parts), True
        if not more:
            return b"".join(parts), True
        parts.append(more)
    return b"".join(parts), False
