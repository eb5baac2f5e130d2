"""Log servers that speak TLS alone, ask for certificates, and let each nkey do no more than it needs."""

import base64
import binascii
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for neighbour in ("crash", "tls"):
    sys.path.append(str(HERE.parent / neighbour))
from certificates import Authority  # noqa: E402
from crashlib import Client, Server, until  # noqa: E402
from logservers import LogServers  # noqa: E402
from redirects import expect, port_of_other  # noqa: E402
from replicas import has_heard, read_after, text  # noqa: E402
from snapshots import metric  # noqa: E402

# What a node has to be allowed, for a log of this name; docs/runbooks/log-servers.md has the same list.
NODE_MAY_PUBLISH = [
    "holdfast.>", "$KV.holdfast.>",
    "$JS.API.STREAM.CREATE.holdfast-0", "$JS.API.STREAM.INFO.holdfast-0", "$JS.API.STREAM.PURGE.holdfast-0",
    "$JS.API.DIRECT.GET.holdfast-0", "$JS.API.DIRECT.GET.holdfast-0.>",
    "$JS.API.STREAM.CREATE.KV_holdfast", "$JS.API.STREAM.INFO.KV_holdfast",
    "$JS.API.DIRECT.GET.KV_holdfast", "$JS.API.DIRECT.GET.KV_holdfast.>",
]
# Of somebody who may look, and not write.
VIEWER_MAY_PUBLISH = [one for one in NODE_MAY_PUBLISH
                      if not one.endswith(".>") and "CREATE" not in one and "PURGE" not in one]
USER_PREFIX, SEED_PREFIX = 20 << 3, 18 << 3


def nkey(folder, name):
    """Makes an nkey: gives the public part, and leaves the seed in a file."""
    pem = folder / f"{name}.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", pem], check=True)
    der = subprocess.run(["openssl", "pkey", "-in", pem, "-outform", "DER"], check=True, capture_output=True).stdout
    public = subprocess.run(["openssl", "pkey", "-in", pem, "-pubout", "-outform", "DER"], check=True, capture_output=True).stdout

    def shown(raw):
        checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
        return base64.b32encode(raw + checksum).decode().rstrip("=")
    seed = shown(bytes([SEED_PREFIX | USER_PREFIX >> 5, (USER_PREFIX & 31) << 3]) + der[-32:])
    (folder / f"{name}.seed").write_text(seed + "\n", encoding="ascii")
    return shown(bytes([USER_PREFIX]) + public[-32:])


def permissions(subjects):
    quoted = ", ".join(f'"{subject}"' for subject in subjects)
    return f'{{ publish: [{quoted}], subscribe: ["_INBOX.>"] }}'


def log_servers_let_each_do_what_it_needs(folder, stand_by, say):
    """Two nodes with the least permissions work; a wrong certificate, key or user does not get in or cannot write."""
    authority, stranger = Authority(folder / "tls"), Authority(folder / "other")
    server_pem, server_key = (authority.folder / f"server.{kind}" for kind in ("pem", "key"))
    node_pem, node_key = authority.issue("node")
    wrong_pem, wrong_key = stranger.issue("node")
    users = {name: nkey(folder, name) for name in ("node", "viewer", "nobody")}
    more = (f'tls {{ cert_file: "{server_pem}", key_file: "{server_key}", ca_file: "{authority.pem}", verify: true }}\n'
            f'authorization {{ users: [\n'
            f'  {{ nkey: {users["node"]}, permissions: {permissions(NODE_MAY_PUBLISH)} }}\n'
            f'  {{ nkey: {users["viewer"]}, permissions: {permissions(VIEWER_MAY_PUBLISH)} }}\n] }}\n')
    servers = LogServers(folder, 1, more=more)
    authority.issue("server", address=servers.addresses[0])
    with servers:
        settings = {**servers.settings, "log.servers": servers.settings["log.servers"].replace("nats://", "tls://"),
                    "log.take_over": "when-silent", "log.nkey_seed_file": folder / "node.seed", "log.ca_file": authority.pem,
                    "log.certificate_file": node_pem, "log.key_file": node_key}

        def node(name, **others):
            changed = {key.replace("__", "."): value for key, value in others.items()}
            return Server(folder / name, folder / f"{name}.log", {**settings, "node.name": name, **changed})
        owner = node("node1").start()
        other = stand_by(node("node2"))
        with owner.client() as client, Client(port_of_other(owner)) as replica:
            has_heard(replica)
            client.expect("SET", "x", "1")
            expect(text(read_after(client, replica, "GET", "x")[0]) == "1", "it is followed")
        refused = {
            "no certificate": node("none", log__certificate_file="", log__key_file=""),
            "another authority's certificate": node("wrong", log__certificate_file=wrong_pem, log__key_file=wrong_key),
            "servers of another authority": node("trusting", log__ca_file=stranger.pem),
            "an nkey that is not known": node("nobody", log__nkey_seed_file=folder / "nobody.seed"),
        }
        for why, one in refused.items():
            expect(not one.started(60), f"{why}: it started")
            expect("log servers" in one.log_text(), f"{why}: {one.log_text()[-600:]}")
        viewer = node("viewer", log__nkey_seed_file=folder / "viewer.seed", log__take_over="at-start")
        expect(not viewer.started(90), "whoever may not write took the data over")
        expect("Permissions Violation for Publish" in viewer.log_text(), viewer.log_text()[-1000:])
        with owner.client() as client:
            client.expect("SET", "x", "2")
        owner.kill()
        with other.ready().client() as client:
            expect(text(client.call("GET", "x")) == "2", "the other one has taken over")
        say(f"TLS with certificates on both sides, {len(NODE_MAY_PUBLISH)} subjects for a node; {len(refused)} strangers did not "
            "get in, and who may only look took nothing")


def a_log_server_that_does_not_sync_is_refused(folder, say):
    """Asked where it tells how it runs, and never taken for one that does not answer there."""
    lazy = LogServers(folder, 1, sync="2m")
    with lazy:
        node = Server(folder / "lazy", folder / "lazy.log", {**lazy.settings, "log.monitors": lazy.monitors})
        expect(not node.started(60), "it started on a log server that does not sync")
        expect("acknowledges before it syncs" in node.log_text(), node.log_text()[-1000:])
    (folder / "other").mkdir()
    with LogServers(folder / "other", 1) as servers:
        monitors = f"{servers.monitors},http://{servers.addresses[0]}:9"
        node = Server(folder / "node", folder / "node.log", {**servers.settings, "log.monitors": monitors}).start()
        until(lambda: metric(node, 'holdfast_log_servers{state="synced"}') == 1, "the server that syncs is counted", 10)
        until(lambda: metric(node, 'holdfast_log_servers{state="silent"}') == 1, "and the one that is silent", 10)
        expect("is not known yet" in node.log_text(), "and told at the start")
        node.kill()
    say("one that does not sync kept a node from starting; one that is silent was counted")
