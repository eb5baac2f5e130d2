//! Keyspaces and users over the wire: made, refused, in force at once, and still there after a kill.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use holdfast_protocol::resp::{Value, encode_command, parse_value};
use tempfile::TempDir;

/// Silence after which the server counts as stuck.
const SILENCE_MAX: Duration = Duration::from_secs(20);

struct Server {
    process: Child,
    redis: SocketAddr,
    http: SocketAddr,
}

impl Server {
    fn start(data: &Path, more: &[&str]) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["serve", "--redis", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(["--set", "threads.data=2", "--set", "memory=128MiB"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test");
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("standard output is text");
        let address = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.parse().ok())
                .unwrap_or_else(|| panic!("not ready: {line:?}"))
        };
        Server { redis: address("redis="), http: address("http="), process }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.redis).expect("the server accepts connections");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("the time is not zero");
        Client { stream, received: Vec::new() }
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.http).expect("the server accepts connections");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("the time is not zero");
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).expect("the server reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("metrics are text");
        text
    }
}

impl Drop for Server {
    /// SIGKILL: what was acknowledged must be there at the next start.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// The reply to a request whose words are separated by spaces, as text: lists in brackets.
    fn ask(&mut self, request: &str) -> String {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        encode_command(&mut bytes, &words);
        self.stream.write_all(&bytes).expect("the server reads");
        self.receive()
    }

    fn receive(&mut self) -> String {
        loop {
            let parsed = parse_value(&self.received).expect("replies are well formed");
            if let Some((value, used)) = parsed {
                self.received.drain(..used);
                return show(&value);
            }
            let mut chunk = [0; 4096];
            let len = self.stream.read(&mut chunk).expect("the server answers in time");
            assert!(len > 0, "the server closed the connection");
            self.received.extend_from_slice(&chunk[..len]);
        }
    }

    /// Asks each and compares; `*` at the end of the expectation stands for any rest.
    fn expect(&mut self, exchanges: &[(&str, &str)]) {
        for (request, expected) in exchanges {
            let got = self.ask(request);
            let fits = match expected.strip_suffix('*') {
                Some(start) => got.starts_with(start),
                None => got == *expected,
            };
            assert!(fits, "{request}: {got:?} instead of {expected:?}");
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
        }
        Value::Integer(number) => number.to_string(),
        other => other.as_bytes().map_or("nil".into(), |b| String::from_utf8_lossy(b).into_owned()),
    }
}

#[test]
fn keyspaces_and_quotas_are_in_force_at_once_and_after_a_kill() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(folder.path(), &[]);
    let mut client = server.connect();
    client.expect(&[
        ("KEYSPACE CREATE orders KEYS 2 BYTES 1KiB", "16"),
        ("KEYSPACE CREATE orders", "ERR a keyspace of this name exists already"),
        ("KEYSPACE CREATE blobs NUMBER 40 KIND durable", "40"),
        ("KEYSPACE CREATE other NUMBER 40", "ERR a keyspace has this number already"),
        ("KEYSPACE CREATE other NUMBER 7", "ERR a new keyspace's number is*"),
        ("KEYSPACE CREATE other KIND cache", "ERR keyspaces of kind cache are not supported*"),
        ("KEYSPACE CREATE 99", "ERR a keyspace's name begins with a letter*"),
        ("KEYSPACE CREATE other BYTES many", "ERR a quota is a number*"),
        ("KEYSPACE CREATE other BYTES", "ERR syntax error"),
        ("KEYSPACE DROP 3", "ERR keyspaces 0 to 15 cannot be dropped*"),
        ("KEYSPACE DROP nosuch", "ERR no such keyspace"),
        ("KEYSPACE SET 5 KEYS 1", "OK"),
        ("SELECT nosuch", "ERR value is not an integer or out of range"),
        ("SELECT 17", "ERR DB index is out of range"),
        ("SELECT orders", "OK"),
        ("SET a 1", "OK"),
        ("SET b 1", "OK"),
        ("SET c 1", "OOM command not allowed: keyspace 16 may hold no more than 2 keys"),
        ("SET a 2", "OK"),
        ("DEL b", "1"),
        (&format!("SET a {}", "x".repeat(1100)), "OOM command not allowed: keyspace 16 *"),
        ("SELECT 40", "OK"),
        ("MSET a 3 b 3 c 3", "OK"),
    ]);
    drop(server);

    let server = Server::start(folder.path(), &[]);
    let mut client = server.connect();
    client.expect(&[
        ("SELECT orders", "OK"),
        ("GET a", "2"),
        ("MSET b 1 c 1", "OOM command not allowed:*"),
        ("SELECT 5", "OK"),
        ("MSET b 1 c 1", "OOM command not allowed:*"),
        ("KEYSPACE SET 5 KEYS none", "OK"),
        ("MSET b 1 c 1", "OK"),
        ("SELECT blobs", "OK"),
        ("DBSIZE", "3"),
    ]);
    let listed = client.ask("KEYSPACE LIST");
    let orders = "[name orders number 16 kind durable keys 1 bytes 2 keys_max 2 bytes_max 1024]";
    assert!(listed.contains(orders), "{listed}");
    let info = client.ask("INFO keyspace");
    assert!(info.contains("db40:keys=3,expires=0,avg_ttl=0,bytes=6,name=blobs"), "{info}");
    let metrics = server.metrics();
    for line in ["holdfast_keyspace_keys{keyspace=\"blobs\"} 3", "_bytes{keyspace=\"orders\"} 2"] {
        assert!(metrics.contains(line), "{line} is missing");
    }

    let mut other = server.connect();
    client.expect(&[("KEYSPACE DROP orders", "OK")]);
    other.expect(&[("SELECT orders", "ERR value is not an integer*")]);
    client.expect(&[("SELECT 0", "OK")]);
    other.expect(&[("SELECT blobs", "OK")]);
    client.expect(&[("KEYSPACE DROP blobs", "OK")]);
    other.expect(&[
        ("GET a", "ERR the selected keyspace was dropped: SELECT another"),
        ("PING", "PONG"),
        ("SELECT 0", "OK"),
        ("GET a", "nil"),
    ]);
    client.expect(&[
        ("KEYSPACE CREATE again NUMBER 40", "40"),
        ("SELECT again", "OK"),
        ("DBSIZE", "0"),
        ("GET a", "nil"),
    ]);
}

#[test]
fn users_are_limited_at_once_and_after_a_kill() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(folder.path(), &[]);
    let mut admin = server.connect();
    let denied_key =
        "NOPERM this user has no permissions to access one of the keys used as arguments";
    admin.expect(&[
        ("ACL WHOAMI", "default"),
        ("ACL LIST", "[user default on nopass ~* &* +@all]"),
        ("ACL SETUSER bob on >pw ~a* +@read +set +@transaction -mget", "OK"),
        ("ACL SETUSER bob +nosuch", "ERR Error in ACL SETUSER modifier '+nosuch': Unknown*"),
        ("ACL SETUSER bob +get foo", "ERR Error in ACL SETUSER modifier 'foo': Syntax error"),
        ("ACL DELUSER default", "ERR The 'default' user cannot be removed"),
        ("ACL SETUSER default off", "ERR this would leave no enabled user*"),
        ("ACL SETUSER root on >p +acl", "OK"),
        ("ACL SETUSER default -acl|setuser", "OK"),
        ("ACL DELUSER root", "ERR this would leave no enabled user*"),
        (
            "ACL SETUSER default +@all",
            "NOPERM this user has no permissions to run the 'acl|setuser'*",
        ),
        ("AUTH root p", "OK"),
        ("ACL SETUSER default +@all", "OK"),
        ("RESET", "RESET"),
        ("ACL DELUSER root", "1"),
        ("ACL DRYRUN bob get a1", "OK"),
        ("ACL DRYRUN bob get b1", "This user has no permissions to access the 'b1' key"),
        ("ACL DRYRUN bob del a1", "This user has no permissions to run the 'del' command"),
        ("ACL DRYRUN nobody get a", "ERR User 'nobody' not found"),
        ("ACL CAT nosuch", "ERR Unknown category 'nosuch'"),
        ("ACL USERS", "[bob default]"),
        ("ACL GETUSER nobody", "nil"),
    ]);
    let mut bob = server.connect();
    bob.expect(&[
        ("AUTH bob wrong", "WRONGPASS invalid username-password pair or user is disabled."),
        ("AUTH nobody pw", "WRONGPASS invalid username-password pair or user is disabled."),
        ("AUTH bob pw", "OK"),
        ("SET a1 1", "OK"),
        ("GET a1", "1"),
        ("SET b 1", denied_key),
        ("EXISTS a1 b", denied_key),
        ("MGET a1", "NOPERM this user has no permissions to run the 'mget' command"),
        ("ACL WHOAMI", "NOPERM this user has no permissions to run the 'acl|whoami' command"),
        ("KEYSPACE LIST", "NOPERM this user has no permissions to run the 'keyspace|list' command"),
        ("MULTI", "OK"),
        ("SET b 1", denied_key),
        ("EXEC", "EXECABORT Transaction discarded because of previous errors."),
        ("MULTI", "OK"),
        ("SET a2 1", "QUEUED"),
        ("GET a1", "QUEUED"),
    ]);
    // Rights that are lost between queuing and EXEC are lost.
    admin.expect(&[("ACL SETUSER bob -set", "OK")]);
    bob.expect(&[
        ("EXEC", "[NOPERM this user has no permissions to run the 'set' command 1]"),
        ("SET a1 2", "NOPERM this user has no permissions to run the 'set' command"),
    ]);
    admin.expect(&[("ACL SETUSER default >secret", "OK"), ("PING", "PONG")]);
    drop(server);

    let server = Server::start(folder.path(), &[]);
    let mut admin = server.connect();
    admin.expect(&[
        ("PING", "NOAUTH Authentication required."),
        ("AUTH other", "WRONGPASS invalid username-password pair or user is disabled."),
        ("AUTH secret", "OK"),
        ("GET a2", "nil"),
    ]);
    let mut bob = server.connect();
    bob.expect(&[
        ("HELLO 2 AUTH bob pw", "[server redis*"),
        ("GET a1", "1"),
        ("GET b1", denied_key),
        ("SET a1 2", "NOPERM this user has no permissions to run the 'set' command"),
    ]);
    admin.expect(&[("ACL SETUSER bob off", "OK")]);
    bob.expect(&[("GET a1", "NOAUTH Authentication required.")]);
    admin.expect(&[("ACL SETUSER bob on", "OK")]);
    bob.expect(&[("AUTH bob pw", "OK"), ("GET a1", "1")]);
    admin.expect(&[
        ("ACL DELUSER bob nobody", "1"),
        ("ACL SETUSER bob on nopass allkeys +get", "OK"),
    ]);
    bob.expect(&[("GET a1", "NOAUTH Authentication required.")]);
    admin.expect(&[
        ("MULTI", "OK"),
        ("ACL SETUSER eve on", "ERR Command not allowed inside a transaction"),
        ("EXEC", "EXECABORT Transaction discarded because of previous errors."),
        ("MULTI", "OK"),
        ("INFO keyspace", "QUEUED"),
        ("UNWATCH", "QUEUED"),
        ("SELECT 1", "QUEUED"),
        ("EXEC", "[# Keyspace*"),
        ("RESET", "RESET"),
        ("PING", "NOAUTH Authentication required."),
    ]);
}

#[test]
fn a_configured_password_holds_until_the_user_is_changed() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(folder.path(), &["--set", "redis.password=first"]);
    let mut client = server.connect();
    client.expect(&[
        ("GET a", "NOAUTH Authentication required."),
        ("AUTH first", "OK"),
        ("ACL SETUSER default resetpass >second", "OK"),
    ]);
    drop(server);
    let server = Server::start(folder.path(), &["--set", "redis.password=first"]);
    let mut client = server.connect();
    client.expect(&[
        ("AUTH first", "WRONGPASS invalid username-password pair or user is disabled."),
        ("AUTH default second", "OK"),
    ]);
}

#[test]
fn pipelined_changes_see_each_other() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(folder.path(), &[]);
    let mut client = server.connect();
    let mut bytes = Vec::new();
    for request in [
        "KEYSPACE CREATE orders KEYS 5",
        "SELECT orders",
        "SET a 1",
        "ACL SETUSER bob +get",
        "ACL GETUSER bob",
        "ACL DELUSER bob",
        "ACL DELUSER bob",
    ] {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        encode_command(&mut bytes, &words);
    }
    client.stream.write_all(&bytes).expect("the server reads");
    let user = "[flags [off] passwords [] commands -@all +get keys  channels  selectors []]";
    for expected in ["16", "OK", "OK", "OK", user, "1", "0"] {
        assert_eq!(client.receive(), expected);
    }
}
