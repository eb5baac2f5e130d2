"""The load and the model that it is checked against.

Each writer has keys of its own and one connection at a time. The log keeps the order of a connection,
so what survives of it must be a prefix of what it sent, no shorter than what was acknowledged or than
what anybody had read. The check looks for that prefix: one that explains every key at once. What
writers share (counters, accounts) must be the sum of their prefixes. Deadlines are checked by time.
"""

import random
import time

from crashlib import Client, ErrorReply, Violation, encode

WRITERS = 5
COUNTERS = 8
ACCOUNTS = 12
ACCOUNT_START = 1000
TOKENS_MAX = 80
LONG_MS = 3_600_000
# Between the clock of this process and what the server makes of it.
CLOCK_SLACK_S = 0.25

# Kinds of keys by the command that shows whether the server has them.
COLLECTIONS = {"hash": "HSET", "list": "RPUSH", "set": "SADD", "zset": "ZADD"}


def value_of(key, index, has_deadline):
    """The only value that operation `index` may have left at `key`."""
    choice = random.Random(f"{key}/{index}")
    draw = choice.random()
    length = 24_000 if draw < 0.003 else 3_000 if draw < 0.03 else choice.randrange(120)
    head = f"{key} {index} {int(has_deadline)} "
    return head.encode() + choice.randbytes(16).hex().encode() * (length // 32)


def parse_value(key, value):
    """Which operation left this value; a violation if none can have."""
    try:
        name, index, has_deadline, _ = value.split(b" ", 3)
        right = value_of(name.decode(), int(index), has_deadline == b"1")
    except ValueError:
        right = None
    if right != value or name != key.encode():
        raise Violation(f"{key} holds what nobody wrote there: {value[:100]!r}")
    return int(index), has_deadline == b"1"


def token(index):
    return b"%08d" % index


class Op:
    """One operation: its requests, how it changes its key, how it ended."""

    __slots__ = ("index", "key", "change", "requests", "replies", "counter", "transfer", "deadline")

    def __init__(self, index, key, change, *requests):
        self.index, self.key, self.change = index, key, change
        self.requests, self.replies = requests, len(requests)
        self.counter = self.transfer = self.deadline = None


class Writer:
    """One writer: it makes operations, sends them, remembers what became of them, and explains."""

    def __init__(self, number, seed, kinds, keys, careful):
        self.number = number
        # One request at a time: then an error says exactly which operation was refused.
        self.batches = (1,) if careful else (1, 4, 16, 64)
        self.random = random.Random(f"{seed}/writer/{number}")
        self.kinds = kinds
        self.keys = keys
        self.state = {}         # key -> what it holds, as of the last time it was explained
        self.index = 0
        self.ops = []           # since then
        self.acknowledged = 0   # of ops
        self.seen = 0           # an operation up to which somebody has read
        self.refused = []       # error replies since then
        self.counts = {}        # counter -> increments explained
        self.counters_seen = []
        self.balance = {}       # account -> what this writer's transfers added
        self.transfers = 0
        self.deadlines = {}     # key -> (sent, acknowledged or None, seconds to live)
        self.total_acknowledged = 0

    # ---- making ----

    def make(self):
        """The next operation."""
        self.index += 1
        i, r, n = self.index, self.random, self.number
        draw = r.random()
        if draw < 0.40:
            return self._set(i, f"s:{n}:{r.randrange(self.keys)}")
        if draw < 0.46:
            key = f"s:{n}:{r.randrange(self.keys)}"
            return Op(i, key, lambda _: None, ("DEL", key))
        if draw < 0.56:
            return self._append(i, f"a:{n}:{r.randrange(4)}")
        if draw < 0.64:
            op = Op(i, None, None, ("INCR", f"c:{r.randrange(COUNTERS)}"))
            op.counter = op.requests[0][1]
            return op
        if draw < 0.74:
            return self._transfer(i)
        if draw < 0.78:
            key = f"e:{n}:{i}"
            op = Op(i, None, None, ("SET", key, value_of(key, i, True), "PX", r.choice((40, 300, 1500))))
            op.deadline = key
            return op
        kinds = [kind for kind in COLLECTIONS if kind in self.kinds]
        if not kinds:
            return self._set(i, f"s:{n}:{r.randrange(self.keys)}")
        return getattr(self, "_write_" + r.choice(kinds))(i)

    def _set(self, i, key):
        if self.random.random() < 0.1:
            return Op(i, key, lambda _: (i, True), ("SET", key, value_of(key, i, True), "PX", LONG_MS))
        return Op(i, key, lambda _: (i, False), ("SET", key, value_of(key, i, False)))

    def _append(self, i, key):
        if self.random.random() < 1 / TOKENS_MAX:
            return Op(i, key, lambda _: None, ("DEL", key))
        return Op(i, key, lambda old: (old or b"") + token(i), ("APPEND", key, token(i)))

    def _transfer(self, i):
        source, target = self.random.sample(range(ACCOUNTS), 2)
        amount = self.random.randrange(1, 50)
        key = f"t:{self.number}"
        op = Op(i, key, lambda old: (old or 0) + 1, ("MULTI",), ("DECRBY", f"b:{source}", amount),
                ("INCRBY", f"b:{target}", amount), ("INCR", key), ("EXEC",))
        op.transfer = (source, target, amount)
        return op

    def _write_hash(self, i):
        key, field = f"h:{self.number}:{self.random.randrange(3)}", b"f%d" % self.random.randrange(40)
        draw = self.random.random()
        if draw < 0.02:
            return Op(i, key, lambda _: None, ("DEL", key))
        if draw < 0.2:
            return Op(i, key, lambda old: without(old, field), ("HDEL", key, field))
        return Op(i, key, lambda old: {**(old or {}), field: token(i)}, ("HSET", key, field, token(i)))

    def _write_list(self, i):
        key = f"l:{self.number}:{self.random.randrange(2)}"
        draw = self.random.random()
        if draw < 0.02:
            return Op(i, key, lambda _: None, ("DEL", key))
        if draw < 0.3:
            return Op(i, key, lambda old: (old or ())[1:] or None, ("LPOP", key))
        if draw < 0.4:
            return Op(i, key, lambda old: (token(i), *(old or ())), ("LPUSH", key, token(i)))
        return Op(i, key, lambda old: (*(old or ()), token(i)), ("RPUSH", key, token(i)))

    def _write_set(self, i):
        key, member = f"m:{self.number}", b"m%d" % self.random.randrange(60)
        if self.random.random() < 0.4:
            return Op(i, key, lambda old: (old or frozenset()) - {member} or None, ("SREM", key, member))
        return Op(i, key, lambda old: (old or frozenset()) | {member}, ("SADD", key, member))

    def _write_zset(self, i):
        key, member = f"z:{self.number}", b"z%d" % self.random.randrange(60)
        if self.random.random() < 0.3:
            return Op(i, key, lambda old: without(old, member), ("ZREM", key, member))
        return Op(i, key, lambda old: {**(old or {}), member: b"%d" % i}, ("ZADD", key, i, member))

    # ---- sending ----

    def run(self, port, stop):
        """Writes until told to stop, the connection ends, or an error is answered."""
        try:
            with Client(port) as client:
                while not stop.is_set() and not self.refused:
                    self._batch(client)
        except ConnectionError:
            pass

    def _batch(self, client):
        batch = [self.make() for _ in range(self.random.choice(self.batches))]
        self.ops += batch
        begun = time.time()
        for op in batch:
            if op.deadline:
                self.deadlines[op.deadline] = (begun, None, op.requests[0][4] / 1000)
        client.send(b"".join(encode(*words) for op in batch for words in op.requests))
        for op in batch:
            for _ in range(op.replies):
                reply = client.read()
            if isinstance(reply, ErrorReply):
                self._refuse(batch, reply)
                return
            self.acknowledged += 1
            if op.counter:
                self.counters_seen.append((op.counter, reply))
            if op.deadline:
                self.deadlines[op.deadline] = (begun, time.time(), op.requests[0][4] / 1000)

    def _refuse(self, batch, reply):
        """An error ends the writing. Of a single operation it says that it did not happen, unless
        it says unknown; in a batch all that follows counts as unknown."""
        self.refused.append(reply)
        if len(batch) == 1 and reply.code != "UNKNOWN":
            self.ops.pop()
            self.deadlines.pop(batch[0].deadline, None)

    # ---- explaining ----

    def watched_keys(self):
        """Keys whose content says what survived."""
        return set(self.state) | {op.key for op in self.ops if op.key}

    def explain(self, found):
        """Finds the prefix that explains what was found and takes it as the state from now on.

        Gives how many acknowledged operations are missing, and how many increments of each counter
        may have happened beyond those explained. Raises if no prefix explains what was found.
        """
        state = dict(self.state)
        wrong = {key for key in self.watched_keys() if state.get(key) != found.get(key)}
        least = max(self.acknowledged, self._seen_position())
        fits = [] if wrong else [0]
        for position, op in enumerate(self.ops, 1):
            if op.key:
                state[op.key] = op.change(state.get(op.key))
                (wrong.discard if state[op.key] == found.get(op.key) else wrong.add)(op.key)
            if not wrong:
                fits.append(position)
        good = [position for position in fits if position >= least]
        if not good and not fits:
            raise Violation(self._story(found, least))
        first, last = (good[0], good[-1]) if good else (fits[-1], fits[-1])
        lost = max(0, least - last)
        loose = self._settle(first, last)
        return lost, loose

    def _seen_position(self):
        """How many of the operations somebody has read the effects of."""
        return next((at for at, op in enumerate(self.ops) if op.index > self.seen), len(self.ops)) if self.seen else 0

    def _settle(self, first, last):
        loose = {}
        for position, op in enumerate(self.ops, 1):
            if position > last:
                break
            if op.key:
                self.state[op.key] = op.change(self.state.get(op.key))
            if op.transfer:
                source, target, amount = op.transfer
                self.balance[source] = self.balance.get(source, 0) - amount
                self.balance[target] = self.balance.get(target, 0) + amount
                self.transfers += 1
            if op.counter:
                side = self.counts if position <= first else loose
                side[op.counter] = side.get(op.counter, 0) + 1
        self.total_acknowledged += self.acknowledged
        self.state = {key: held for key, held in self.state.items() if held is not None}
        self.ops, self.acknowledged, self.refused = [], 0, []
        self.seen = 0
        return loose

    def _story(self, found, least):
        """Why no prefix fits: the keys that differ right after the acknowledged operations."""
        state = dict(self.state)
        for op in self.ops[:least]:
            if op.key:
                state[op.key] = op.change(state.get(op.key))
        wrong = [key for key in sorted(self.watched_keys()) if state.get(key) != found.get(key)]
        lines = [f"writer {self.number}: nothing that it sent explains what is there; it sent {len(self.ops)} "
                 f"operations, {least} were acknowledged or read; {len(wrong)} keys differ from that"]
        for key in wrong[:6]:
            held = [(at, op.index) for at, op in enumerate(self.ops, 1) if op.key == key]
            lines.append(f"  {key}: expected {brief(state.get(key))}, found {brief(found.get(key))}; "
                         f"(position, operation) of its writes: ... {held[-8:]}")
        return "\n".join(lines)


def without(old, field):
    left = {key: value for key, value in (old or {}).items() if key != field}
    return left or None


def brief(held):
    text = repr(held)
    return text if len(text) < 160 else f"{text[:70]} ... {text[-70:]}"
