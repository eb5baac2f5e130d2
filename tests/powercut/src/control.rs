//! The control socket: one command per line, one line of JSON back (`{"error": ...}` if refused).
//! The commands are described in README.md; `powercut.py` speaks them.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::disk::{Cut, Disk, Report};
use crate::faults::{Effect, Op, Rule};
use crate::names::Order;
use crate::pages::Fate;

/// Answers commands until the process ends. `stop` ends it.
pub struct Control {
    /// The disk that the commands are about.
    pub disk: Arc<Disk>,
    /// Tells the kernel to forget its pages after a cut.
    pub notifier: Notifier,
    /// Unmounts and makes the disk durable unless the power is off.
    pub stop: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

impl Control {
    /// Serves every connection on its own thread.
    pub fn serve(self, listener: UnixListener) {
        let control = Arc::new(self);
        for stream in listener.incoming().flatten() {
            let control = control.clone();
            std::thread::spawn(move || control.converse(&stream));
        }
    }

    fn converse(&self, stream: &UnixStream) {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            let command = words.next().unwrap_or("");
            let outcome = self.obey(command, &Options::parse(words));
            let stopped = command == "stop" && outcome.is_ok();
            let answer = outcome.unwrap_or_else(|error| format!("{{\"error\": {error:?}}}"));
            // A caller that hung up does not want the answer.
            let _ = { stream }.write_all(format!("{answer}\n").as_bytes());
            if stopped {
                std::process::exit(0);
            }
        }
    }

    fn obey(&self, command: &str, options: &Options) -> Result<String, String> {
        let done = Ok("{}".to_owned());
        match command {
            "stats" => return Ok(self.stats()),
            "cut" => return self.cut(options),
            "fault" => self.disk.faults.add(rule(options)?),
            "clear" => {
                self.disk.faults.clear();
                self.disk.space.limit(None);
            }
            "enospc" => match options.get("after") {
                Some("off") => self.disk.space.limit(None),
                _ => self.disk.space.limit(Some(options.number("after")?.unwrap_or(0))),
            },
            "stop" => (self.stop)().map_err(|error| error.to_string())?,
            other => return Err(format!("unknown command {other}")),
        }
        done
    }

    fn cut(&self, options: &Options) -> Result<String, String> {
        let cut = Cut {
            files: match options.get("files").unwrap_or("random") {
                "random" => None,
                "drop" => Some(Fate::Drop),
                "keep" => Some(Fate::Keep),
                "subset" => Some(Fate::Subset),
                "torn" => Some(Fate::Torn),
                other => return Err(format!("files={other}")),
            },
            directories: match options.get("names").unwrap_or("random") {
                "random" => None,
                "drop" => Some(false),
                "keep" => Some(true),
                other => return Err(format!("names={other}")),
            },
            order: match options.get("order").unwrap_or("prefix") {
                "prefix" => Order::Prefix,
                "any" => Order::Any,
                other => return Err(format!("order={other}")),
            },
            seed: options.number("seed")?.unwrap_or(0),
        };
        let report = self.disk.cut(cut).map_err(|error| error.to_string())?;
        for ino in self.disk.files() {
            // Fails for inodes that the kernel does not know: nothing of them is cached then.
            let _ = self.notifier.inval_inode(INodeNo(ino), 0, 0);
        }
        Ok(told(&report))
    }

    fn stats(&self) -> String {
        let mut all: Vec<(&str, u64)> = self.disk.counters.list();
        let (pages, names) = self.disk.unsynced();
        all.extend([("unsynced_pages", pages), ("unsynced_names", names)]);
        all.push(("used_bytes", self.disk.space.used()));
        object(&all)
    }
}

fn told(report: &Report) -> String {
    object(&[
        ("files_unsynced", report.files_unsynced),
        ("pages_kept", report.pages.kept),
        ("pages_dropped", report.pages.dropped),
        ("pages_torn", report.pages.torn),
        ("names_unsynced", report.names_unsynced),
        ("names_kept", report.names_kept),
    ])
}

fn object(fields: &[(&str, u64)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    format!("{{{}}}", fields.join(", "))
}

fn rule(options: &Options) -> Result<Rule, String> {
    let op = match options.get("op").unwrap_or("fsync") {
        "fsync" => Op::Fsync,
        "read" => Op::Read,
        "write" => Op::Write,
        other => return Err(format!("op={other}")),
    };
    let effect = match options.number("slow_ms")? {
        Some(_) if op != Op::Fsync => return Err("slow_ms is for op=fsync only".to_owned()),
        Some(time) => Effect::Slow(Duration::from_millis(time)),
        None => Effect::Eio,
    };
    let pattern = options.get("path").unwrap_or("*").to_owned();
    Ok(Rule { op, effect, pattern, left: options.number("count")? })
}

/// `name=value` words of a command.
struct Options(Vec<(String, String)>);

impl Options {
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let split = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        };
        Self(words.map(split).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error| format!("{name}={text}: {error}"))
    }
}
