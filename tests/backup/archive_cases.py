"""What the archive promises: any position and any time behind a backup, exactly, and no silent gap."""

import shutil
import time

from crashlib import must_be_sound, scratch, until
from node import Node, listed, must, refused, restore


def model_steps(client, steps):
    """Writes of several kinds; yields the model of all rows after each."""
    model = {}
    for step in range(steps):
        key = f"k{step % 7}"
        if step % 5 == 4:
            client.expect("DEL", key)
            model.pop(key, None)
        elif step % 3 == 2:
            client.expect("RPUSH", "list", f"e{step}")
            model["list"] = model.get("list", []) + [f"e{step}"]
        else:
            client.expect("SET", key, f"v{step}")
            model[key] = f"v{step}"
        yield dict(model)


def rows_of(node):
    """All rows of a node in the model's form."""
    with node.client() as client:
        keys = sorted(key.decode() for key in client.expect("SCAN", "0", "COUNT", "1000")[1])
        rows = {}
        for key in keys:
            if key == "list":
                rows[key] = [element.decode() for element in client.expect("LRANGE", "list", "0", "-1")]
            else:
                rows[key] = client.expect("GET", key).decode()
    return rows


def archiving(folder, url, **more):
    return Node(folder, settings={"archive.url": url, "archive.seconds_max": "1", **more})


def is_caught_up(node):
    return node.metric("holdfast_archive_lag_records") == 0


def point_in_time(say, url=None, environment=(), chosen=(0, 19, 20, 33)):
    """Restores to positions and to times give exactly the model's state of that moment."""
    with scratch() as folder:
        url = url or f"file://{folder}/store"
        node = archiving(folder, url)
        node.environment = dict(environment)
        node.start()
        moments = []
        with node.client() as client:
            client.expect("SET", "k0", "before")
            node.backup(url)
            client.expect("DEL", "k0")
            for number, model in enumerate(model_steps(client, 40)):
                lsn = node.lsn()
                # In the middle of a pause, so that no record is of this very millisecond.
                time.sleep(0.02)
                seconds, micros = (int(part) for part in client.expect("TIME"))
                time.sleep(0.02)
                moments.append((lsn, seconds * 1000 + micros // 1000, model))
                if number == 20:
                    # A crash and a new epoch lie between them.
                    node.kill()
                    node.start()
                    client.close()
                    client.__init__(node.port)
        until(lambda: is_caught_up(node), "everything is archived")
        must(node.metric("holdfast_archive_gaps_total") == 0, "a gap")
        node.kill()
        for at in chosen:
            lsn, ms, model = moments[at]
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03}Z"
            for how in (["--to-lsn", lsn], ["--to-time", stamp]):
                copy = Node(folder, f"copy-{how[0]}-{at}")
                reached = restore(url, copy.data, *how, environment=environment)
                must(reached == lsn, f"{how}: reached {reached}, not {lsn}")
                if how[0] == "--to-lsn" and at == chosen[0]:
                    must_be_sound(copy)
                rows = rows_of(copy.start())
                must(rows == model, f"{how}: {rows}, not {model}")
                copy.kill()
        copy = Node(folder, "copy-end")
        must(restore(url, copy.data, "--to-end", environment=environment) == moments[-1][0], "the end")
        must(rows_of(copy.start()) == moments[-1][2], "the rows at the end")
        copy.kill()
        late = refused(url, folder / "late", "--to-lsn", moments[-1][0] + 1, environment=environment)
        must("the archive ends at record" in late, late)
        must(not (folder / "late" / "engine").exists(), "something was made for a target out of reach")
        say(f"{2 * len(chosen) + 1} points restored exactly, records {moments[0][0]} to {moments[-1][0]}")


def store_away(say):
    """While the store is away the log waits, and nothing is missing after it is back."""
    with scratch() as folder:
        url, store = f"file://{folder}/store", folder / "store"
        node = archiving(folder, url).start()
        node.backup(url)
        until(lambda: is_caught_up(node), "the archive begins")
        # A file in the folder's place: every try fails.
        store.rename(folder / "away")
        store.write_text("in the way")
        fill(node, "a", 4000)
        until(lambda: node.metric("holdfast_archive_failures_total") > 0, "tries that fail")
        until(lambda: node.metric("holdfast_flush_lag_records") == 0 or flushed(node), "a flush")
        must(node.metric("holdfast_archive_lag_records") >= 4000, "the lag is told")
        must(node.metric("holdfast_archive_lag_bytes") >= 4_000_000, "the lag is told in bytes")
        must(node.metric("holdfast_archive_lag_seconds") > 0, "the lag is told in seconds")
        # The log waits over a restart as well.
        node.kill()
        node.start()
        store.unlink()
        (folder / "away").rename(store)
        until(lambda: is_caught_up(node), "everything is archived")
        must(node.metric("holdfast_archive_gaps_total") == 0, "a gap although the log had waited")
        end = node.lsn()
        node.kill()
        must(restore(url, folder / "copy", "--to-end") == end, "the end")
        say(f"{end} records, none missing")


def fill(node, prefix, count):
    with node.client() as client:
        client.pipeline([("SET", f"{prefix}:{n}", "v" * 1000) for n in range(count)])


def flushed(node):
    return node.metric("holdfast_engine_flushes_total") > 0


def gap(say):
    """Beyond its bound the lag becomes a gap: told, counted, and no restore crosses it."""
    with scratch() as folder:
        url, store = f"file://{folder}/store", folder / "store"
        node = archiving(folder, url, **{"archive.lag_bytes_max": "2MiB"}).start()
        before = node.backup(url)
        until(lambda: is_caught_up(node), "the archive begins")
        store.rename(folder / "away")
        store.write_text("in the way")
        segments = lambda: len(list((node.data / "log").glob("*.seg")))  # noqa: E731
        for part in range(12):
            fill(node, f"p{part}", 1000)
        until(lambda: "a gap will follow" in node.log_text(), "the alarm")
        until(lambda: segments() <= 4, "the log is trimmed without the archive")
        store.unlink()
        (folder / "away").rename(store)
        until(lambda: node.metric("holdfast_archive_gaps_total") > 0 and is_caught_up(node), "it goes on behind the gap")
        must("no restore crosses it" in node.log_text(), "the log tells the gap")
        middle = node.backup(url)
        fill(node, "after", 10)
        until(lambda: is_caught_up(node), "everything is archived")
        end = node.lsn()
        node.kill()
        must(listed(url) == [before, middle], "both backups")
        said = refused(url, folder / "crossing", "--backup", before, "--to-lsn", end)
        must("the archive has a gap" in said, said)
        said = refused(url, folder / "crossing", "--backup", before, "--to-end")
        must("the archive has a gap" in said, said)
        must(restore(url, folder / "behind", "--to-lsn", end) == end, "from the backup behind the gap")
        say(said.strip()[-160:])


def older_copy(say):
    """A data folder that was put back as an older copy is noticed, and not archived over."""
    with scratch() as folder:
        url = f"file://{folder}/store"
        node = archiving(folder, url).start()
        fill(node, "a", 10)
        until(lambda: is_caught_up(node), "the first records are archived")
        node.terminate()
        shutil.copytree(node.data, folder / "copy")
        node.start()
        fill(node, "b", 10)
        until(lambda: is_caught_up(node), "the later records are archived")
        node.terminate()
        shutil.rmtree(node.data)
        shutil.move(folder / "copy", node.data)
        node.start()
        until(lambda: "an older copy" in node.log_text(), "the archive says so")
        must(node.metric("holdfast_archive_failures_total") > 0, "and it is counted")
        say("noticed")
