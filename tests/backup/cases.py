"""What a backup promises, with a folder as the store."""

import hashlib
import re
import shutil
import subprocess
import time

from certificates import Authority
from crashlib import Client, must_be_sound, scratch, until
from node import Node, Writers, binary, expect, listed, must, refused, restore, run, steps_in


def under_load(say):
    """Every write acknowledged before a backup began is in it, none behind its position, none half."""
    with scratch() as folder:
        url = f"file://{folder}/store"
        node = Node(folder).start()
        with Writers(node) as writers:
            writers.wait_for(100)
            before = list(writers.acked)
            first = node.backup(url)
            writers.wait_for(max(writers.acked) + 50)
            second_before = list(writers.acked)
            node.backup(url)
            went_on = min(now - then for now, then in zip(writers.acked, second_before))
        must(went_on > 0 and not writers.failures, f"writers stood still or failed: {went_on}, {writers.failures[:1]}")
        must(node.metric("holdfast_backup_succeeded_total") == 2, "two backups were counted")
        must(time.time() - node.metric("holdfast_backup_last_success_timestamp_seconds") < 60, "the time is wrong")
        must(not node.complaints(), f"complaints: {node.complaints()[:3]}")
        node.kill()
        must(len(listed(url)) == 2, "two backups are listed")
        for name, acked in [(first, before), (None, second_before)]:
            copy = Node(folder, f"copy-{len(acked)}-{name}")
            lsn = restore(url, copy.data, *(["--backup", name] if name else []))
            must_be_sound(copy)
            reached = steps_in(copy.start(), len(acked))
            must(all(r >= a for r, a in zip(reached, acked)), f"acknowledged {acked}, restored {reached}")
            # One take-over record, then one for each step: the position says exactly what is in it.
            must(lsn == 1 + sum(reached), f"lsn {lsn} with {reached}")
            say(f"lsn {lsn}: acknowledged before {acked}, restored {reached}")
            copy.kill()


def incremental(say):
    """A second backup stores what is new and nothing else; the first stays whole."""
    with scratch() as folder:
        url, store = f"file://{folder}/store", folder / "store"
        node = Node(folder).start()
        told = lambda name: node.metric(f"holdfast_backup_bytes_{name}_total")  # noqa: E731

        def back_up():
            """Bytes uploaded and reused; what was stored before must not have been touched."""
            before = {path.name: path.stat().st_mtime_ns for path in (store / "files").glob("*")}
            uploaded, reused = told("uploaded"), told("reused")
            node.backup(url)
            now = {path.name: path.stat().st_mtime_ns for path in (store / "files").iterdir()}
            must(all(now.get(name) == changed for name, changed in before.items()), "a stored file was touched")
            uploaded, reused = told("uploaded") - uploaded, told("reused") - reused
            new = sum((store / "files" / name).stat().st_size for name in now if name not in before)
            must(uploaded == new, f"{uploaded} bytes uploaded, {new} are new in the store")
            return uploaded, reused

        with node.client() as client:
            client.pipeline([("SET", f"bulk:{n}", "v" * 1000 + str(n)) for n in range(3000)])
            first = back_up()
            second = node.backup_again(url)
            name = listed(url)[-1]
            must(second[0] < 100_000 and second[1] > 2_000_000, f"nothing was written, but {second}")
            client.expect("SET", "one", "more")
            third = back_up()
        must(third[1] > 0, f"all was stored again: {third}")
        say(f"uploaded and reused: {first}, unchanged {second}, one key more {third}")
        copy = Node(folder, "copy")
        restore(url, copy.data, "--backup", name)
        with copy.start().client() as client:
            must(client.expect("GET", "bulk:2999") == b"v" * 1000 + b"2999", "the earlier backup's data")
            must(client.expect("GET", "one") is None, "written after that backup")


def catalog(say):
    """Named keyspaces, their quotas and users come back; BACKUP asks for rights."""
    with scratch() as folder:
        url, pw = f"file://{folder}/store", folder / "password"
        pw.write_text("hunter2\n")
        node = Node(folder).start()
        with node.client() as client:
            client.expect("KEYSPACE", "CREATE", "orders", "KEYS", "2")
            client.expect("ACL", "SETUSER", "clerk", "on", ">hunter2", "~*", "+@all", "-backup")
            client.expect("ACL", "SETUSER", "keeper", "on", ">hunter2", "+backup")
            client.expect("SELECT", "orders")
            client.expect("SET", "order", "1")
        said = node.backup(url, "--user", "clerk", "--password-file", pw, code=1)
        must("NOPERM" in said, f"the clerk is refused: {said}")
        node.backup(url, "--user", "keeper", "--password-file", pw)
        must("hunter2" not in node.log_text(), "a password in the log")
        copy = Node(folder, "copy")
        restore(url, copy.data)
        with copy.start().client() as client:
            must(client.call("AUTH", "clerk", "wrong").code == "WRONGPASS", "passwords come back")
            client.expect("AUTH", "clerk", "hunter2")
            client.expect("SELECT", "orders")
            must(client.expect("GET", "order") == b"1", "the row of the named keyspace")
            client.expect("SET", "second", "2")
            must(client.call("SET", "third", "3").code == "OOM", "the quota comes back")
        say("keyspace, quota, users and their rights are restored")


def new_life(say):
    """A restored node goes on in a new incarnation, is backed up again, and that is restored, too."""
    with scratch() as folder:
        url = f"file://{folder}/store"
        node = Node(folder).start()
        with node.client() as client:
            for n in range(10):
                client.expect("SET", "n", n)
        first = node.backup(url)
        node.kill()
        second = Node(folder, "second")
        lsn = restore(url, second.data)
        with second.start().client() as client:
            must(client.expect("GET", "n") == b"9", "the last value")
            client.expect("SET", "n", "in the second life")
        must(second.lsn() == lsn + 2, f"a take-over and a write behind {lsn}: {second.lsn()}")
        again = second.backup(url)
        must(first.rsplit("-", 1)[1] != again.rsplit("-", 1)[1], "another incarnation in the name")
        second.kill()
        second.start()
        second.terminate()
        must_be_sound(second)
        third = Node(folder, "third")
        must(restore(url, third.data) == lsn + 2, "the newest backup is taken")
        with third.start().client() as client:
            must(client.expect("GET", "n") == b"in the second life", "the second life's value")
        say(f"{first}, {again}")


def damaged(say):
    """Damaged, missing and mixed-up objects are refused by name, and nothing is reported restored."""
    with scratch() as folder:
        url, store = f"file://{folder}/store", folder / "store"
        node = Node(folder).start()
        with node.client() as client:
            client.pipeline([("SET", f"bulk:{n}", "v" * 1000) for n in range(200)])
        node.backup(url)
        node.kill()
        largest = max((store / "files").iterdir(), key=lambda path: path.stat().st_size)
        (manifest,) = (store / "backups").iterdir()
        sound = {path: path.read_bytes() for path in (largest, manifest)}

        def flipped(path, at):
            content = bytearray(sound[path])
            content[at] ^= 1
            path.write_bytes(content)

        def renumbered():
            # As if the position had been read from the live node: right in form, wrong in content.
            _, body = sound[manifest].split(b"\n", 1)
            lsn = int(re.search(rb'"lsn": (\d+)', body)[1])
            body = re.sub(rb'"lsn": \d+', b'"lsn": %d' % (lsn + 1), body)
            manifest.write_bytes(b"holdfast-backup 1 %s\n" % hashlib.sha256(body).hexdigest().encode() + body)

        plans = [
            ("a flipped bit", lambda: flipped(largest, 5000), "does not match its checksum"),
            ("cut off", lambda: largest.write_bytes(sound[largest][:-7]), "bytes that it should have"),
            ("missing", largest.unlink, "is missing"),
            ("a flipped bit in the manifest", lambda: flipped(manifest, 200), "manifest is damaged"),
            ("a cut manifest", lambda: manifest.write_bytes(sound[manifest][:-9]), "manifest is damaged"),
            ("an empty manifest", lambda: manifest.write_bytes(b""), "no manifest"),
            ("the live node's position", renumbered, "its manifest says record"),
            ("no manifest", manifest.unlink, "there is no backup here"),
        ]
        for number, (what, damage, text) in enumerate(plans):
            damage()
            copy = Node(folder, f"copy{number}")
            said = refused(url, copy.data)
            must(text in said, f"{what}: {said}")
            if copy.data.joinpath("engine").exists():
                must(not copy.started(), f"{what}: a node starts on a half restored folder")
                must("a restore was broken off here" in copy.log_text() and copy.exited() == 1, "it says why")
            for path, content in sound.items():
                path.write_bytes(content)
        restore(url, folder / "whole")
        say(f"{len(plans)} kinds of damage refused")


def killed_backup(say):
    """A node killed in the middle of a backup leaves no backup, starts clean, and takes the next one."""
    with scratch() as folder:
        url, store = f"file://{folder}/store", folder / "store"
        slow = {"backup.bytes_per_second": "2MiB"}
        node = Node(folder, settings=slow).start()
        with node.client() as client:
            client.pipeline([("SET", f"bulk:{n}", f"{n}:" + "v" * 4000) for n in range(3000)])
            client.expect("BACKUP", "START", url)
            refusal = client.call("BACKUP", "START", url)
            must(refusal.code == "BUSY", f"one at a time: {refusal}")
            until(lambda: (store / "files").exists() and len(list((store / "files").iterdir())) > 1, "some files")
            must((node.data / "checkpoint").exists(), "the checkpoint of the running backup")
        node.kill()
        must(listed(url) == [], "a backup without a manifest exists")
        must("there is no backup here" in refused(url, folder / "none"), "and cannot be restored")
        node.settings.pop("backup.bytes_per_second")
        node.start()
        must(not (node.data / "checkpoint").exists(), "the checkpoint was not removed at the start")
        node.backup(url)
        copy = Node(folder, "copy")
        restore(url, copy.data)
        with copy.start().client() as client:
            must(client.expect("GET", "bulk:2999")[:5] == b"2999:", "the data")
        say("no backup after the kill, one after the next start")


def stopped_backup(say):
    """A stop ends a running backup at once, and says that it failed."""
    with scratch() as folder:
        node = Node(folder, settings={"backup.bytes_per_second": "64KiB"}).start()
        with node.client() as client:
            client.pipeline([("SET", f"bulk:{n}", "v" * 4000) for n in range(1000)])
            client.expect("BACKUP", "START", f"file://{folder}/store")
            until(lambda: (node.data / "checkpoint").exists(), "the checkpoint")
        code, took = node.terminate()
        must(code == 0 and took < 10, f"exit code {code} after {took:.1f} s")
        must(not (node.data / "checkpoint").exists(), "the checkpoint stays")
        must("the node is stopping" in node.log_text(), "the log says why it failed")
        must_be_sound(node)
        say(f"stopped within {took:.1f} s")


def killed_restore(say):
    """A restore killed in the middle leaves a folder that nobody takes for a node's."""
    with scratch() as folder:
        url = f"file://{folder}/store"
        node = Node(folder).start()
        with node.client() as client:
            client.pipeline([("SET", f"bulk:{n}", f"{n}:" + "v" * 8000) for n in range(4000)])
        node.backup(url)
        node.kill()
        copy = Node(folder, "copy")
        for attempt in range(20):
            command = [binary(), "restore", "--from", url, "--data", str(copy.data)]
            restoring = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            marker = copy.data / "restoring"
            until(lambda: marker.exists() or restoring.poll() is not None, "the marker", every_s=0.001)
            time.sleep(0.02 * (attempt % 4))
            restoring.kill()
            restoring.wait()
            if marker.exists():
                break
            shutil.rmtree(copy.data)
        must(marker.exists(), "the restore was always quicker than the kill")
        must(not copy.started() and copy.exited() == 1, "a node starts on a half restored folder")
        must("a restore was broken off here" in copy.log_text(), f"it says why: {copy.log_text()}")
        code, said = copy.check()
        must(code == 1 and "a restore was broken off here" in said, f"check: {said}")
        must("a restore was broken off here" in refused(url, copy.data), "a restore into it is refused")
        shutil.rmtree(copy.data)
        restore(url, copy.data)
        with copy.start().client() as client:
            must(client.expect("GET", "bulk:3999")[:5] == b"3999:", "the data")
        must("is not empty" in refused(url, node.data), "a restore over a node is refused")
        say("refused by serve, check and restore; whole after the next one")


def wrong_places(say):
    """URLs that cannot be are refused at once; a store that fails leaves the node as it was."""
    with scratch() as folder:
        node = Node(folder).start()
        for url, text in [
            ("ftp://x", "neither file:// nor s3://"),
            ("file://relative", "not an absolute folder"),
            ("s3://key:secret@bucket/x", "no user"),
        ]:
            said = node.backup(url, code=1)
            must(text in said and "secret" not in said, f"{url}: {said}")
        said = expect(run("backup", "list", f"file://{folder}/nowhere"), 1)
        must("no such folder" in said and not (folder / "nowhere").exists(), said)
        must("no such folder" in refused(f"file://{folder}/nowhere", folder / "none"), "nor restored from")
        said = node.backup(f"file://{node.data}/inside", code=1)
        must("within the data folder" in said, said)
        (folder / "taken").write_text("a file")
        said = node.backup(f"file://{folder}/taken/store", code=1)
        must("the backup failed" in said, said)
        must(node.metric("holdfast_backup_failures_total") == 2, "failures are counted")
        must(not (node.data / "checkpoint").exists(), "a checkpoint stays")
        with Client(node.port) as client:
            client.expect("SET", "still", "works")
        said = run("backup", "--node", "127.0.0.1:1", "--to", "file:///tmp/x")
        must(said.returncode == 1 and "127.0.0.1:1" in said.stderr, said.stderr)
        say("refused, counted, and the node goes on")


def over_tls(say):
    """`holdfast backup` over TLS trusts the authority that it is told, and no other."""
    with scratch() as folder:
        authority, other = Authority(folder / "own"), Authority(folder / "other")
        certificate, key = authority.issue("node")
        settings = {"redis.tls_addr": "127.0.0.1:0", "tls.certificate_file": certificate, "tls.key_file": key}
        node = Node(folder, settings=settings).start()
        url, address = f"file://{folder}/store", f"127.0.0.1:{node.ports['redis-tls']}"
        said = expect(run("backup", "--node", address, "--tls", other.pem, "--to", url), 1)
        must("TLS" in said, f"another authority: {said}")
        name = expect(run("backup", "--node", address, "--tls", authority.pem, "--to", url))
        must(listed(url) == [name], "one backup")
        say(f"{name}; with another authority: {said.strip()[:120]}")


def stopped_node(say):
    """The data of a node that was killed is backed up without it, with what only its log held."""
    with scratch() as folder:
        url = f"file://{folder}/store"
        node = Node(folder, settings={"engine.replay_bytes_max": "64MiB"}).start()
        with Writers(node) as writers:
            writers.wait_for(100)
            refusal = expect(run("backup", "--data", node.data, "--to", url), 1)
            must("held by process" in refusal, f"it runs: {refusal}")
            node.kill_under(writers)
        expect(run("backup", "--data", node.data, "--to", url))
        copy = Node(folder, "copy")
        restore(url, copy.data)
        must_be_sound(copy)
        reached = steps_in(copy.start(), len(writers.acked))
        must(all(r >= a for r, a in zip(reached, writers.acked)), f"acknowledged {writers.acked}, restored {reached}")
        said = expect(run("backup", "--data", folder / "nothing", "--to", url), 1)
        must("no data of a node here" in said, said)
        say(f"acknowledged {writers.acked}, restored {reached}")


def pruned(say):
    """Old backups go with what only they needed; the newest stay whole."""
    with scratch() as folder:
        url, store = f"file://{folder}/store", folder / "store"
        node = Node(folder, settings={"archive.url": url, "archive.seconds_max": "1"}).start()
        with node.client() as client:
            for number in range(4):
                client.pipeline([("SET", f"{number}:{n}", "v" * 1000) for n in range(500)])
                node.backup(url)
        until(lambda: node.metric("holdfast_archive_lag_records") == 0, "everything is archived")
        size = lambda: sum(path.stat().st_size for path in store.rglob("*") if path.is_file())  # noqa: E731
        before, names = size(), listed(url)
        address = ["--node", f"127.0.0.1:{node.port}"]
        must(run("backup", "prune", url, "--keep", 0, *address).returncode == 2, "none kept is refused")
        said = expect(run("backup", "prune", url, "--keep", 2, *address))
        must(said.startswith("removed 2 backups") and listed(url) == names[2:], f"{said}: {listed(url)}")
        must(size() < before, f"{size()} bytes of {before} are left")
        for name in names[2:]:
            copy = Node(folder, f"copy-{name}")
            restore(url, copy.data, "--backup", name, "--to-end")
            with copy.start().client() as client:
                must(client.expect("DBSIZE") == 2000, "all keys")
        must(names[0] in refused(url, folder / "gone", "--backup", names[0]), "a pruned one is gone")
        say(f"{said}; {before} bytes before, {size()} after")
