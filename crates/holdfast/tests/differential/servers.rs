//! The two servers of a test: redis-server 7.0 and this tree's binary, each in its own folder, on
//! ports of their own, and gone with the test.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    connection::{Connection, SILENCE_MAX},
    request::{Request, text},
};

const START_MAX: Duration = Duration::from_secs(60);

/// A running server; dropped, it is killed.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The servers to compare.
pub struct Pair {
    pub redis: Server,
    pub ours: Server,
    /// Silence after which a server counts as stuck.
    pub silence: Duration,
}

impl Pair {
    pub fn start() -> Pair {
        Pair { redis: start_redis(), ours: start_ours(), silence: SILENCE_MAX }
    }

    /// Ends our server, whatever its state, and starts another.
    pub fn replace_ours(&mut self) {
        self.ours = start_ours();
    }

    /// Stops our server as an operator would: it must end well and must not have complained.
    pub fn stop(mut self) {
        let ours = &mut self.ours;
        let id = rustix::process::Pid::from_child(&ours.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)
            .expect("the server still runs");
        let status = ours.process.wait().expect("a child can be waited for");
        let log = std::fs::read_to_string(ours.folder.path().join("log")).expect("its log exists");
        assert!(status.success(), "the server ended with {status}:\n{log}");
        let complaints: Vec<_> =
            log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
    }
}

fn start_ours() -> Server {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let log = File::create(folder.path().join("log")).expect("the folder is ours");
    let mut process = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["serve", "--redis", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
        .arg(folder.path().join("data"))
        .args(["--set", "threads.data=2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary was built for this test");
    let mut line = String::new();
    let output = process.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("standard output is text");
    let address = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("redis="))
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| panic!("not ready: {line:?}\n{}", log_of(folder.path())));
    Server { process, address, folder }
}

fn log_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Starts redis-server. It cannot be told to pick a port itself, so a free one is looked for, and
/// taken by another process in between it is looked for again.
fn start_redis() -> Server {
    for _ in 0..5 {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let log = File::create(folder.path().join("log")).expect("the folder is ours");
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = probe.local_addr().expect("a bound listener has an address");
        drop(probe);
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server is installed: scripts/prepare test");
        let mut server = Server { process, address, folder };
        if is_up(&mut server) {
            check_version(&server);
            return server;
        }
    }
    panic!("redis-server did not start on any of five ports");
}

/// Waits until this very process answers; false if it ended.
fn is_up(server: &mut Server) -> bool {
    let deadline = Instant::now() + START_MAX;
    let own = format!("process_id:{}\r\n", server.process.id());
    while Instant::now() < deadline {
        if server.process.try_wait().expect("a child can be asked").is_some() {
            return false;
        }
        if TcpStream::connect(server.address).is_ok() {
            let reply = Connection::open(server.address).ask(Request::of("info server"));
            return String::from_utf8_lossy(&reply).contains(&own);
        }
        std::thread::yield_now();
    }
    panic!("redis-server is silent:\n{}", log_of(server.folder.path()));
}

/// Error texts and corner cases differ between the releases of Redis: one is the reference.
fn check_version(server: &Server) {
    let reply = Connection::open(server.address).ask(Request::of("info server"));
    let info = text(&reply).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let version = version.unwrap_or_default();
    assert!(version.starts_with("7.0."), "redis-server 7.0 is the reference, this is {version}");
}
