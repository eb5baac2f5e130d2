"""Single flipped bits in every kind of file: found and said, or harmless; never a wrong answer.

A node with several table files and log segments is killed. Each flip is made in a copy of its folder.
Then `check` runs on one copy and a server on another, from which every key is read:
- a server that starts must give every key right or answer CORRUPT for it;
- one that does not start must exit by itself and name the damaged file, as must a failing check;
- what a check calls sound must be right throughout.
The last group of the log is the published exception: without a watermark behind it, damage to it
cannot be told from a torn write. Its record is a key of its own here, and that one may be missing.
"""

import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

from crashlib import ErrorReply, Server, Violation, memory_with_room, scratch, until
from load import brief
from parallel import side_by_side

# Nothing but a stop flushes.
SETTINGS = {"log.segment_bytes": "128KiB", "engine.replay_bytes_max": "64MiB"}
KEYS = 700
TABLE_TURNS = 3
LOG_TURNS = 3
LAST = "last"
# What the copies take at most: a bit is flipped in a file, so that it is no matter where the files lie.
COPIES_BYTES_MAX = 1 << 30
BASE_TRIES = 12
COLLECTION_READS = [("HGETALL", "h"), ("HLEN", "h"), ("LRANGE", "l", 0, -1), ("LLEN", "l"), ("SMEMBERS", "m"),
                    ("SCARD", "m"), ("ZRANGE", "z", 0, -1, "WITHSCORES"), ("ZCARD", "z")]
# Kinds of files, by their path in the data folder; the first that fits. A file of no kind is an error:
# so every file that a node makes is one that bits were flipped in.
KINDS = {
    "log segment in use": lambda file: file.is_segment and file.is_last,
    "log segment, recycled": lambda file: file.is_segment and file.is_recycled,
    "log segment, sealed": lambda file: file.is_segment,
    "log reserve": lambda file: file.path == "log/reserve",
    "log identity": lambda file: file.path == "log/identity",
    "table": lambda file: file.path.endswith(".sst"),
    "MANIFEST": lambda file: file.path.startswith("engine/MANIFEST-"),
    "CURRENT": lambda file: file.path == "engine/CURRENT",
    "OPTIONS": lambda file: file.path.startswith("engine/OPTIONS-"),
    "IDENTITY": lambda file: file.path == "engine/IDENTITY",
    "engine's LOG": lambda file: file.path.startswith("engine/LOG"),
    "lock": lambda file: file.path == "lock",
    "left over": lambda file: file.path in LEFT_OVER,
}
# What a crash can leave of files that have no content yet or no more; made here.
LEFT_OVER = ("log/reserve.tmp", "log/trimmed", "engine/000999.dbtmp")
# Files that hold no bit: the engine's lock, and its own write-ahead log, which is not used.
EMPTY = re.compile(r"engine/(LOCK|\d+\.log)")


class Found:
    """A file of the data folder."""

    def __init__(self, root, path, last_segment):
        self.path = path
        self.is_segment = path.startswith("log/") and path.endswith(".seg")
        self.is_last = path == last_segment
        # Bit 31 of the count of shards: all zeros at first (docs/formats.md, "Segment header").
        self.is_recycled = self.is_segment and not (root / path).read_bytes()[59] & 0x80


def by_kind(root):
    """The files with content, by kind, and the names of those without."""
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    last = max(path for path in paths if path.endswith(".seg"))
    files, empty = {kind: [] for kind in KINDS}, []
    for path in paths:
        if not (root / path).stat().st_size:
            if not EMPTY.fullmatch(path):
                raise Violation(f"{path} is empty")
            empty.append(path)
            continue
        found = Found(root, path, last)
        kind = next((kind for kind, fits in KINDS.items() if fits(found)), None)
        if kind is None:
            raise Violation(f"{path} is of no kind that is known here")
        files[kind].append(path)
    return files, empty


class Base:
    """The folder that copies are made of, and what it holds."""

    def __init__(self, folder, seed):
        self.folder = folder
        folder.mkdir()
        self.right = {}
        self.collections = {}
        choice = random.Random(f"{seed}/bitflip")
        server = Server(folder / "base", folder / "base.log", SETTINGS)
        # Each stop flushes, so each turn leaves a table; overwrites hide an older value below.
        for _ in range(TABLE_TURNS):
            server.start()
            with server.client() as client:
                self._turn(client, choice)
            server.terminate()
        # What comes last is in the log alone, spread over many groups and several segments.
        server.start()
        with server.client() as client:
            for _ in range(LOG_TURNS):
                self._turn(client, choice)
            for at in range(40):
                self._write(client, [("SET", f"s:{at}", self._value(choice, f"s:{at}"))])
            for command in COLLECTION_READS:
                self.collections[command] = client.expect(*command)
            until((folder / "base" / "log" / "reserve").exists, "the log has a reserve")
            client.expect("SET", LAST, "x")
        server.kill()
        for path in LEFT_OVER:
            (folder / "base" / path).write_bytes(choice.randbytes(10_000))
        self.files, self.empty = by_kind(folder / "base")
        if len(self.files["table"]) < 2 or len(self.files["log segment, sealed"]) < 2:
            raise Violation(f"the folder to damage came out too small: {self.files}")

    @staticmethod
    def _value(choice, key):
        return f"{key}/".encode() + choice.randbytes(choice.randrange(10, 500))

    def _write(self, client, commands):
        for command, reply in zip(commands, client.pipeline(commands)):
            if isinstance(reply, ErrorReply):
                raise Violation(f"{command[:2]}: {reply}")
            self.right[command[1]] = command[2] if command[0] == "SET" else None

    def _turn(self, client, choice):
        commands = [("SET", key, self._value(choice, key))
                    for key in (f"s:{choice.randrange(KEYS)}" for _ in range(KEYS // 2))]
        commands += [("DEL", f"s:{choice.randrange(KEYS)}") for _ in range(20)]
        commands.append(("SET", "big", choice.randbytes(40_000)))
        self._write(client, commands)
        for _ in range(40):
            name, score = f"m{choice.randrange(60)}", choice.randrange(1000)
            client.expect("HSET", "h", name, score)
            client.expect("RPUSH", "l", name)
            client.expect("SADD", "m", name)
            client.expect("ZADD", "z", score, name)

    def copy(self, to):
        """A copy; tables are never changed in place, so a link will do for them."""
        root = self.folder / "base"
        for path in root.rglob("*"):
            target = to / path.relative_to(root)
            if path.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            (os.link if path.suffix == ".sst" else shutil.copyfile)(path, target)


def complete_base(folder, seed):
    """A folder with every kind of file. Whether a segment is trimmed before the last ones are written is
    a race, so it takes some tries."""
    for number in range(BASE_TRIES):
        base = Base(folder / f"try{number}", seed + number)
        missing = [kind for kind, files in base.files.items() if not files]
        if not missing:
            return base
        shutil.rmtree(base.folder)
    raise Violation(f"no folder of {BASE_TRIES} has {', '.join(missing)}")


def flip(path, bit):
    """Flips one bit, in a file of its own."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


def read_all(client, base):
    """Compares every key; gives how many answers were CORRUPT."""
    right = {("GET", key): held for key, held in base.right.items()} | base.collections
    detected = 0
    for (command, held), found in zip(right.items(), client.pipeline(list(right))):
        if isinstance(found, ErrorReply):
            if found.code != "CORRUPT":
                raise Violation(f"{command}: {found}")
            detected += 1
        elif found != held:
            raise Violation(f"{command} gives {brief(found)}, not {brief(held)}")
    return detected + scan_all(client, base)


def scan_all(client, base):
    """A full SCAN gives every key, or an error; so does DBSIZE count."""
    alive = {key.encode() for key, held in base.right.items() if held is not None}
    alive |= {command[1].encode() for command in base.collections}
    scanned, cursor = set(), b"0"
    while True:
        reply = client.call("SCAN", cursor, "COUNT", 500)
        if isinstance(reply, ErrorReply):
            if reply.code != "CORRUPT":
                raise Violation(f"SCAN: {reply}")
            return 1
        cursor, keys = reply
        scanned.update(keys)
        if cursor == b"0":
            break
    scanned.discard(LAST.encode())
    if scanned != alive:
        raise Violation(f"SCAN misses {brief(sorted(alive - scanned))}, has {brief(sorted(scanned - alive))}")
    size = client.call("DBSIZE")
    if size not in (len(alive), len(alive) + 1):
        raise Violation(f"DBSIZE is {size}, and there are {len(alive)} keys")
    return 0


def served(base, folder, path):
    """What a server makes of the copy: 'refused', 'corrupt' (some reads) or 'right'."""
    server = Server(folder, folder.parent / "server.log", SETTINGS)
    try:
        if not server.started():
            code = server.exited()
            return refused("serve", code, server.log_text(), path)
        with server.client() as client:
            return "corrupt" if read_all(client, base) else "right"
    except ConnectionError as error:
        raise Violation(f"the server went away: {error}: {server.log_text()[-500:]}") from None
    finally:
        server.kill()


def refused(who, code, said, path):
    if code != 1:
        raise Violation(f"{who} ended with {code}: {said[-500:]}")
    if "panicked" in said:
        raise Violation(f"{who} panicked: {said[-500:]}")
    # CURRENT holds nothing but the name of a manifest, so a missing manifest points to it.
    named = Path(path).name in said or (path.endswith("/CURRENT") and "/engine/MANIFEST-" in said)
    if not named:
        raise Violation(f"{who} does not name the file: {said[-500:]}")
    return "refused"


def checked(base, folder, path):
    """What `check` makes of the copy: 'refused' or 'right'."""
    code, said = Server(folder, folder.parent / "server.log").check()
    if code != 0 and "restore from a backup" not in said:
        raise Violation(f"check does not say what to do: {said[-500:]}")
    return "right" if code == 0 else refused("check", code, said, path)


def one_flip(base, place, path, bit):
    """One flipped bit; gives what check and server made of it. Raises Violation."""
    verdicts = []
    place.mkdir()
    try:
        for look in (checked, served):
            folder = place / look.__name__
            base.copy(folder)
            flip(folder / path, bit)
            verdicts.append(look(base, folder, path))
    finally:
        shutil.rmtree(place)
    check, serve = verdicts
    if check == "right" and serve != "right":
        raise Violation(f"check found nothing, but the server: {serve}")
    return f"check {check}, serve {serve}"


def see_planted(base):
    """Wrong answers must be seen: a value of another key, and a missing key."""
    folder = base.folder / "copy"
    base.copy(folder)
    server = Server(folder, base.folder / "server.log", SETTINGS).start()
    with server.client() as client:
        read_all(client, base)
        one, other = [key for key, held in base.right.items() if held is not None and key != "big"][:2]
        for plant in (("SET", one, base.right[other]), ("DEL", one)):
            client.expect(*plant)
            try:
                read_all(client, base)
            except Violation:
                continue
            raise RuntimeError(f"the check does not see {plant}")
    server.kill()
    shutil.rmtree(folder)


def run(seed, per_kind, say, kinds=tuple(KINDS)):
    """So many flips for each kind of file, side by side; gives what became of them."""
    figures, violations = {}, []
    with scratch(memory_with_room(COPIES_BYTES_MAX)) as folder:
        base = complete_base(folder, seed)
        see_planted(base)
        say(f"bit flips: no bit to flip in {', '.join(base.empty)}")
        for kind in kinds:
            flips = chosen(base, kind, seed, per_kind)
            done = side_by_side(lambda number: one_flip(base, folder / f"flip-{number}", *flips[number]), range(per_kind))
            for number, (_, failure) in enumerate(done):
                if failure:
                    path, bit = flips[number]
                    violations.append(f"{path} bit {bit} (flip {number} of {kind}): {failure!r}")
                    say(f"bit flip: {violations[-1]}")
            outcomes = Counter("VIOLATION" if failure else outcome for outcome, failure in done)
            figures[kind] = dict(outcomes)
            became = "; ".join(f"{n} {what}" for what, n in sorted(outcomes.items()))
            say(f"bit flips, {kind} ({len(base.files[kind])} files): {became}")
    if violations:
        raise Violation(f"{len(violations)} of {per_kind * len(kinds)} flips: {violations[0]}")
    return figures


def chosen(base, kind, seed, per_kind):
    """The flips of a kind: (file, bit)."""
    files, choice = base.files[kind], random.Random(f"{seed}/{kind}")
    paths = [choice.choice(files) for _ in range(per_kind)]
    return [(path, choice.randrange(8 * (base.folder / "base" / path).stat().st_size)) for path in paths]
