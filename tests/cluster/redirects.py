"""Clients of Redis Cluster and a node that stands by: where they are sent, and what a hand-over costs them."""

import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from crashlib import Client, ErrorReply, Violation, binary, until
from logservers import LogServers

SLOTS = 16384
CLIENTS = 4


def expect(condition, what):
    if not condition:
        raise Violation(what)


def port_of_other(owner):
    """The Redis port of the node that stands by, as the owner tells it."""
    def found():
        with owner.client() as client:
            nodes = json.loads(bytes(client.call("CLUSTER", "STATUS")))["nodes"]
        ports = [int(node["redis"].rsplit(":", 1)[1]) for node in nodes
                 if node["alive"] and not node["owns"] and node["role"] == "standing-by"]
        return ports[0] if len(ports) == 1 and any(node["owns"] for node in nodes) else 0
    return until(found, "the owner sees who stands by", 10, 0.05)


def ctl(*words):
    """What `holdfast ctl` prints."""
    done = subprocess.run([binary(), "ctl", *words], capture_output=True, text=True, timeout=40, check=False)
    expect(done.returncode == 0, f"ctl {' '.join(words)}: {done.stderr}")
    return done.stdout


def a_node_that_stands_by_sends_clients_to_the_owner(folder, pair, say):
    """MOVED for data, and the same answers about the cluster as the owner's."""
    with LogServers(folder, 1) as servers:
        owner, other = pair(folder, servers)
        port = port_of_other(owner)
        with owner.client() as client, Client(port) as standby:
            client.expect("SET", "{tag}x", "1")
            slot = client.call("CLUSTER", "KEYSLOT", "{tag}x")
            for request in (("GET", "{tag}x"), ("SET", "{tag}x", "2"), ("MGET", "{tag}x", "{tag}y")):
                reply = standby.call(*request)
                expect(str(reply) == f"-MOVED {slot} 127.0.0.1:{owner.port}", f"{request[0]}: {reply!r}")
            until(lambda: "master_link_status:up" in bytes(standby.call("INFO", "replication")).decode(), "it hears the owner", 5, 0.05)
            reply = standby.call("FLUSHALL")
            expect(str(reply).startswith("-READONLY ") and str(reply).endswith(f" 127.0.0.1:{owner.port}"), f"{reply!r}")
            for request in (("PING",), ("DBSIZE",), ("MULTI",), ("EXEC",), ("READONLY",), ("READWRITE",)):
                expect(not isinstance(standby.call(*request), ErrorReply), request[0])
            until(lambda: client.call("CLUSTER", "SLOTS") == standby.call("CLUSTER", "SLOTS"), "they tell of the same slots", 5)
            expect(client.call("CLUSTER", "MYID") != standby.call("CLUSTER", "MYID"), "each has an id of its own")
            for one in (client, standby):
                info = bytes(one.call("CLUSTER", "INFO")).decode()
                expect("cluster_state:ok" in info and "cluster_known_nodes:2" in info, info)
                expect("cluster_enabled:1" in bytes(one.call("INFO")).decode(), "INFO names a cluster")
                shards = one.call("CLUSTER", "SHARDS")
                expect(len(shards) == 1 and len(shards[0][3]) == 2, f"{shards!r}")
                lines = bytes(one.call("CLUSTER", "NODES")).decode().splitlines()
                masters = [line for line in lines if "master" in line.split()[2]]
                expect(len(lines) == 2 and len(masters) == 1 and masters[0].endswith(f" 0-{SLOTS - 1}"), f"{lines}")
                status = json.loads(bytes(one.call("CLUSTER", "STATUS")))
                roles = sorted((node["role"], node["owns"], node["alive"]) for node in status["nodes"])
                expect(roles == [("owner", True, True), ("standing-by", False, True)], f"{status}")
            expect(isinstance(standby.call("HANDOVER"), ErrorReply), "it has nothing to hand over")
        with urllib.request.urlopen(f"http://127.0.0.1:{owner.ports['http']}/cluster", timeout=5) as answer:
            expect(json.load(answer)["shards"][0]["owner"] == "node1", "HTTP names the owner")
        for asked in (owner.port, port):
            table = ctl("status", "--node", f"127.0.0.1:{asked}")
            expect(table.startswith("shard 0: owned by node1 since epoch 1\n") and "node2  standing-by  alive  -      -" in table,
                   table)
            until(lambda asked=asked: "node1  owner        alive  held   ok" in ctl("status", "--node", f"127.0.0.1:{asked}"),
                  "the owner's lease and log are told", 5)
        say("MOVED, SLOTS, SHARDS, NODES, INFO, STATUS and /cluster agree")
        expect(not other.complaints(), f"{other.complaints()[:3]}")


def a_plain_client_is_passed_on_to_the_owner(folder, forwarding_pair, say):
    """With redis.forward a client that knows nothing of clusters works at either node, before and after a hand-over."""
    with LogServers(folder, 1) as servers:
        owner, other = forwarding_pair(folder, servers)
        port = port_of_other(owner)
        with Client(port) as client:
            client.expect("SET", "x", "1")
            expect(client.call("INCR", "x") == 2, "it is the owner that answers")
            client.expect("MULTI")
            for _ in range(3):
                expect(client.call("INCR", "x") == "QUEUED", "in a transaction")
            expect(client.call("EXEC") == [3, 4, 5], "the transaction")
            large = "y" * 3_000_000
            client.expect("SET", "large", large)
            expect(bytes(client.call("GET", "large")) == large.encode(), "a large value, there and back")
            metrics = metrics_of_other(owner)
            expect("holdfast_forwarded_connections 1" in metrics, "it is counted")
            ctl("hand-over", "--node", f"127.0.0.1:{owner.port}")
            other.ready()
            try:
                reply = client.call("GET", "x")
                raise Violation(f"{reply!r}: the connection outlived the owner's")
            except ConnectionError:
                pass
        with Client(port) as client:
            expect(bytes(client.call("GET", "x")) == b"5", "the same port, now the owner's")
        back = port_of_other(other)
        with Client(back) as client:
            expect(client.call("INCR", "x") == 6, "and the first node passes on")
        say("SET, INCR, EXEC and 3 MB through a node that stands by, on both sides of a hand-over")


def metrics_of_other(owner):
    """The metrics page of the node that stands by."""
    with owner.client() as client:
        status = json.loads(bytes(client.call("CLUSTER", "STATUS")))
    http = next(node["http"] for node in status["nodes"] if not node["owns"])
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=5) as answer:
        return answer.read().decode()


def a_cluster_client_notices_no_hand_over(folder, pair, say, rounds=2, log_servers=1):
    """redis-py's cluster client writes and reads on four threads; no request fails and no write is lost while the
    data goes to the other node and back. Gives the longest time that a request took in each round, in seconds."""
    from redis.cluster import ClusterNode, RedisCluster
    longest = []
    with LogServers(folder, log_servers) as servers:
        owner, other = pair(folder, servers)
        for number in range(rounds):
            # A node that has started again has another port in these tests.
            ports = [owner.port, port_of_other(owner)]
            clients = [RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", port) for port in ports])
                       for _ in range(CLIENTS)]
            ends, failed, slowest, written = threading.Event(), [], [0.0] * CLIENTS, [0] * CLIENTS

            def work(at, client, ends=ends, failed=failed, slowest=slowest, written=written, number=number):
                for value in itertools.count(1):
                    if ends.is_set():
                        break
                    began = time.monotonic()
                    try:
                        client.set(f"{number}/{at}", value)
                        written[at] = value
                        read = int(client.get(f"{number}/{at}"))
                        if read != value:
                            failed.append(f"read {read} after {value} was written")
                    except Exception as error:  # noqa: BLE001: whatever it is, it is a request that failed
                        failed.append(f"{type(error).__name__} {error}")
                    slowest[at] = max(slowest[at], time.monotonic() - began)
                client.close()

            threads = [threading.Thread(target=work, args=one) for one in enumerate(clients)]
            for thread in threads:
                thread.start()
            time.sleep(1)
            # Asked of the node that stands by: it goes to the owner.
            told = ctl("hand-over", "--node", f"127.0.0.1:{port_of_other(owner)}")
            expect(told.startswith(f"node{2 - number % 2} owns it"), told)
            other.ready()
            time.sleep(1.5)
            ends.set()
            for thread in threads:
                thread.join()
            expect(not failed, f"{len(failed)} requests failed: {failed[:3]}")
            expect(min(written) > 100, f"a client got to {min(written)} writes")
            with other.client() as client:
                for at in range(CLIENTS):
                    found = int(client.call("GET", f"{number}/{at}"))
                    expect(found == written[at], f"{found} in place of {written[at]}")
            longest.append(max(slowest))
            say(f"{sum(written)} writes, none failed; the longest took {longest[-1]:.2f} s")
            expect(owner.process.poll() is None, "the node that gave its data up goes on, to stand by")
            port_of_other(other)
            owner, other = other, owner
    return longest


def a_cluster_for_trying_things_out(folder, say):
    """`holdfast cluster dev`: what it prints works; a killed owner is replaced and comes back; SIGTERM ends all."""
    base = next(port for port in range(20001, 60000, 60) if all_free(port))
    with open(folder / "told", "wb") as told:
        dev = subprocess.Popen([binary(), "cluster", "dev", "--dir", folder / "dev", "--port", str(base)],
                               stdin=subprocess.DEVNULL, stdout=told, stderr=told)
    text = lambda: (folder / "told").read_text(encoding="utf-8")  # noqa: E731
    pids = {}
    try:
        began = time.monotonic()
        until(lambda: "Ctrl-C ends" in text() or dev.poll() is not None, "it tells what there is", 60, 0.1)
        expect(dev.poll() is None, text())
        pids = {line.split()[0]: int(line.rsplit(" ", 1)[1]) for line in text().splitlines() if " pid " in line}
        expect({"log1", "log2", "log3", "node1", "node2", "node3"} <= set(pids), text())
        took = time.monotonic() - began
        with Client(base) as client:
            client.expect("SET", "greeting", "hello")
        if "s3" in pids:
            done = subprocess.run([binary(), "backup", "--node", f"127.0.0.1:{base}", "--to", "s3://holdfast/dev"],
                                  capture_output=True, text=True, timeout=60, check=False)
            expect(done.returncode == 0, done.stderr)
        os.kill(pids["node1"], signal.SIGKILL)
        until(lambda: any(f"owned by node{at}" in ctl("status", "--node", f"127.0.0.1:{base + 1}") for at in (2, 3)),
              "another node owns the data", 20, 0.1)
        until(lambda: "node1 runs again" in text(), "the first node runs again", 20, 0.1)
        pids["again"] = int(text().rsplit("pid ", 1)[1].split()[0])
        until(lambda: "node1  standing-by  alive" in ctl("status", "--node", f"127.0.0.1:{base + 2}"),
              "it stands by", 20, 0.1)
        owner = base + 1 if "owned by node2" in ctl("status", "--node", f"127.0.0.1:{base + 2}") else base + 2
        with Client(owner) as client:
            expect(bytes(client.call("GET", "greeting")) == b"hello", "what was written is there")
        dev.terminate()
        expect(dev.wait(60) == 0, text())
        expect(not any(is_running(pid, folder) for pid in pids.values()), "something of it still runs")
        say(f"there after {took:.1f} s; the owner was killed and replaced")
    finally:
        for pid in [dev.pid, *pids.values()]:
            if is_running(pid, folder):
                os.kill(pid, signal.SIGKILL)
        dev.wait()


def all_free(base):
    """Whether the ports that the cluster takes are."""
    for port in range(base, base + 60):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def is_running(pid, folder):
    """Whether the process is one that works in this folder."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
