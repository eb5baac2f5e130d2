//! `/metrics` of a node under some load is well-formed to the letter, and alerts and runbooks hang
//! together: a rule names metrics that exist and a page that exists, and a page has a drill.
//!
//! Each check is itself checked with a planted mistake.

mod exposition;
mod rules;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use exposition::{Kind, Page};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A node of its own, which ends with the test.
struct Server {
    process: Child,
    redis: String,
    http: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let data = tempfile::tempdir().expect("a folder can be made");
        let mut process = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["serve", "--redis", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary was built for this test");
        let out = process.stdout.take().expect("it is piped");
        let mut ready = String::new();
        BufReader::new(out).read_line(&mut ready).expect("it becomes ready");
        let address = |name: &str| {
            let word = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("{name} in {ready:?}")).to_string()
        };
        Server { redis: address("redis="), http: address("http="), process, _data: data }
    }

    /// Sends inline commands and waits for as many lines of reply.
    fn run(&self, commands: &[&str]) {
        let mut socket = TcpStream::connect(&self.redis).expect("it listens");
        socket.write_all((commands.join("\r\n") + "\r\n").as_bytes()).expect("it reads");
        let mut lines = BufReader::new(socket).lines();
        for command in commands {
            let reply = lines.next().expect("a reply").expect("a line");
            assert!(!reply.starts_with('-'), "{command}: {reply}");
        }
    }

    fn scrape(&self) -> String {
        let mut socket = TcpStream::connect(&self.http).expect("it listens");
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers in UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        body.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Names of all samples that a page may hold, from the program's own list.
fn declared() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).arg("metrics").output();
    let list = String::from_utf8(output.expect("the binary was built for this test").stdout);
    let list = list.expect("the list is text");
    let rows = list.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once("` | ")).flat_map(|(name, rest)| {
        let suffixes: &[&str] =
            if rest.starts_with("histogram") { &["_bucket", "_sum", "_count"] } else { &[""] };
        suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
    });
    names.collect()
}

#[test]
fn every_sample_of_a_page_is_declared() {
    let page = Page::parse(&Server::start().scrape()).unwrap_or_else(|error| panic!("{error}"));
    let declared = declared();
    assert!(declared.len() > 60, "{declared:?}");
    let strange: Vec<_> = page.sample_names().difference(&declared).cloned().collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn the_page_is_well_formed_and_counts_what_was_done() {
    let server = Server::start();
    let before = Page::parse(&server.scrape()).unwrap_or_else(|error| panic!("{error}"));
    server.run(&["SET a 1", "SET b 2", "INCR a", "SETEX c 100 x", "EXISTS a", "EXISTS nothing"]);
    let after = Page::parse(&server.scrape()).unwrap_or_else(|error| panic!("{error}"));
    let grown = |sample: &str| after.value(sample) - before.value(sample);
    assert_eq!(grown("holdfast_command_seconds_count{family=\"write\"}"), 4.0);
    assert_eq!(grown("holdfast_command_seconds_count{family=\"read\"}"), 2.0);
    assert_eq!(grown("holdfast_log_group_records_sum"), 4.0);
    assert!(grown("holdfast_log_group_bytes_sum") >= 4.0 * 20.0);
    let groups = grown("holdfast_log_groups_total");
    assert!((1.0..=4.0).contains(&groups), "{groups}");
    for histogram in ["log_commit_seconds", "log_group_records", "log_group_bytes"] {
        assert_eq!(grown(&format!("holdfast_{histogram}_count")), groups, "{histogram}");
    }
    // A sync for each group, and watermarks.
    assert!(grown("holdfast_log_sync_seconds_count") >= groups);
    assert_eq!(grown("holdfast_keyspace_keys{keyspace=\"0\"}"), 3.0);
    assert_eq!(grown("holdfast_durable_lsn"), 4.0);
    for owner in ["process", "allocated", "allocator", "memtables"] {
        let bytes = after.value(&format!("holdfast_memory_bytes{{owner=\"{owner}\"}}"));
        assert!(bytes > 0.0, "{owner}");
    }
    for family in after.families() {
        if family.kind == Kind::Counter || family.kind == Kind::Histogram {
            for (sample, value) in &family.samples {
                assert!(before.get(sample).is_none_or(|was| was <= *value), "{sample} shrank");
            }
        }
    }
}

#[test]
fn every_rule_names_metrics_and_a_page_that_exist_and_every_page_has_a_drill() {
    let metrics = declared();
    let text = std::fs::read_to_string(root().join("deploy/alerts/holdfast.yml"));
    let text = text.expect("the rules are there");
    let faults = rules::faults(&text, &metrics, &root());
    assert!(faults.is_empty(), "{faults:#?}");
    // The same text with one mistake of each sort planted.
    for (right, wrong) in [
        ("holdfast_log_failed ", "holdfast_log_faild "),
        ("holdfast_log_commit_seconds_bucket", "holdfast_log_commit_seconds_buckets"),
        ("docs/runbooks/disk-full.md", "docs/runbooks/disk-ful.md"),
    ] {
        assert!(text.contains(right), "{right} is no longer in the rules: plant another mistake");
        let faults = rules::faults(&text.replacen(right, wrong, 1), &metrics, &root());
        assert_eq!(faults.len(), 1, "{wrong}: {faults:#?}");
    }
}
