"""Writers and readers on one server, and the check of everything that they left.

`World.run` loads the server until it is told to stop or the server goes; `World.check` reads all keys
of a server that is there again and compares. What a reader has read counts like an acknowledgement,
for a reply leaves only when all that it shows is durable. A world outlives many servers.
"""

import random
import threading
import time

from crashlib import Client, ErrorReply, TooLate, Violation, until
from load import (
    ACCOUNT_START, ACCOUNTS, CLOCK_SLACK_S, COLLECTIONS, COUNTERS, LONG_MS, WRITERS, Writer, brief,
    parse_value,
)

ACCOUNT_KEYS = [f"b:{at}" for at in range(ACCOUNTS)]
COUNTER_KEYS = [f"c:{at}" for at in range(COUNTERS)]


class World:
    """All that one data folder ought to hold."""

    def __init__(self, seed, writers=WRITERS, keys=200, careful=False):
        self.seed = seed
        self.random = random.Random(f"{seed}/reader")
        self.kinds = []
        self.writers = [Writer(number, seed, self.kinds, keys, careful) for number in range(writers)]
        self.counted = dict.fromkeys(COUNTER_KEYS, 0)
        self.violations = []
        self.latest = {}        # key -> the newest operation that the reader has seen
        self.reads = 0
        self.left_at = time.time()

    @property
    def acknowledged(self):
        """Operations acknowledged and checked so far."""
        return sum(writer.total_acknowledged for writer in self.writers)

    @property
    def pending(self):
        """Operations acknowledged since the last check."""
        return sum(writer.acknowledged for writer in self.writers)

    def prepare(self, client):
        """Fills the accounts and learns which types the server has."""
        for kind, command in COLLECTIONS.items():
            reply = client.call(command)
            if not (isinstance(reply, ErrorReply) and "unknown command" in reply.text):
                self.kinds.append(kind)
        for key in ACCOUNT_KEYS:
            client.expect("SET", key, ACCOUNT_START)

    # ---- load ----

    def run(self, server, moment):
        """Loads the server; `moment` is called meanwhile and returns when the load is to end."""
        stop = threading.Event()
        port = server.port
        threads = [threading.Thread(target=self._guarded, args=(writer.run, port, stop)) for writer in self.writers]
        threads.append(threading.Thread(target=self._guarded, args=(self._read, port, stop)))
        for thread in threads:
            thread.start()
        try:
            return moment()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            self.left_at = time.time()
            if self.violations:
                raise Violation("; ".join(self.violations))

    def _guarded(self, call, *arguments):
        try:
            call(*arguments)
        except Violation as violation:
            self.violations.append(str(violation))
        except Exception as error:  # noqa: BLE001: a thread's failure must fail the test
            self.violations.append(f"the test itself failed: {error!r}")

    def _read(self, port, stop):
        try:
            with Client(port) as client:
                while not stop.is_set():
                    self._read_accounts(client)
                    self._read_others(client)
        except ConnectionError:
            pass

    def _read_accounts(self, client):
        reply = client.call("MGET", *ACCOUNT_KEYS)
        if not isinstance(reply, ErrorReply):
            self._sum(reply)

    def _sum(self, reply):
        total = sum(int(balance) for balance in reply)
        if total != ACCOUNTS * ACCOUNT_START:
            raise Violation(f"the accounts add up to {total}, not {ACCOUNTS * ACCOUNT_START}: {reply}")

    def _read_others(self, client):
        for _ in range(8):
            writer = self.random.choice(self.writers)
            key = f"s:{writer.number}:{self.random.randrange(writer.keys)}"
            held = client.call("GET", key)
            if isinstance(held, bytes):
                index, _ = parse_value(key, held)
                if index < self.latest.get(key, 0):
                    raise Violation(f"{key}: operation {self.latest[key]} was read, and then {index}, which is older")
                self.latest[key] = index
                writer.seen = max(writer.seen, index)
            self.reads += 1

    # ---- check ----

    def check(self, client, may_lose=False):
        """Compares everything. Gives the number of acknowledged operations that are missing, which
        is a violation unless `may_lose`."""
        found = self._find(client)
        lost, loose = 0, dict.fromkeys(COUNTER_KEYS, 0)
        for writer in self.writers:
            missing, more = writer.explain(found)
            lost += missing
            for key, count in more.items():
                loose[key] += count
        if lost:
            if may_lose:
                return lost
            raise Violation(f"{lost} acknowledged or read operations are missing")
        self._check_accounts(client)
        self._check_counters(client, loose)
        self._check_deadlines(client)
        self._check_scan(client)
        return 0

    def _find(self, client):
        """What the server holds, as the writers would say it."""
        keys = sorted(set().union(*(writer.watched_keys() for writer in self.writers)))
        commands, readers = [], []
        for key in keys:
            asked, reader = READS[key[0]]
            commands += [tuple(key if word is None else word for word in command) for command in asked]
            readers.append((key, len(asked), reader))
        replies = iter(client.pipeline(commands))
        found = {}
        for key, count, reader in readers:
            answers = [next(replies) for _ in range(count)]
            errors = [answer for answer in answers if isinstance(answer, ErrorReply)]
            if errors:
                raise Violation(f"{key}: {errors[0]}")
            found[key] = reader(key, *answers)
        return found

    def _check_accounts(self, client):
        balances = client.expect("MGET", *ACCOUNT_KEYS)
        self._sum(balances)
        for account, balance in enumerate(balances):
            right = ACCOUNT_START + sum(writer.balance.get(account, 0) for writer in self.writers)
            if int(balance) != right:
                raise Violation(f"account {account} holds {int(balance)}, not {right}: a transaction was torn")

    def _check_counters(self, client, loose):
        values = client.expect("MGET", *COUNTER_KEYS)
        for key, value in zip(COUNTER_KEYS, values):
            value = int(value or 0)
            least = self.counted[key] + sum(writer.counts.pop(key, 0) for writer in self.writers)
            if not least <= value <= least + loose[key]:
                raise Violation(f"{key} is {value}, not from {least} to {least + loose[key]}")
            self._check_counter_replies(key, value)
            self.counted[key] = value
        for writer in self.writers:
            writer.counters_seen.clear()

    def _check_counter_replies(self, key, value):
        """Every acknowledged increment answered a number of its own, rising along a connection."""
        everybody = set()
        for writer in self.writers:
            mine = [reply for counter, reply in writer.counters_seen if counter == key]
            rising = all(a < b for a, b in zip([self.counted[key], *mine], [*mine, value + 1]))
            if not rising or not everybody.isdisjoint(mine):
                raise Violation(f"{key} went from {self.counted[key]} to {value} and answered {brief(mine)}")
            everybody.update(mine)

    def _check_deadlines(self, client):
        """Keys that live are there until their deadline and never after it."""
        for writer in self.writers:
            keys = list(writer.deadlines)
            before = time.time()
            held = client.pipeline([("GET", key) for key in keys])
            after = time.time()
            for key, value in zip(keys, held):
                sent, acknowledged, seconds = writer.deadlines[key]
                if isinstance(value, ErrorReply):
                    raise Violation(f"{key}: {value}")
                if value is not None:
                    parse_value(key, value)
                if value is None and acknowledged and after + CLOCK_SLACK_S < sent + seconds:
                    raise Violation(f"{key} is gone {sent + seconds - after:.3f} s before its deadline")
                latest = (acknowledged or self.left_at) + seconds + CLOCK_SLACK_S
                if value is not None and before > latest:
                    raise Violation(f"{key} is there {before - latest:.3f} s after its deadline")
                if before > latest:
                    del writer.deadlines[key]

    def _check_scan(self, client):
        """SCAN gives exactly what is there; DBSIZE counts it, as soon as what has expired is deleted."""
        last = []

        def agree():
            last[:] = [client.expect("DBSIZE"), len(self._scan(client))]
            return last[0] == last[1]
        try:
            until(agree, "")
        except TooLate:
            raise Violation(f"DBSIZE says {last[0]}, a full SCAN gives {last[1]} keys, and that stays so") from None

    def _scan(self, client):
        scanned, cursor = set(), b"0"
        while True:
            cursor, keys = client.expect("SCAN", cursor, "COUNT", 500)
            scanned.update(key.decode() for key in keys)
            if cursor == b"0":
                break
        mortal = {key for key in scanned if key.startswith("e:")}
        right = {*ACCOUNT_KEYS, *(key for key, value in self.counted.items() if value)}
        right = right.union(*(writer.state for writer in self.writers))
        known = set().union(*(writer.deadlines for writer in self.writers))
        if scanned - mortal != right or not mortal <= known:
            missing = sorted(right - scanned)
            extra = sorted((scanned - mortal - right) | (mortal - known))
            raise Violation(f"SCAN misses {brief(missing)} has {brief(extra)} too many")
        return scanned

    def check_everything_expires(self, client):
        """After the last deadline no such key is left, and the count knows."""
        def gone():
            self._check_deadlines(client)
            return not any(writer.deadlines for writer in self.writers)
        until(gone, "all deadlines have passed")
        self._check_scan(client)


# ---- how each kind of key is read: commands (None stands for the key), and what the answers say ----


def _string(key, held, ttl_ms):
    if held is None:
        return None
    index, has_deadline = parse_value(key, held)
    if not (0 < ttl_ms <= LONG_MS if has_deadline else ttl_ms == -1):
        raise Violation(f"{key}: its deadline is {ttl_ms} ms away, and the value says {has_deadline}")
    return index, has_deadline


def _pairs(key, flat, count):
    pairs = dict(zip(flat[::2], flat[1::2]))
    if len(pairs) != count:
        raise Violation(f"{key} has {len(pairs)} members but counts {count}")
    return pairs or None


def _members(key, members, count):
    if len(members) != count or len(set(members)) != count:
        raise Violation(f"{key} has {len(members)} members but counts {count}")
    return frozenset(members) or None


def _elements(key, elements, count):
    if len(elements) != count:
        raise Violation(f"{key} has {len(elements)} elements but counts {count}")
    return tuple(elements) or None


READS = {
    "s": ([("GET", None), ("PTTL", None)], _string),
    "a": ([("GET", None)], lambda _, held: held),
    "t": ([("GET", None)], lambda _, held: held and int(held)),
    "h": ([("HGETALL", None), ("HLEN", None)], _pairs),
    "l": ([("LRANGE", None, 0, -1), ("LLEN", None)], _elements),
    "m": ([("SMEMBERS", None), ("SCARD", None)], _members),
    "z": ([("ZRANGE", None, 0, -1, "WITHSCORES"), ("ZCARD", None)], _pairs),
}
