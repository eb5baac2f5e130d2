"""Clients whose every request and reply is recorded, and the verdict on what they were told.

They share a few keys, go on while nodes fail, and look for the owner as any client does; one at each node stays there
whatever it answers, so that a node that was replaced is asked, too. A reply that never came means that the request may
take effect once, at any time, or never; an error says that it did not happen, but for UNKNOWN. The judge is that of the
simulator (crates/sim/examples/judge.rs): one order of the requests has to explain every reply. So a write that is lost,
one that is there twice, and a read that is old are each seen, without knowing what they did.
"""

import itertools
import random
import subprocess
import threading
import time
from pathlib import Path

from crashlib import Client, ErrorReply, Unavailable, Violation, binary

# Clients that look for the owner: one only writes and one only reads, whose waits are told; the others do both.
WRITER, READER, WANDERERS = 0, 1, 4
# The first half are counters, of which nothing but the sum counts; the others are set, too.
KEYS = 8
# Between two requests of one client: the judge's search is over what overlaps.
PAUSE_S = 0.004
# After an error, or where nobody listens.
LATER_S = 0.03
PATIENCE_S = 8
NOT_DONE = ("MOVED", "READONLY", "TRYAGAIN", "LOADING", "BUSY", "CLUSTERDOWN")
# What is done to keys that are no counters, and how often.
SETTERS = (("set", "getset", "incrby", "setnx", "del"), (40, 20, 15, 15, 10))
JUDGE_SECONDS_MAX = 120


class Log:
    """The requests of all clients and what came of them, on one clock."""

    def __init__(self):
        self.requests = []
        # When the clients were told to stop.
        self.over = 0
        self._lock = threading.Lock()

    def invoke(self, client, key, words):
        """A request that is about to be sent: what is told of it later is put into the entry that this gives."""
        entry = {"client": client, "key": key, "words": words, "sent": time.monotonic_ns(), "came": None, "reply": None,
                 "ended": None}
        with self._lock:
            self.requests.append(entry)
        return entry

    @property
    def unknown(self):
        return sum(entry["came"] is None for entry in self.requests)

    def text(self):
        """As the judge reads it."""
        events = []
        for number, entry in enumerate(self.requests):
            words = " ".join(str(word) for word in entry["words"])
            events.append((entry["sent"], 0, number, f"invoke {number} c{entry['client']} k{entry['key']} {words}"))
            if entry["came"] is not None:
                told = f"return {number} {entry['reply']}" if entry["reply"] else f"refuse {number}"
                events.append((entry["came"], 1, number, told))
        return "".join(f"{moment} {event}\n" for moment, _, _, event in sorted(events))

    def stall(self, client):
        """The longest that a client waited from one answer to the next, or to the end, in seconds."""
        moments = [entry["came"] for entry in self.requests if entry["client"] == client and entry["reply"]]
        return max((later - earlier for earlier, later in itertools.pairwise([*moments, self.over])), default=0) / 1e9

    @property
    def hang(self):
        """The longest that a request was left without an answer on a connection that stayed open, in seconds."""
        ends = ((entry["ended"] or entry["came"], entry["sent"]) for entry in self.requests)
        return max((ended - sent for ended, sent in ends if ended), default=0) / 1e9


class Recorder:
    """Clients at `ports`, by node, on keys of their own. They work from `start` to `stop`."""

    def __init__(self, ports, seed):
        self._ports, self._seed, self._prefix = list(ports), seed, f"r:{seed}:".replace("/", ":")
        self.log = Log()
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._broken = []
        work = [self._wander] * WANDERERS + [self._stay] * len(self._ports)
        self._threads = [threading.Thread(target=self._guarded, args=(one, at)) for at, one in enumerate(work)]

    def name(self, key):
        """What the key is called at the nodes."""
        return f"{self._prefix}{key}"

    def start(self):
        for thread in self._threads:
            thread.start()
        return self

    def stop(self):
        self.log.over = time.monotonic_ns()
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._broken:
            raise Violation("; ".join(self._broken))

    def read_all(self, port):
        """Reads every key once more: a write that nobody read before must still be there."""
        with Client(port) as client:
            for key in range(KEYS):
                entry = self.log.invoke(WANDERERS + len(self._ports), key, ("get",))
                reply = client.expect("GET", self.name(key))
                entry["reply"], entry["came"] = told(entry["words"], reply), time.monotonic_ns()
            client.expect("DEL", *(self.name(key) for key in range(KEYS)))

    def _guarded(self, work, number):
        try:
            work(number, random.Random(f"{self._seed}/client/{number}"))
        except Violation as violation:
            self._broken.append(str(violation))
        except Exception as error:  # noqa: BLE001: a thread's failure must fail the test
            self._broken.append(f"the test itself failed: {error!r}")

    def _wander(self, number, choice):
        """Follows redirects; goes on to another node where nobody answers."""
        ports = itertools.cycle(self._ports)
        port = next(itertools.islice(ports, number % len(self._ports), None))
        while not self._over.is_set():
            moved = self._talk(number, choice, port)
            port = moved or next(ports)
            if not moved:
                time.sleep(LATER_S)

    def _stay(self, number, choice):
        """Asks one node, whatever it answers."""
        port = self._ports[number - WANDERERS]
        while not self._over.is_set():
            self._talk(number, choice, port, stays=True)
            time.sleep(LATER_S)

    def _talk(self, number, choice, port, stays=False):
        """Works on one connection until it ends or somebody else is to be asked; gives whom."""
        try:
            with Client(port, PATIENCE_S) as client:
                while not self._over.is_set():
                    error = self._ask(client, number, choice)
                    if error and stays:
                        time.sleep(LATER_S)
                    elif error:
                        return int(error.text.rsplit(":", 1)[1]) if error.code == "MOVED" else None
                    time.sleep(PAUSE_S)
        except (ConnectionError, OSError):
            pass
        except Violation as violation:
            # No answer in time: whether it happened is not known.
            if "no answer within" not in str(violation):
                raise
        return None

    def _ask(self, client, number, choice):
        """One request; gives the error if it was refused."""
        key, words = self._request(number, choice)
        entry = self.log.invoke(number, key, words)
        try:
            reply = client.call(*command(words, self.name(key)))
        except (ConnectionError, OSError, Violation):
            entry["ended"] = time.monotonic_ns()
            raise
        if not isinstance(reply, ErrorReply):
            entry["reply"], entry["came"] = told(words, reply), time.monotonic_ns()
            return None
        if reply.code in NOT_DONE:
            entry["came"] = time.monotonic_ns()
        elif reply.code != "UNKNOWN":
            raise Violation(f"{words}: {reply}")
        return reply

    def _request(self, client, choice):
        key = choice.randrange(KEYS)
        if client != WRITER and (client == READER or choice.random() < 0.4):
            return key, ("get",)
        # No two writes have the same number, so that each is told from the others by what is read.
        number = next(self._numbers) * 1000 + choice.randrange(1000)
        kind = "incrby" if key < KEYS // 2 else choice.choices(*SETTERS)[0]
        return key, (("del",) if kind == "del" else (kind, number))


def command(words, name):
    """The request in the Redis protocol."""
    kind, *number = words
    return {"get": ("GET", name), "set": ("SET", name, *number), "getset": ("SET", name, *number, "GET"),
            "incrby": ("INCRBY", name, *number), "setnx": ("SETNX", name, *number), "del": ("DEL", name)}[kind]


def told(words, reply):
    """The reply in the words of the judge."""
    kind = words[0]
    if kind in ("get", "getset"):
        return "value nil" if reply is None else f"value {int(reply)}"
    if kind == "incrby":
        return f"number {reply}"
    if kind == "set":
        return "ok"
    return f"applied {'true' if reply else 'false'}"


def judge(text, path):
    """Keeps the history at `path`; a violation unless one order of its requests explains every reply. Gives whether
    that was decided: a search that takes too long is counted, not passed over."""
    program = Path(binary()).parent / "examples" / "judge"
    if not program.exists():
        raise Unavailable(f"{program} is not built: cargo build --release -p holdfast-sim --examples")
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([program, path], capture_output=True, text=True, timeout=JUDGE_SECONDS_MAX, check=False)
    if done.returncode not in (0, 3):
        raise Violation(f"{path.name}: {(done.stdout + done.stderr)[:3000]}")
    return done.returncode == 0
