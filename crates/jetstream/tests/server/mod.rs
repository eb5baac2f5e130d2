//! Log servers on loopback, each with its data in a folder of its own.

use std::{
    error::Error,
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CLIENT_PORT: u16 = 4222;
const ROUTE_PORT: u16 = 6222;
const MONITOR_PORT: u16 = 8222;
/// Sets of servers started so far.
static SETS: AtomicUsize = AtomicUsize::new(0);
const READY_WITHIN: Duration = Duration::from_secs(40);

/// One server, or several that form a cluster. They end with this value.
pub struct LogServers {
    folder: tempfile::TempDir,
    /// Each process of tests has loopback addresses of its own, and each set of servers in it, so that
    /// ports are free.
    net: String,
    first: usize,
    servers: Vec<Server>,
}

struct Server {
    address: String,
    settings: String,
    process: Child,
}

impl LogServers {
    /// Starts so many servers with empty stores, and waits until they can make streams.
    pub fn start(count: usize) -> Result<LogServers> {
        let folder = tempfile::tempdir()?;
        let process = std::process::id();
        let net = format!("127.{}.{}", 64 + (process >> 8) % 64, process % 256);
        let first = 1 + 8 * SETS.fetch_add(1, Ordering::Relaxed);
        let mut servers = LogServers { folder, net, first, servers: Vec::new() };
        let addresses: Vec<_> = (0..count).map(|at| servers.address(at)).collect();
        for (at, address) in addresses.iter().enumerate() {
            let path = servers.folder.path().join(at.to_string());
            fs::create_dir(&path)?;
            let path = path.display();
            let routes: Vec<_> =
                addresses.iter().map(|address| format!("nats://{address}:{ROUTE_PORT}")).collect();
            let cluster = format!(
                "cluster {{ name: test, listen: \"{address}:{ROUTE_PORT}\", routes: [{}] }}\n",
                routes.join(", ")
            );
            let text = format!(
                "server_name: n{at}\nlisten: \"{address}:{CLIENT_PORT}\"\n\
                 http: \"{address}:{MONITOR_PORT}\"\nlog_file: \"{path}/log\"\n\
                 jetstream {{ store_dir: \"{path}/store\", sync_interval: always }}\n{}",
                if count > 1 { cluster.as_str() } else { "" }
            );
            let settings = format!("{path}/settings");
            fs::write(&settings, text)?;
            let process = spawn(&settings)?;
            servers.servers.push(Server { address: address.clone(), settings, process });
        }
        servers.wait_until_healthy()?;
        Ok(servers)
    }

    fn address(&self, at: usize) -> String {
        format!("{}.{}", self.net, self.first + at)
    }

    /// Where they listen.
    pub fn urls(&self) -> Vec<String> {
        let url = |server: &Server| format!("nats://{}:{CLIENT_PORT}", server.address);
        self.servers.iter().map(url).collect()
    }

    /// Kills one server and starts it again on its data.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        let server = &mut self.servers[at];
        server.process.kill()?;
        server.process.wait()?;
        server.process = spawn(&server.settings)?;
        self.wait_until_healthy()
    }

    /// Stops one server's process, until it is to go on with what has arrived.
    pub fn stand_still(&self, at: usize) {
        self.signal(at, Signal::STOP);
    }

    /// See [`LogServers::stand_still`].
    pub fn go_on(&self, at: usize) {
        self.signal(at, Signal::CONT);
    }

    fn signal(&self, at: usize, signal: Signal) {
        let pid = Pid::from_child(&self.servers[at].process);
        kill_process(pid, signal).expect("it is this test's own process");
    }

    /// The server that leads this stream.
    pub fn leader_of(&self, stream: &str) -> Result<usize> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            for at in 0..self.servers.len() {
                let path = "/jsz?streams=true&accounts=true";
                let Ok(text) = self.ask(at, path) else { continue };
                let report: serde_json::Value = serde_json::from_str(&text)?;
                let accounts = report["account_details"].as_array().into_iter().flatten();
                let mut streams =
                    accounts.flat_map(|a| a["stream_detail"].as_array().into_iter().flatten());
                let leader = streams
                    .find(|found| found["name"] == stream)
                    .and_then(|found| found["cluster"]["leader"].as_str());
                let place = leader.and_then(|name| name.strip_prefix('n')?.parse().ok());
                if let Some(place) = place {
                    return Ok(place);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("{stream} has no leader").into())
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        for at in 0..self.servers.len() {
            while !self.ask(at, "/healthz").is_ok_and(|answer| answer.contains("\"ok\"")) {
                if let Some(status) = self.servers[at].process.try_wait()? {
                    let log = self.folder.path().join(at.to_string()).join("log");
                    let said = fs::read_to_string(log).unwrap_or_default();
                    return Err(format!("nats-server ended with {status}: {said}").into());
                }
                if Instant::now() > deadline {
                    return Err(format!("log server {at} does not become healthy").into());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// The body that a server's monitor answers with.
    fn ask(&self, at: usize, path: &str) -> Result<String> {
        let address = &self.servers[at].address;
        let to = format!("{address}:{MONITOR_PORT}").parse()?;
        let mut socket = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(socket, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

impl Drop for LogServers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _may_have_ended = server.process.kill();
            let _reaped = server.process.wait();
        }
    }
}

fn spawn(settings: &str) -> Result<Child> {
    let program = std::env::var("HOLDFAST_NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
    Command::new(&program)
        .args(["-c", settings])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            let hint = "scripts/steps/clients installs it, `make test` finds it";
            format!("{program}: {error}; {hint}").into()
        })
}
