"""The log is trimmed behind backups, and nodes that it is too short for begin with one."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "crash"))
from crashlib import Client, Unavailable, binary, until  # noqa: E402
from logservers import LogServers  # noqa: E402
from redirects import expect  # noqa: E402
from replicas import backup_status, has_heard, read_after, text  # noqa: E402

# What a node says from WARN on that had to be given another engine.
BEGINS_ANEW = [r"beginning with a backup"]


def metric(node, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ports['http']}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def write(client, first, count):
    client.pipeline([("SET", f"k{number}", f"value {number}") for number in range(first, first + count)])


def holds(client, count):
    values = client.pipeline([("GET", f"k{number}") for number in range(count)])
    wrong = [number for number, value in enumerate(values) if text(value) != f"value {number}"]
    expect(not wrong, f"{len(wrong)} of {count} keys are not there, first k{wrong[:1]}")


def the_log_is_trimmed_and_a_new_node_begins_with_a_backup(folder, nodes_with, stand_by, say):
    """Three nodes in turn: one that owns, one that was away for too long, and one that is new."""
    with LogServers(folder, 1) as servers:
        settings = {"backup.url": f"file://{folder}/backups", "backup.every_seconds": "2", "log.keep_seconds": "1",
                    "backup.keep": "3"}
        nodes = nodes_with(folder, servers, settings)
        owner = nodes.another("when-silent").start()
        away = stand_by(nodes.another("when-silent"))
        with owner.client() as client:
            write(client, 0, 2_000)
        until(lambda: keys_of(away, owner) == 2_000, "the other one has followed", 10)
        away.terminate()
        began = time.monotonic()
        with owner.client() as client:
            write(client, 2_000, 20_000)

            def is_trimmed():
                # Signs of life alone are no records, and what is staged last is not trimmed.
                write(client, 21_000, 1_000)
                return metric(owner, "holdfast_log_kept_records") < 15_000
            until(is_trimmed, "the log is trimmed", 60, 1)
            expect(client.call("DBSIZE") == 22_000, "nothing is lost by that")
        say(f"22,000 records and more, trimmed to {metric(owner, 'holdfast_log_kept_records'):.0f} within "
            f"{time.monotonic() - began:.0f} s, {len(list((folder / 'backups' / 'backups').iterdir()))} backups kept")
        expect(len(list((folder / "backups" / "backups").iterdir())) <= 4, "old backups are removed")
        new = stand_by(nodes.another("when-silent"))
        stand_by(away)
        for node, why in ((new, "it needs record 1 next"), (away, "this node was away")):
            log = node.log_text()
            expect("beginning with a backup" in log and why in log, f"it did not begin with a backup: {log[-2000:]}")
            complaints = node.complaints(BEGINS_ANEW)
            expect(not complaints, f"{complaints[:3]}")
        port = until(lambda: port_of(owner.port, "node3"), "the owner sees the new node", 5)
        with owner.client() as client, Client(port) as replica:
            has_heard(replica)
            write(client, 22_000, 100)
            expect(read_after(client, replica, "DBSIZE")[0] == 22_100, "the new node has all of it")
            holds(replica, 22_100)
            for wish in (("START", settings["backup.url"]), ("PRUNE", settings["backup.url"], "KEEP", "1")):
                replica.expect("BACKUP", *wish)
                status_told = backup_status(replica)
                expect(status_told["state"] == "failed" and "only the node that owns" in status_told["error"], f"{status_told}")
        owner.kill()
        names = {"node2": away, "node3": new}
        successor = names[until(lambda: next((node["name"] for node in status(port) if node["role"] == "owner" and
                                              node["name"] in names), None), "one of them takes over", 20, 0.1)]
        with successor.ready().client() as client:
            holds(client, 22_100)
            client.expect("SET", "after", "1")
        say("a new node and one that was away began with backups; one of them took over with every key")


def status(port):
    with Client(port) as client:
        return json.loads(bytes(client.call("CLUSTER", "STATUS")))["nodes"]


def port_of(asked, name):
    """The Redis port of a node, as another one tells it; 0: it is not known there."""
    found = next((node["redis"] for node in status(asked) if node["name"] == name), None)
    return int(found.rsplit(":", 1)[1]) if found else 0


def replica_of(owner, name):
    """A client of a node that has just been started again: its entry may still tell of its old port."""
    def connected():
        try:
            return Client(port_of(owner.port, name))
        except ConnectionRefusedError:
            return None
    return until(connected, f"{name} is reached", 10, 0.1)


def keys_of(node, owner):
    port = port_of(owner.port, node.data.name)
    if not port:
        return -1
    with Client(port) as client:
        reply = client.call("DBSIZE")
        return reply if isinstance(reply, int) else -1


# As in crates/shard/src/digest.rs: every ten seconds of the records' time the next of 256 runs of slots is compared.
TICK_S, PARTS, SLOTS = 10, 256, 16_384


def keys_compared_next(client, ticks):
    """A key in each of the runs of slots that are compared next."""
    first = int(time.time()) // TICK_S + 1
    wanted = {(first + at) % PARTS for at in range(ticks)}
    found = {}
    slots = client.pipeline([("CLUSTER", "KEYSLOT", f"k{number}") for number in range(4_000)])
    for number, slot in enumerate(slots):
        part = slot // (SLOTS // PARTS)
        if part in wanted:
            found.setdefault(part, f"k{number}")
    return list(found.values())


def a_node_whose_rows_were_changed_is_found_and_rebuilt(folder, nodes_with, stand_by, say):
    """Rows of a node that stands by are changed behind its back: digests tell, and it begins anew with a backup."""
    change_row = Path(binary()).parent / "examples" / "change_row"
    if not change_row.exists():
        raise Unavailable(f"{change_row} is not built: cargo build --release -p holdfast-engine --examples")
    with LogServers(folder, 1) as servers:
        settings = {"backup.url": f"file://{folder}/backups", "backup.every_seconds": "2"}
        nodes = nodes_with(folder, servers, settings)
        owner = nodes.another("when-silent").start()
        other = stand_by(nodes.another("when-silent"))
        with owner.client() as client:
            write(client, 0, 4_000)
            until(lambda: keys_of(other, owner) == 4_000, "the other one has followed", 10)
            other.terminate()
            keys = keys_compared_next(client, 6)
            subprocess.run([change_row, other.data, *keys], check=True, timeout=60)
            stand_by(other)
            with replica_of(owner, "node2") as replica:
                has_heard(replica)
                wrong = replica.call("GET", keys[0])
                expect(wrong != client.call("GET", keys[0]), "the row was changed")
            began = time.monotonic()

            def has_ended():
                write(client, 4_000, 100)
                return other.process.poll() is not None
            until(has_ended, "the node sees that its rows are others", 90, 0.2)
            took = time.monotonic() - began
            expect("this node's rows are not the owner's" in other.log_text(), other.log_text()[-1000:])
            until(lambda: metric(owner, 'holdfast_digests_compared_total{result="differ"}') >= 1, "the owner sees it too", 30)
            stand_by(other)
            expect("beginning with a backup" in other.log_text(), other.log_text()[-1000:])
            with replica_of(owner, "node2") as replica:
                has_heard(replica)
                for key in keys:
                    expect(read_after(client, replica, "GET", key)[0] == client.call("GET", key), f"{key} is right again")
        say(f"{len(keys)} rows changed; found after {took:.0f} s, and rebuilt from a backup")
