"""Self-tests of the power-cut disk: what a cut loses, what it keeps, the faults, a real program.

Each test owns a folder, a mount and its processes. Run by `run-selftest`; pytest takes it as well.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from powercut import PowerCutDisk, PowerCutError  # noqa: E402

PAGE = 4096
DEADLINE_S = 60
FSYNCED_APPENDS_PER_S_MIN = 3000
SEED = int(os.environ.get("POWERCUT_SEED") or random.SystemRandom().getrandbits(32))


@contextmanager
def new_disk(**options):
    with tempfile.TemporaryDirectory(prefix="powercut-test-") as folder:
        backing, mount = Path(folder, "backing"), Path(folder, "mount")
        with PowerCutDisk(backing, mount, seed=SEED, **options) as disk:
            yield disk


@contextmanager
def opened(path, flags=os.O_RDWR | os.O_CREAT):
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(path):
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def put(path, content, directory_too=True):
    """A durable file, as a careful program makes it."""
    with opened(path) as descriptor:
        os.write(descriptor, content)
        os.fsync(descriptor)
    if directory_too:
        sync_directory(path.parent)


def after_cut(disk, **options):
    report = disk.cut(**options)
    disk.remount()
    return report


def names(disk):
    return sorted(os.listdir(disk.mount))


def drop(disk):
    return after_cut(disk, files="drop", names="drop")


def refused(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, f"{error} instead of {errno.errorcode[number]}"
    else:
        raise AssertionError(f"succeeded, instead of {errno.errorcode[number]}")


# Content.

def test_a_write_without_fsync_is_lost():
    with new_disk() as disk:
        put(disk.mount / "f", b"old")
        (disk.mount / "f").write_bytes(b"new and longer")
        assert (disk.mount / "f").read_bytes() == b"new and longer"
        report = drop(disk)
        assert (disk.mount / "f").read_bytes() == b"old"
        assert report["files_unsynced"] == 1 and report["pages_dropped"] == 1, report


def test_a_write_with_fsync_or_fdatasync_is_kept():
    with new_disk() as disk:
        for name, sync in [("a", os.fsync), ("b", os.fdatasync)]:
            put(disk.mount / name, b"old")
            with opened(disk.mount / name) as descriptor:
                os.pwrite(descriptor, b"X" * 10_000, 1)
                sync(descriptor)
        drop(disk)
        for name in "ab":
            assert (disk.mount / name).read_bytes() == b"o" + b"X" * 10_000


def test_a_write_to_a_file_opened_with_o_dsync_is_kept():
    for flag in (os.O_DSYNC, os.O_SYNC):
        with new_disk() as disk:
            put(disk.mount / "f", b"")
            with opened(disk.mount / "f", os.O_WRONLY | flag) as descriptor:
                os.write(descriptor, b"synced by the flag")
            drop(disk)
            assert (disk.mount / "f").read_bytes() == b"synced by the flag"


def test_sync_file_range_saves_nothing():
    with new_disk() as disk:
        put(disk.mount / "f", b"old")
        with opened(disk.mount / "f") as descriptor:
            os.pwrite(descriptor, b"new", 0)
            libc = ctypes.CDLL(None, use_errno=True)
            libc.sync_file_range.argtypes = [
                ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
            assert libc.sync_file_range(descriptor, 0, 0, 7) == 0
        drop(disk)
        assert (disk.mount / "f").read_bytes() == b"old"


def test_only_the_bytes_and_the_size_of_the_last_fsync_come_back():
    with new_disk() as disk:
        put(disk.mount / "f", b"a" * 5000)
        with opened(disk.mount / "f") as descriptor:
            os.pwrite(descriptor, b"b" * 20_000, 2000)
            os.ftruncate(descriptor, 100)
            os.ftruncate(descriptor, 9000)
        drop(disk)
        assert (disk.mount / "f").read_bytes() == b"a" * 5000


def test_a_random_subset_of_whole_unsynced_pages_survives():
    partial = 0
    for seed in range(8):
        with new_disk() as disk:
            put(disk.mount / "f", b"a" * (16 * PAGE))
            with opened(disk.mount / "f") as descriptor:
                os.pwrite(descriptor, b"b" * (16 * PAGE), 0)
                os.fsync(descriptor)
                os.pwrite(descriptor, b"c" * (32 * PAGE), 0)
            report = after_cut(disk, files="subset", seed=SEED + seed)
            content = (disk.mount / "f").read_bytes()
            assert len(content) >= 16 * PAGE, "the synced size is the least"
            pages = [content[at:at + PAGE] for at in range(0, len(content), PAGE)]
            assert all(page in (b"b" * PAGE, b"c" * PAGE) for page in pages[:16])
            assert all(page in (bytes(PAGE), b"c" * PAGE) for page in pages[16:])
            assert content.count(b"c") == report["pages_kept"] * PAGE, report
            partial += 0 < report["pages_kept"] < 32
    assert partial >= 6, f"only {partial} of 8 cuts were partial"


def test_a_page_can_tear_at_sectors():
    with new_disk() as disk:
        put(disk.mount / "f", b"a" * PAGE)
        with opened(disk.mount / "f") as descriptor:
            os.pwrite(descriptor, b"b" * PAGE, 0)
        assert after_cut(disk, files="torn")["pages_torn"] == 1
        content = (disk.mount / "f").read_bytes()
        sectors = {content[at:at + 512] for at in range(0, PAGE, 512)}
        assert sectors == {b"a" * 512, b"b" * 512}


def test_the_same_seed_gives_the_same_cut():
    outcomes = []
    for _ in range(2):
        with new_disk() as disk:
            for number in range(20):
                put(disk.mount / f"f{number}", b"a" * (8 * PAGE))
            for number in range(20):
                (disk.mount / f"g{number}").touch()
                with opened(disk.mount / f"f{number}") as descriptor:
                    os.pwrite(descriptor, b"b" * (8 * PAGE), 0)
            after_cut(disk, seed=SEED)
            outcomes.append([(name, (disk.mount / name).read_bytes()) for name in names(disk)])
    assert outcomes[0] == outcomes[1]


def test_a_shared_writable_mapping_is_saved_by_msync_only():
    with new_disk() as disk:
        put(disk.mount / "f", b"a" * (2 * PAGE))
        with opened(disk.mount / "f") as descriptor, mmap.mmap(descriptor, 2 * PAGE) as mapped:
            mapped[0:1] = b"b"
            mapped.flush()
            mapped[PAGE:PAGE + 1] = b"c"
            disk.cut(files="drop", names="drop")
        disk.remount()
        assert (disk.mount / "f").read_bytes() == b"b" + b"a" * (2 * PAGE - 1)


# Names.

def test_a_new_file_with_fsync_but_without_directory_fsync_is_gone():
    with new_disk() as disk:
        put(disk.mount / "f", b"synced", directory_too=False)
        drop(disk)
        assert names(disk) == []


def test_a_new_file_with_fsync_stays_where_the_ext4_switch_is_on():
    with new_disk(fsync_names=True) as disk:
        (disk.mount / "d").mkdir()
        put(disk.mount / "d" / "f", b"synced", directory_too=False)
        (disk.mount / "d" / "unsynced").touch()
        drop(disk)
        assert (disk.mount / "d" / "f").read_bytes() == b"synced"
        assert os.listdir(disk.mount / "d") == ["f"]


def test_a_directory_fsync_keeps_the_name_but_not_the_content():
    with new_disk() as disk:
        (disk.mount / "f").write_bytes(b"not synced")
        sync_directory(disk.mount)
        drop(disk)
        assert (disk.mount / "f").read_bytes() == b""


def test_a_rename_without_directory_fsync_gives_the_old_name_back():
    with new_disk() as disk:
        put(disk.mount / "CURRENT", b"1")
        put(disk.mount / "tmp", b"2")
        os.rename(disk.mount / "tmp", disk.mount / "CURRENT")
        assert (disk.mount / "CURRENT").read_bytes() == b"2" and names(disk) == ["CURRENT"]
        drop(disk)
        assert (disk.mount / "CURRENT").read_bytes() == b"1"
        assert (disk.mount / "tmp").read_bytes() == b"2"
        os.rename(disk.mount / "tmp", disk.mount / "CURRENT")
        sync_directory(disk.mount)
        drop(disk)
        assert (disk.mount / "CURRENT").read_bytes() == b"2" and names(disk) == ["CURRENT"]


def test_an_unlink_without_directory_fsync_brings_the_file_back():
    with new_disk() as disk:
        put(disk.mount / "f", b"content")
        os.unlink(disk.mount / "f")
        assert names(disk) == []
        drop(disk)
        assert (disk.mount / "f").read_bytes() == b"content"
        os.unlink(disk.mount / "f")
        sync_directory(disk.mount)
        drop(disk)
        assert names(disk) == []
        assert list(disk.backing.glob("objects/*")) == [], "a deleted file still takes room"


def test_a_new_directory_needs_a_sync_of_its_parent():
    with new_disk() as disk:
        (disk.mount / "kept").mkdir()
        sync_directory(disk.mount)
        (disk.mount / "lost").mkdir()
        for name in ("kept", "lost"):
            put(disk.mount / name / "f", b"content")
        drop(disk)
        assert names(disk) == ["kept"]
        assert (disk.mount / "kept" / "f").read_bytes() == b"content"


def test_a_removed_directory_comes_back():
    with new_disk() as disk:
        (disk.mount / "d").mkdir()
        put(disk.mount / "d" / "f", b"content")
        sync_directory(disk.mount)
        os.unlink(disk.mount / "d" / "f")
        os.rmdir(disk.mount / "d")
        drop(disk)
        assert (disk.mount / "d" / "f").read_bytes() == b"content"


def test_hard_links_share_content_and_survive_by_directory():
    with new_disk() as disk:
        put(disk.mount / "000001.sst", b"table")
        (disk.mount / "checkpoint").mkdir()
        sync_directory(disk.mount)
        os.link(disk.mount / "000001.sst", disk.mount / "checkpoint" / "000001.sst")
        assert os.stat(disk.mount / "000001.sst").st_nlink == 2
        sync_directory(disk.mount / "checkpoint")
        os.link(disk.mount / "000001.sst", disk.mount / "unsynced")
        drop(disk)
        assert names(disk) == ["000001.sst", "checkpoint"]
        assert os.stat(disk.mount / "000001.sst").st_nlink == 2
        with opened(disk.mount / "000001.sst") as descriptor:
            os.pwrite(descriptor, b"T", 0)
        assert (disk.mount / "checkpoint" / "000001.sst").read_bytes() == b"Table"


def test_surviving_names_are_a_prefix_or_on_request_any_subset():
    def survivors(order, seed):
        with new_disk() as disk:
            for number in range(12):
                (disk.mount / f"{number:02}").touch()
            after_cut(disk, order=order, seed=seed)
            return names(disk)

    created = [f"{number:02}" for number in range(12)]
    prefixes = [survivors("prefix", SEED + seed) for seed in range(6)]
    assert all(found == created[:len(found)] for found in prefixes), prefixes
    assert len({len(found) for found in prefixes}) > 1, prefixes
    subsets = [survivors("any", SEED + seed) for seed in range(3)]
    assert any(found != created[:len(found)] for found in subsets), subsets


# The machine.

def test_after_the_cut_every_operation_fails_until_the_remount():
    with new_disk() as disk:
        put(disk.mount / "f", b"content" * PAGE)
        with opened(disk.mount / "f") as descriptor:
            os.pread(descriptor, PAGE, 0)
            disk.cut(files="keep", names="keep")
            refused(errno.EIO, os.pread, descriptor, PAGE, 0)
            refused(errno.EIO, os.pwrite, descriptor, b"late", 0)
            refused(errno.EIO, os.fsync, descriptor)
            refused(errno.EIO, os.fstat, descriptor)
            refused(errno.EIO, os.listdir, disk.mount)
            refused(errno.EIO, os.mkdir, disk.mount / "late")
            try:
                disk.cut()
            except PowerCutError as error:
                assert "off already" in str(error)
            else:
                raise AssertionError("a second cut was accepted")
            assert (disk.tree / "f").read_bytes() == b"content" * PAGE
        disk.remount()
        assert (disk.mount / "f").read_bytes() == b"content" * PAGE


def test_switching_off_in_order_loses_nothing():
    with new_disk() as disk:
        (disk.mount / "d").mkdir()
        (disk.mount / "d" / "f").write_bytes(b"never synced")
        os.symlink("d/f", disk.mount / "s")
        os.chmod(disk.mount / "d" / "f", 0o600)
        os.utime(disk.mount / "d" / "f", (1, 2))
        disk.remount()
        assert (disk.mount / "s").read_bytes() == b"never synced"
        found = os.stat(disk.mount / "d" / "f")
        assert (found.st_mode & 0o777, found.st_mtime) == (0o600, 2)


def test_a_disk_whose_process_was_killed_is_refused():
    with new_disk() as disk:
        disk._daemon.kill()
        disk._daemon.wait()
        try:
            disk.stop()
        except PowerCutError:
            pass
        assert not os.path.ismount(disk.mount), "the mount was left behind"
        try:
            disk.start()
        except PowerCutError:
            return
        raise AssertionError("a disk without its volatile half was started")


def test_the_mount_goes_when_the_one_who_started_it_dies():
    with tempfile.TemporaryDirectory(prefix="powercut-test-") as folder:
        mount = Path(folder, "mount")
        code = (
            "import sys, os, signal; sys.path.insert(0, sys.argv[1]); import powercut\n"
            "powercut.PowerCutDisk(sys.argv[2] + '/backing', sys.argv[2] + '/mount').start()\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        home = str(Path(__file__).resolve().parent)
        # What the killed one could not clear away goes with the folder.
        own = {**os.environ, "TMPDIR": folder}
        subprocess.run([sys.executable, "-c", code, home, folder], check=False, env=own)
        wait_until(lambda: Path(folder, "backing", "disk").is_dir(), "the disk is switched off")
        assert not os.path.ismount(mount)


def test_the_calls_of_a_database_work():
    with new_disk() as disk:
        with opened(disk.mount / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as descriptor:
            page = mmap.mmap(-1, PAGE)
            page.write(b"d" * PAGE)
            assert os.pwrite(descriptor, page, 0) == PAGE
        with opened(disk.mount / "f") as descriptor:
            with mmap.mmap(descriptor, PAGE, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == b"d" * PAGE
            os.posix_fallocate(descriptor, 0, 3 * PAGE)
            assert os.fstat(descriptor).st_size == 3 * PAGE
            libc = ctypes.CDLL(None, use_errno=True)
            libc.fallocate.argtypes = [
                ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
            assert libc.fallocate(descriptor, 1, 0, 100 * PAGE) == 0, "KEEP_SIZE"
            assert os.fstat(descriptor).st_size == 3 * PAGE
            os.fsync(descriptor)
            sync_directory(disk.mount)
            assert libc.fallocate(descriptor, 3, 0, PAGE) == 0, "PUNCH_HOLE"
            assert os.pread(descriptor, 2, 0) == b"\0\0"
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with opened(disk.mount / "f") as other:
                refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        assert os.statvfs(disk.mount).f_bavail > 0
        refused(errno.EEXIST, os.mkdir, disk.mount / "f")
        refused(errno.ENOENT, os.unlink, disk.mount / "absent")
        (disk.mount / "d" / "e").mkdir(parents=True)
        refused(errno.ENOTEMPTY, os.rmdir, disk.mount / "d")
        refused(errno.ENOTEMPTY, os.rename, disk.mount / "d" / "e", disk.mount / "d")
        for number in range(3000):
            (disk.mount / "d" / "e" / f"{number}").touch()
        for number, entry in enumerate(os.scandir(disk.mount / "d" / "e"), start=1):
            os.unlink(entry.path)
        assert number == 3000, f"a walk that deletes saw {number} of 3000"
        drop(disk)
        assert (disk.mount / "f").read_bytes() == b"d" * PAGE + bytes(2 * PAGE)


def test_a_deleted_file_stays_usable_while_open():
    with new_disk() as disk:
        with opened(disk.mount / "f") as descriptor:
            os.unlink(disk.mount / "f")
            os.write(descriptor, b"still here")
            os.fsync(descriptor)
            assert os.pread(descriptor, 100, 0) == b"still here"
        assert names(disk) == []


# Faults.

def test_a_full_disk_refuses_growth_but_not_overwriting_nor_deleting():
    with new_disk() as disk:
        put(disk.mount / "reserve", b"r" * (4 * PAGE))
        put(disk.mount / "f", b"")
        disk.set_fault("enospc", after=PAGE + 100)
        with opened(disk.mount / "f") as descriptor:
            assert os.write(descriptor, b"x" * PAGE) == PAGE
            assert os.write(descriptor, b"x" * PAGE) == 100, "the rest that fits is written"
            refused(errno.ENOSPC, os.write, descriptor, b"x")
            refused(errno.ENOSPC, os.posix_fallocate, descriptor, 0, 100 * PAGE)
            refused(errno.ENOSPC, os.mkdir, disk.mount / "d")
            assert os.statvfs(disk.mount).f_bavail == 0
            with opened(disk.mount / "reserve") as reserve:
                assert os.pwrite(reserve, b"R" * (4 * PAGE), 0) == 4 * PAGE
                os.fsync(reserve)
            os.unlink(disk.mount / "reserve")
            assert os.write(descriptor, b"x" * PAGE) == PAGE, "deleting gave space back"
            disk.set_fault("enospc")
            refused(errno.ENOSPC, os.write, descriptor, b"x")
            disk.set_fault("enospc", after="off")
            assert os.write(descriptor, b"x" * 100 * PAGE) == 100 * PAGE


def test_a_failed_fsync_loses_what_it_should_have_saved_even_if_the_next_succeeds():
    with new_disk() as disk:
        put(disk.mount / "a.log", b"a" * (2 * PAGE))
        put(disk.mount / "b.log", b"")
        disk.set_fault("eio", path="a.*", count=1)
        with opened(disk.mount / "a.log") as a, opened(disk.mount / "b.log") as b:
            os.pwrite(a, b"b" * PAGE, 0)
            os.write(b, b"other path")
            os.fsync(b)
            refused(errno.EIO, os.fsync, a)
            os.pwrite(a, b"c" * PAGE, PAGE)
            os.fsync(a)
            assert os.pread(a, 1, 0) == b"b", "the cache still shows the lost page"
        assert disk.stats()["errors_injected"] == 1
        after_cut(disk, files="keep")
        assert (disk.mount / "a.log").read_bytes() == b"a" * PAGE + b"c" * PAGE
        assert (disk.mount / "b.log").read_bytes() == b"other path"


def test_errors_can_last_and_strike_reads_writes_and_directories():
    with new_disk() as disk:
        put(disk.mount / "f", b"x" * PAGE)
        (disk.mount / "d").mkdir()
        disk.set_fault("eio", op="write", path="f")
        disk.set_fault("eio", path="d")
        with opened(disk.mount / "f") as descriptor:
            for _ in range(3):
                refused(errno.EIO, os.write, descriptor, b"x")
                refused(errno.EIO, sync_directory, disk.mount / "d")
            disk.clear_faults()
            os.write(descriptor, b"x")
            sync_directory(disk.mount / "d")
        disk.remount()
        disk.set_fault("eio", op="read", path="f")
        refused(errno.EIO, (disk.mount / "f").read_bytes)


def test_a_slow_fsync_takes_its_time_and_does_not_hold_others_up():
    # More at once than the file system has threads.
    slow = [f"slow{number}" for number in range(8)]
    with new_disk() as disk:
        for name in [*slow, "quick"]:
            put(disk.mount / name, b"")
        disk.set_fault("slow", path="slow*", ms=1500)
        before = disk.stats()["writes"]
        took = {}

        def sync(name):
            with opened(disk.mount / name) as descriptor:
                os.write(descriptor, b"x")
                start = time.monotonic()
                os.fsync(descriptor)
                took[name] = time.monotonic() - start

        threads = [threading.Thread(target=sync, args=(name,)) for name in slow]
        for thread in threads:
            thread.start()
        wait_until(lambda: disk.stats()["writes"] == before + 8, "the slow syncs have begun")
        sync("quick")
        for thread in threads:
            thread.join()
        assert took["quick"] < 1.5 <= min(took[name] for name in slow), took


def test_counters_count():
    with new_disk() as disk:
        put(disk.mount / "f", b"x" * 1000)
        (disk.mount / "g").write_bytes(b"y" * (2 * PAGE))
        found = disk.stats()
        expected = {"fsyncs": 1, "directory_fsyncs": 1, "writes": 2, "creates": 2,
                    "write_bytes": 1000 + 2 * PAGE, "unsynced_pages": 2, "unsynced_names": 1,
                    "used_bytes": 1000 + 2 * PAGE}
        assert {name: found[name] for name in expected} == expected, found


# Concurrency and speed.

def test_threads_that_append_until_the_cut_lose_no_synced_append():
    acknowledged = [0] * 8
    with new_disk() as disk:
        for number in range(len(acknowledged)):
            put(disk.mount / f"{number}", b"")
        failures = []

        def append(number):
            try:
                with opened(disk.mount / f"{number}", os.O_WRONLY | os.O_APPEND) as descriptor:
                    while True:
                        os.write(descriptor, (acknowledged[number] + 1).to_bytes(8, "big") * 13)
                        (disk.mount / f"{number}.{acknowledged[number] % 5}").touch()
                        os.fdatasync(descriptor)
                        acknowledged[number] += 1
                        other = disk.mount / f"{number}.{acknowledged[number] % 7}"
                        other.unlink(missing_ok=True)
            except OSError as error:
                failures.append(error.errno)

        threads = [threading.Thread(target=append, args=(n,)) for n in range(len(acknowledged))]
        for thread in threads:
            thread.start()
        wait_until(lambda: min(acknowledged) >= 50, "every thread has appended")
        disk.cut()
        for thread in threads:
            thread.join()
        assert failures == [errno.EIO] * len(threads), failures
        disk.remount()
        for number, count in enumerate(acknowledged):
            content = (disk.mount / f"{number}").read_bytes()
            expected = b"".join(n.to_bytes(8, "big") * 13 for n in range(1, count + 1))
            assert content[:len(expected)] == expected, f"file {number} lost a synced append"
            # One append may have been synced without its caller hearing of it.
            assert len(content) <= len(expected) + 2 * 104


def test_small_synced_appends_are_quick():
    best = 0
    with new_disk() as disk:
        with opened(disk.mount / "log") as descriptor:
            # The best of several rounds: a shared machine has bad moments.
            for _ in range(5):
                start = time.monotonic()
                for _ in range(2000):
                    os.write(descriptor, b"x" * 100)
                    os.fdatasync(descriptor)
                best = max(best, 2000 / (time.monotonic() - start))
    print(f"    {best:,.0f} synced appends of 100 bytes per second")
    assert best >= FSYNCED_APPENDS_PER_S_MIN


# A real program.

def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)


class Redis:
    """A redis-server on a free port with its folder on the disk."""

    def __init__(self, folder, appendfsync):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
             "--appendonly", "yes", "--appendfsync", appendfsync, "--save", "",
             "--aof-load-truncated", "yes"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(self._answers, "redis-server answers")
        except BaseException:
            self.kill()
            raise

    def _answers(self):
        assert self.process.poll() is None, f"redis-server ended: {self.process.returncode}"
        try:
            self.stream = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
            self.lines = self.stream.makefile("rb")
            return self.call("PING") == b"+PONG"
        except OSError:
            return False

    def call(self, *words):
        request = b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in (w.encode() for w in words))
        self.stream.sendall(b"*%d\r\n%s" % (len(words), request))
        first = self.lines.readline().rstrip()
        if not first:
            raise ConnectionError("redis-server hung up")
        if first.startswith(b"$") and first != b"$-1":
            return self.lines.read(int(first[1:]) + 2)[:-2]
        return first

    def kill(self):
        self.process.kill()
        self.process.wait()


def redis_through_a_cut(appendfsync, fsync_names):
    """Writes under load, cuts the power, starts again: acknowledged writes, and how many are lost."""
    with new_disk(fsync_names=fsync_names) as disk:
        if not fsync_names:
            # redis-server 7.0 makes this folder and never syncs the one above it: with its first
            # start on a strict disk a cut takes the whole log away.
            (disk.mount / "appendonlydir").mkdir()
            sync_directory(disk.mount)
        redis = Redis(disk.mount, appendfsync)
        written = []

        def load():
            try:
                while redis.call("SET", f"key{len(written)}", f"value{len(written)}") == b"+OK":
                    written.append(len(written))
            except OSError:
                pass

        thread = threading.Thread(target=load)
        try:
            thread.start()
            wait_until(lambda: len(written) >= 500, "500 acknowledged writes")
            # What a page cache may have written out by chance is not the question here.
            disk.cut(files="drop", names="drop", kill=[redis.process])
        finally:
            redis.kill()
            thread.join()
        disk.remount()
        redis = Redis(disk.mount, appendfsync)
        try:
            lost = sum(redis.call("GET", f"key{n}") != f"value{n}".encode() for n in written)
        finally:
            redis.kill()
        print(f"    appendfsync {appendfsync}: {len(written)} acknowledged, {lost} lost")
        return len(written), lost


def test_redis_that_syncs_always_loses_no_acknowledged_write():
    for fsync_names in (False, True):
        assert redis_through_a_cut("always", fsync_names)[1] == 0


def test_redis_that_never_syncs_loses_acknowledged_writes():
    assert redis_through_a_cut("no", False)[1] > 0


def main(wanted):
    print(f"seed {SEED} (POWERCUT_SEED repeats it)")
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    failed = []
    for name, test in tests:
        if wanted and name not in wanted:
            continue
        print(name, flush=True)
        try:
            test()
        except Exception:
            traceback.print_exc()
            failed.append(name)
    print("failed: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
