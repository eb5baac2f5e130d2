"""A full disk and a failing disk, under load: clear refusals, no lost write, and it goes on by itself.

Writers send one request at a time here, so that every answer is exact: an error other than UNKNOWN
means that the write did not happen, and the check holds the server to it.
"""

import random
import time

from crashlib import (
    ErrorReply, Server, TooLate, Violation, must_be_sound, need_fuse, need_root, scratch, small_disk, until,
)
from kill_rounds import TORN, end_in_order
from parallel import side_by_side
from powercut import PowerCutDisk
from world import ACCOUNT_KEYS, World

DISK = "40m"
# A key that is there to be deleted while the disk is full.
SPARE = "spare"
# The engine looks for room every five seconds.
RECOVERY_S = 20
# What the server may say from WARN on while its disk fails.
FAULTS_SAID = [TORN, r"the log failed", r"no space|No space", r"Input/output error", r"no reserve segment", r"disk is nearly full",
               r"flush or trim failed", r"engine refused durable records", r"sweeping waits", r"no watermark",
               r"expiry waits"]


class Ballast:
    """A file that takes all the room that is left."""

    def __init__(self, disk):
        self.path = disk / "ballast"

    def fill(self):
        with open(self.path, "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 16, 1 << 12):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass

    def free(self):
        self.path.unlink(missing_ok=True)


def load_until_refused(world, server, meanwhile, codes):
    """Loads until an error has ended every writer; every code must be one of these."""
    def moment():
        def refused():
            meanwhile()
            return all(writer.refused for writer in world.writers)
        until(refused, "every writer has been refused", RECOVERY_S)
    world.run(server, moment)
    said = sorted({reply.text for writer in world.writers for reply in writer.refused})
    wrong = [text for text in said if text.split(" ", 1)[0] not in codes]
    if wrong:
        raise Violation(f"refused with {wrong}")
    return said


def load_for(world, server, seconds):
    """Loads for a while; nothing may be refused."""
    world.run(server, lambda: time.sleep(seconds))
    refused = [reply for writer in world.writers for reply in writer.refused]
    if refused:
        raise Violation(f"refused although nothing is wrong any more: {refused}")


def goes_on(server):
    """The disk is well again: writes work, and the engine takes them. A server that gave up by
    itself with an error is started again. Gives the seconds that it took."""
    begun = time.monotonic()
    last, target = [], []

    def works():
        if server.process.poll() is not None:
            give_up_said(server)
            server.start()
        try:
            with server.client() as client:
                last[:] = [client.call("SET", "probe", "1"), client.call("DEL", "probe")]
                facts = positions(client)
        except ConnectionError as error:
            last[:] = [error]
            return False
        last.append(facts)
        if isinstance(facts, ErrorReply):
            return False
        if last[:2] == ["OK", 1] and not target:
            target.append(facts["durable_lsn"])
        return bool(target) and facts["applied_lsn"] >= target[0]
    try:
        until(works, "", RECOVERY_S)
    except TooLate:
        raise Violation(f"it does not go on {RECOVERY_S} s after the disk is well again: {last}; "
                        f"the log ends with {server.log_text()[-400:]}") from None
    return time.monotonic() - begun


def positions(client):
    """How far log and engine are; the error of a server that is about to end."""
    said = client.call("INFO")
    if isinstance(said, ErrorReply):
        return said
    facts = dict(line.split(":", 1) for line in said.decode().split("\r\n") if ":" in line)
    return {name: int(facts[name]) for name in ("durable_lsn", "applied_lsn", "flushed_lsn")}


def give_up_said(server):
    code = server.exited()
    if code != 1 or " ERROR " not in server.log_text():
        raise Violation(f"the server ended with {code} and without a word: {server.log_text()[-600:]}")


def refuses_and_reads(server, world):
    """While the disk is full: writes that grow are refused clearly, deletes are admitted, reads go on."""
    with server.client() as client:
        def refused():
            reply = client.call("SET", "probe", "1")
            return isinstance(reply, ErrorReply) and reply.code == "OOM" and ("space" in reply.text or "disk" in reply.text)
        until(refused, "a write is refused for want of space")
        if client.call("DEL", SPARE) != 1:
            raise Violation(f"a full disk admits no delete: {client.call('DEL', SPARE)}")
        balances = client.expect("MGET", *ACCOUNT_KEYS)
        if None in balances:
            raise Violation("an account is gone while the disk is full")
        for writer in world.writers:
            for key in sorted(writer.state):
                if key[0] == "s" and client.expect("EXISTS", key) not in (0, 1):
                    raise Violation(f"EXISTS {key}")


def end_and_check(server, world):
    """In order down, sound, up again, all there."""
    code, _ = server.terminate()
    if code != 0:
        raise Violation(f"SIGTERM: exit code {code}: {server.log_text()[-1000:]}")
    must_be_sound(server)
    server.start()
    with server.client() as client:
        world.check(client)
        world.check_everything_expires(client)
    end_in_order(server)


def no_other_complaints(server):
    others = server.complaints(FAULTS_SAID)
    if others:
        raise Violation(f"the server complained: {others[:3]}")


def enospc_round(seed, folder, say, killed):
    """The disk fills up under load. Either room comes back while it runs, or after it was killed."""
    with small_disk(folder / "disk", DISK) as disk:
        ballast = Ballast(disk)
        server = Server(disk / "data", folder / "server.log").start()
        world = World(seed, careful=True)
        with server.client() as client:
            world.prepare(client)
        load_for(world, server, 0.3)
        with server.client() as client:
            world.check(client)
            client.expect("SET", SPARE, "x")
        said = load_until_refused(world, server, ballast.fill, ("OOM", "UNKNOWN"))
        refuses_and_reads(server, world)
        acknowledged = world.pending
        if killed:
            server.kill()
            if server.started():
                server.kill()
            elif "space" not in server.log_text():
                raise Violation(f"it does not start on a full disk, and does not say why: {server.log_text()[-500:]}")
            ballast.free()
            server.start()
            took = goes_on(server)
        else:
            ballast.free()
            took = goes_on(server)
        with server.client() as client:
            world.check(client)
        load_for(world, server, 0.3)
        no_other_complaints(server)
        with server.client() as client:
            world.check(client)
        end_and_check(server, world)
        how = "killed and started again" if killed else "went on by itself"
        say(f"full disk: {acknowledged} acknowledged before it was full, {how} after {took:.2f} s; said {said}")
        return took


# Which faults: operation, files, how often. `full` is sudden: no room after so many more bytes.
EIO = [("fsync", "*.seg", 1), ("fsync", "*.sst", 2), ("write", "*.seg", 1), ("fsync", "*.seg", 3), ("fsync", "*", 2),
       ("full", "*", 1 << 20), ("write", "*.sst", 2), ("fsync", "*MANIFEST*", 1)]

STRUCK = ("Input/output error", "No space", "no space", "nearly full")


def eio_round(seed, folder, say, fault):
    """Some syncs or writes fail, or there is suddenly no room; it goes on by itself, and a power cut afterwards loses nothing."""
    choice = random.Random(f"{seed}/eio")
    operation, path, count = fault
    with PowerCutDisk(folder / "backing", folder / "mount", seed=seed) as disk:
        server = Server(disk.mount / "data", folder / "server.log").start()
        world = World(seed, careful=True)
        with server.client() as client:
            world.prepare(client)
        load_for(world, server, 0.3)

        def moment():
            time.sleep(choice.random() * 0.3)
            if operation == "full":
                disk.set_fault("enospc", after=count)
            else:
                disk.set_fault("eio", op=operation, path=path, count=count)
            until(lambda: any(said in server.log_text() for said in STRUCK), "the fault strikes")
            time.sleep(0.3)
        world.run(server, moment)
        refused = [reply for writer in world.writers for reply in writer.refused]
        wrong = [reply for reply in refused if reply.code not in ("UNKNOWN", "TRYAGAIN", "OOM")]
        if wrong:
            raise Violation(f"refused with {wrong}")
        if path == "*.seg" and not refused:
            raise Violation(f"{operation} of the log failed and no writer heard of it")
        disk.clear_faults()
        took = goes_on(server)
        with server.client() as client:
            world.check(client)
        load_for(world, server, 0.3)
        no_other_complaints(server)
        disk.cut(kill=[server.process])
        server.kill()
        disk.remount()
        server.start()
        with server.client() as client:
            world.check(client)
        end_and_check(server, world)
        what = f"no room after {count} bytes" if operation == "full" else f"{operation} of {path} failed {count} times"
        say(f"failing disk: {what}, {len(refused)} writers heard of it, "
            f"{world.acknowledged} acknowledged, went on after {took:.2f} s")
        return took


# How long the engine may refuse rows before the node ends itself, and how long it tells of it.
PATIENCE_S = 5
TOLD_FOR_S = 1
ENDS = "this node ends: its engine failed"


def run_engine_failure(seed, say):
    """An engine that does not recover: requests are told that the node ends, then it does; nothing is lost."""
    need_fuse()
    with scratch() as folder, PowerCutDisk(folder / "backing", folder / "mount", seed=seed) as disk:
        server = Server(disk.mount / "data", folder / "server.log").start()
        acknowledged, last, value = 0, None, "x" * 4000
        with server.client() as client, server.client() as idle:
            idle.expect("PING")
            # Flushes fail from now on; the log does not.
            disk.set_fault("eio", op="write", path="*.sst", count=None)
            begun = time.monotonic()
            while time.monotonic() - begun < 60:
                try:
                    last = client.call("SET", f"k:{acknowledged}", value)
                except ConnectionError:
                    break
                if last == "OK":
                    acknowledged += 1
                elif ENDS in last.text:
                    break
            told_idle = None
            try:
                told_idle = idle.call("GET", "k:0")
            except ConnectionError:
                pass
        code = server.exited(TOLD_FOR_S + 10)
        told = [reply for reply in (last, told_idle) if isinstance(reply, ErrorReply) and ENDS in reply.text]
        if code != 1 or not told or told[0].code != "TRYAGAIN":
            raise Violation(f"exit code {code}, told {last!r} and {told_idle!r}: {server.log_text()[-800:]}")
        disk.clear_faults()
        server.start()
        with server.client() as client:
            missing = [at for at in range(acknowledged) if client.expect("GET", f"k:{at}") != value.encode()]
        if missing:
            raise Violation(f"{len(missing)} of {acknowledged} acknowledged writes are missing: {missing[:5]}")
        code, _ = server.terminate()
        say(f"failed engine: {acknowledged} acknowledged, told {told[0]}, all there after the restart")
    return {"acknowledged": acknowledged}


def run_enospc(seed, count, say):
    """Full disks; every second one with a kill. Gives figures."""
    need_root()
    return each(count, say, lambda number, folder: enospc_round(f"{seed}/{number}", folder, say, number % 2 == 1))


def run_eio(seed, count, say):
    """Failing disks, all kinds of faults in turn. Gives figures."""
    need_fuse()
    return each(count, say, lambda number, folder: eio_round(f"{seed}/{number}", folder, say, EIO[number % len(EIO)]))


def each(count, say, one):
    """Runs all rounds, each in a folder of its own, side by side, and raises if any of them failed."""
    def round_in_scratch(number):
        with scratch() as folder:
            return one(number, folder)
    # Two on each core: the engine looks for a healthy disk only every few seconds, and a round waits for it.
    done = side_by_side(round_in_scratch, range(count), on_each_core=2)
    failures = [(number, failure) for number, (_, failure) in enumerate(done, 1) if failure]
    for number, failure in failures:
        say(f"round {number}: {failure!r}")
        if not isinstance(failure, Violation):
            raise failure
    if failures:
        raise Violation(f"{len(failures)} of {count} rounds: {failures[0][1]}")
    return {"rounds": count, "recovery_s_max": round(max(took for took, _ in done), 2)}
