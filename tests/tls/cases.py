"""The cases: each uses the real program as its operators and clients do. Raises Violation."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

from crashlib import Client, ErrorReply, Server, Violation, binary, encode, until

PASSWORD = "open sesame"
TOKEN = "metrics-token"
BIG = 3_000_000


def expect(condition, what):
    if not condition:
        raise Violation(what)


def tls_settings(authority, **more):
    settings = {"redis.tls_addr": "127.0.0.1:0", "tls.certificate_file": authority.folder / "node.pem",
                "tls.key_file": authority.folder / "node.key"}
    return {**settings, **{key.replace("__", "."): value for key, value in more.items()}}


class Node:
    """A server with TLS, and its log without complaints at the end."""

    def __init__(self, place, authority, **more):
        self.server = Server(place / "data", place / "log", tls_settings(authority, **more))
        self.authority = authority

    def __enter__(self):
        self.server.start()
        self.tls = self.server.ports["redis-tls"]
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            complaints = self.server.complaints([r"the certificates stay as they were"])
            code, _ = self.server.terminate()
            expect(code == 0 and not complaints, f"exit code {code}: {complaints}")
        else:
            self.server.kill()

    def connect(self, **options):
        """A connection over TLS that trusts the authority."""
        plain = socket.create_connection(("127.0.0.1", self.tls), timeout=20)
        try:
            return context(self.authority, **options).wrap_socket(plain, server_hostname="localhost")
        except Exception:
            plain.close()
            raise

    def metric(self, name):
        # The value of one line of /metrics; its labels belong to the name.
        text = http(self.server.ports["http"], "/metrics")[1]
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(found[1]) if found else None


def context(authority, own=None, most=None):
    made = ssl.create_default_context(cafile=str(authority.pem))
    if own:
        made.load_cert_chain(*map(str, own))
    if most:
        made.maximum_version = most
    return made


def http(port, path, *options):
    """Status and body by curl."""
    told = subprocess.run(["curl", "-s", "-o", "-", "-w", "\n%{http_code}", "--max-time", "10", *options,
                           f"{'https' if '--cacert' in options else 'http'}://localhost:{port}{path}"],
                          capture_output=True, text=True, check=False)
    body, _, status = told.stdout.rpartition("\n")
    return int(status or 0), body


def redis_cli(port, authority, *words, more=()):
    told = subprocess.run(["redis-cli", "-h", "127.0.0.1", "-p", str(port), "--tls", "--cacert", str(authority.pem),
                           *map(str, more), *words], capture_output=True, text=True, check=False, timeout=30)
    return told.stdout.strip() + told.stderr.strip()


def ask(connection, *words):
    """One request over a socket; the bytes of its reply line."""
    connection.sendall(encode(*words))
    return line(connection)


def line(connection):
    received = b""
    while not received.endswith(b"\r\n"):
        more = connection.recv(1)
        if not more:
            break
        received += more
    return received


# ---- clients -----------------------------------------------------------------------------------


def redis_cli_works_over_tls(place, authority):
    authority.issue("node")
    with Node(place, authority) as node:
        expect(redis_cli(node.tls, authority, "SET", "k", "v") == "OK", "SET")
        expect(redis_cli(node.tls, authority, "GET", "k") == "v", "GET")
        with node.server.client() as plain:
            expect(plain.expect("GET", "k") == b"v", "the plain port shows the same keys")
            expect(plain.expect("CONFIG", "GET", "tls-port")[1] == str(node.tls).encode(), "CONFIG GET tls-port")
        benchmark = subprocess.run(
            ["redis-benchmark", "-h", "127.0.0.1", "-p", str(node.tls), "--tls", "--cacert", str(authority.pem), "-t",
             "set,get", "-n", "20000", "-c", "20", "-P", "8", "-q"], capture_output=True, text=True, check=False, timeout=120)
        expect(benchmark.returncode == 0 and "GET" in benchmark.stdout, f"redis-benchmark: {benchmark}")
        expect(node.metric("holdfast_tls_handshake_seconds_count{role=\"server\"}") >= 22, "handshakes are counted")
    return "redis-cli and redis-benchmark --tls"


def both_versions_carry_large_values_whole(place, authority):
    authority.issue("node")
    value = bytes(range(256)) * (BIG // 256)
    with Node(place, authority) as node:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with node.connect(most=version) as tls:
                expect(tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name], tls.version())
                expect(ask(tls, "SET", "big", value) == b"+OK\r\n", "SET")
                tls.sendall(encode("GET", "big") * 4)
                received = bytearray()
                while len(received) < 4 * (len(value) + 12):
                    more = tls.recv(1 << 20)
                    expect(more, "it ended too early")
                    received += more
                expect(received == (b"$%d\r\n%s\r\n" % (len(value), value)) * 4, "the value is another")
    return f"{BIG // 1_000_000} MB values, TLS 1.2 and 1.3"


def bench_drives_over_tls(place, authority):
    """Long pipelines of large values, every one checked; and a server that it does not trust."""
    authority.issue("node")
    stranger = type(authority)(place / "stranger", "stranger")
    with Node(place, authority) as node:
        def bench(ca):
            return subprocess.run(
                [binary(), "bench", "--addr", f"127.0.0.1:{node.tls}", "--tls", str(ca), "--keys", "500", "-d", "30000",
                 "--preload", "--verify", "--mix", "get:50,set:40,mget:10", "-c", "8", "-P", "16", "-n", "4000"],
                capture_output=True, text=True, check=False, timeout=120)
        done = bench(authority.pem)
        expect(done.returncode == 0, f"holdfast bench: {done.stderr[-500:]}")
        refused = bench(stranger.pem)
        expect(refused.returncode == 1 and "certificate" in refused.stderr, f"not trusted: {refused.stderr[-300:]}")
    return "values of 30 kB, pipeline 16, verified"


def older_versions_are_refused(place, authority):
    authority.issue("node")
    with Node(place, authority) as node:
        old = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{node.tls}", "-tls1_1", "-cipher",
                              "DEFAULT:@SECLEVEL=0"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             check=False, timeout=20)
        expect("alert" in old.stderr, f"TLS 1.1 got: {old.stderr[:300]}")
        until(lambda: node.metric('holdfast_tls_failures_total{reason="nothing_in_common"}') == 1, "it is counted")
    return "TLS 1.1 is refused with an alert"


def passwords_work_over_tls(place, authority):
    authority.issue("node")
    with Node(place, authority, redis__password=PASSWORD) as node:
        expect("NOAUTH" in redis_cli(node.tls, authority, "GET", "k"), "no password")
        expect(redis_cli(node.tls, authority, "SET", "k", "v", more=["--no-auth-warning", "-a", PASSWORD]) == "OK", "SET")
        with node.connect() as tls:
            expect(ask(tls, "AUTH", "wrong").startswith(b"-WRONGPASS"), "a wrong password")
            expect(ask(tls, "AUTH", PASSWORD) == b"+OK\r\n", "the right password")
    return "requirepass over TLS"


def plain_text_can_be_off(place, authority):
    authority.issue("node")
    server = Server(place / "data", place / "log", tls_settings(authority, **{"redis__addr": "off"}))
    server.spawn()
    # The flag for the plain address, which the server of the tests always gives, is overruled by --set.
    told = server.process.stdout.readline().decode()
    expect(re.fullmatch(r"ready redis-tls=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+\n", told), f"the ready line: {told!r}")
    port = int(re.search(r"redis-tls=[^ ]*:(\d+)", told)[1])
    expect(redis_cli(port, authority, "PING") == "PONG", "PING")
    server.terminate()
    return "redis.addr=off"


# ---- refusals ----------------------------------------------------------------------------------


def wrong_certificates_are_refused_by_the_client(place, authority):
    authority.issue("node", days=-1)
    stranger = type(authority)(place / "stranger", "stranger")
    with Node(place, authority) as node:
        for trusted, text in ((authority, "expired"), (stranger, "self-signed|unable to get local issuer|verify failed")):
            plain = socket.create_connection(("127.0.0.1", node.tls), timeout=20)
            try:
                context(trusted).wrap_socket(plain, server_hostname="localhost")
            except ssl.SSLError as error:
                expect(re.search(text, str(error)), f"{error}")
            else:
                raise Violation(f"a client took a certificate that is {text}")
            finally:
                plain.close()
        until(lambda: node.metric('holdfast_tls_failures_total{reason="refused_by_client"}') == 2, "both are counted")
        expect(node.metric("holdfast_tls_certificate_not_after_seconds") < time.time(), "the end of the certificate is told")
    return "expired and untrusted"


def client_certificates_are_demanded(place, authority):
    authority.issue("node")
    own, late = authority.issue("client"), authority.issue("late", days=-1)
    foreign = type(authority)(place / "stranger", "stranger").issue("foreign")
    more = {"tls__client_ca_file": authority.pem, "tls__client_certificates": "required"}
    with Node(place, authority, **more) as node:
        with node.connect(own=own) as tls:
            expect(ask(tls, "PING") == b"+PONG\r\n", "a good certificate")
        for wrong in (None, late, foreign):
            try:
                # In TLS 1.3 the client learns of it with its first read.
                with node.connect(own=wrong) as tls:
                    ask(tls, "PING")
            except ssl.SSLError as error:
                expect("alert" in str(error), f"{error}")
            else:
                raise Violation(f"let in with {wrong}")
        until(lambda: node.metric('holdfast_tls_failures_total{reason="client_certificate"}') == 3, "all are counted")
    return "none, expired and foreign ones are refused with an alert"


def plain_text_on_the_tls_port_is_told_so(place, authority):
    authority.issue("node")
    with Node(place, authority) as node:
        for words in (encode("PING"), b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n", encode("SET", "k", "v" * 100_000)):
            with Client(node.tls, 20) as client:
                client.send(words)
                told = client.read()
                expect(isinstance(told, ErrorReply) and "speaks TLS" in told.text, f"told {told!r}")
                try:
                    more = client.read()
                except ConnectionError:
                    continue
                raise Violation(f"and then {more!r}")
        expect(node.metric('holdfast_tls_failures_total{reason="plain_text"}') == 4, "all are counted")
    return "told in clear, then closed"


def tls_on_the_plain_port_is_told_so(place, authority):
    authority.issue("node")
    with Node(place, authority) as node:
        plain = socket.create_connection(("127.0.0.1", node.server.port), timeout=20)
        try:
            context(authority).wrap_socket(plain, server_hostname="localhost")
        except ssl.SSLError as error:
            # How every client says it that hears words in place of TLS.
            expect(re.search("wrong version number|record layer failure", str(error), re.I), f"{error}")
        else:
            raise Violation("a handshake without TLS")
        finally:
            plain.close()
        expect(node.metric('holdfast_tls_failures_total{reason="tls_on_plain_port"}') == 1, "it is counted")
    return "closed at once, counted"


def handshakes_that_never_end(place, authority):
    """Slow, silent, truncated and noisy strangers: closed in time, and nobody else is kept waiting."""
    authority.issue("node")
    with Node(place, authority, tls__handshake_seconds_max=2) as node:
        hello = client_hello(authority)
        strangers = []
        for at in range(60):
            plain = socket.create_connection(("127.0.0.1", node.tls), timeout=20)
            plain.sendall(hello[:at * len(hello) // 60])
            strangers.append(plain)
        for noise in (hello + bytes(300), b"\x16\x03\x01\x40\x00" + bytes(5000), b"\x16\x03\x01\xff\xff" + bytes(70_000),
                      hello[:60] + bytes(4000)):
            plain = socket.create_connection(("127.0.0.1", node.tls), timeout=20)
            plain.sendall(noise)
            strangers.append(plain)
        began = time.monotonic()
        with node.connect() as tls:
            expect(ask(tls, "PING") == b"+PONG\r\n", "a well-behaved client")
        expect(time.monotonic() - began < 1.5, "a well-behaved client waited")
        for plain in strangers:
            try:
                while plain.recv(4096):
                    pass
            except ConnectionError:
                pass
            plain.close()
        took = time.monotonic() - began
        expect(took < 6, f"strangers were closed after {took:.1f} s only")
        expect(node.metric('holdfast_tls_failures_total{reason="timed_out"}') >= 59, "they are counted")
        expect(node.metric('holdfast_tls_failures_total{reason="malformed"}') >= 2, "noise is counted")
        expect(node.metric("holdfast_connections") == 0, "their places are free")
    return f"{len(strangers)} of them, the last closed after {took:.1f} s"


def client_hello(authority):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shake = context(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        shake.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


# ---- operating ---------------------------------------------------------------------------------


def certificates_are_changed_without_a_restart(place, authority):
    authority.issue("node")
    with Node(place, authority) as node:
        def shown():
            with node.connect() as tls:
                return tls.getpeercert()["serialNumber"]
        first = shown()
        with node.connect() as old:
            authority.issue("node", days=60)
            node.server.process.send_signal(signal.SIGHUP)
            until(lambda: shown() != first, "SIGHUP brings the new certificate")
            expect(ask(old, "PING") == b"+PONG\r\n", "a connection from before goes on")
            second = shown()
            authority.issue("next", days=60)
            # As a renewal does it that is not atomic: a certificate without its key, for a while.
            shutil.copy(authority.folder / "next.pem", authority.folder / "node.pem")
            until(lambda: node.metric("holdfast_tls_reloads_failed_total") == 1, "the half-made change is seen")
            expect(shown() == second, "it changes nothing")
            shutil.copy(authority.folder / "next.key", authority.folder / "node.key")
            until(lambda: shown() != second, "a change is seen without a signal")
        expect(node.metric("holdfast_tls_reloads_total") == 2, "both changes are counted")
    return "by SIGHUP and by looking"


def a_start_without_usable_certificates_is_refused(place, authority):
    authority.issue("node")
    authority.issue("other")
    for setting, path, text in (
        ("tls.key_file", authority.folder / "other.key", "tls.key_file"),
        ("tls.certificate_file", place / "nowhere.pem", "tls.certificate_file"),
        ("tls.certificate_file", authority.folder / "node.key", "no certificate"),
        ("tls.key_file", "", "tls.key_file"),
    ):
        server = Server(place / "refused", place / "log", {**tls_settings(authority), setting: path})
        expect(not server.started(), f"{setting}={path}: it started")
        code = server.exited()
        said = server.log_text()
        expect(code == 1 and text in said, f"{setting}={path}: {code}, {said}")
    return "four ways"


def http_speaks_tls_and_asks_for_its_token(place, authority):
    authority.issue("node")
    with Node(place, authority, http__tls_addr="127.0.0.1:0", http__token=TOKEN) as node:
        secure, ca = node.server.ports["http-tls"], ["--cacert", str(authority.pem)]
        for port, options in ((secure, ca), (node.server.ports["http"], [])):
            expect(http(port, "/livez", *options) == (200, "ok\n"), "/livez is open")
            expect(http(port, "/readyz", *options) == (200, "ok\n"), "/readyz is open")
            expect(http(port, "/metrics", *options)[0] == 401, "/metrics asks for the token")
            expect(http(port, "/metrics", *options, "-H", "Authorization: Bearer wrong")[0] == 401, "a wrong token")
            status, text = http(port, "/metrics", *options, "-H", f"Authorization: Bearer {TOKEN}")
            expect(status == 200 and "holdfast_ready 1" in text, f"the right token: {status}")
        status, _ = http(secure, "/livez")
        expect(status in (0, 400), f"plain HTTP on the port with TLS: {status}")
        idle = [socket.create_connection(("127.0.0.1", secure), timeout=20) for _ in range(20)]
        expect(http(secure, "/livez", *ca)[0] == 200, "twenty silent strangers lock nobody out")
        for plain in idle:
            plain.close()
    return "and /livez, /readyz stay open"


def an_open_http_port_beyond_loopback_is_told(place, authority):
    del authority
    for settings, told in (({"redis.password": PASSWORD}, 1), ({"redis.password": PASSWORD, "http.token": TOKEN}, 0), ({}, 0)):
        server = Server(place / "data", place / "log", {**settings, "http.addr": "0.0.0.0:0"}).start()
        warned = len(server.complaints())
        expect(warned == told, f"{json.dumps(settings)}: {server.complaints()}")
        server.terminate()
    return "a warning with a password and without a token"


ALL = [
    redis_cli_works_over_tls, both_versions_carry_large_values_whole, bench_drives_over_tls, older_versions_are_refused,
    passwords_work_over_tls, plain_text_can_be_off, wrong_certificates_are_refused_by_the_client, client_certificates_are_demanded,
    plain_text_on_the_tls_port_is_told_so, tls_on_the_plain_port_is_told_so, handshakes_that_never_end,
    certificates_are_changed_without_a_restart, a_start_without_usable_certificates_is_refused,
    http_speaks_tls_and_asks_for_its_token, an_open_http_port_beyond_loopback_is_told,
]
