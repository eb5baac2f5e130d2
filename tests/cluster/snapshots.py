"""The log is trimmed behind backups, and nodes that it is too short for begin with one."""

import json
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "crash"))
from crashlib import Client, until  # noqa: E402
from logservers import LogServers  # noqa: E402
from redirects import expect  # noqa: E402
from replicas import has_heard, read_after, text  # noqa: E402

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


def keys_of(node, owner):
    port = port_of(owner.port, node.data.name)
    if not port:
        return -1
    with Client(port) as client:
        reply = client.call("DBSIZE")
        return reply if isinstance(reply, int) else -1
