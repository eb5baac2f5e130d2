//! Whether the log servers sync before they acknowledge, which a client of theirs is not told.
//!
//! It is told on their monitoring addresses (`log.monitors`; `/varz` of a NATS server, its field
//! `jetstream.config.sync_always`). A server that says that it does not sync keeps a node from starting. One that
//! is silent does not: a majority is enough to run. It may come back with other settings, so all are
//! asked again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use holdfast_base::{Error, ErrorKind};
use serde::Deserialize;

use crate::{Config, node::Node};

/// For one server to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two rounds.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// A server tells some 5 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const REMEDY: &str = "run it with `jetstream { sync_interval: always }`: what it acknowledges now \
                      may be lost when the power fails";

/// What was heard when the log servers were asked last: so many servers of each kind.
#[derive(Default)]
pub(crate) struct LogServersHeard {
    pub synced: AtomicU64,
    pub unsynced: AtomicU64,
    pub silent: AtomicU64,
}

impl LogServersHeard {
    fn note(&self, said: &[(String, Said)]) {
        let count = |is: fn(&Said) -> bool| said.iter().filter(|(_, said)| is(said)).count() as u64;
        self.synced.store(count(|said| *said == Said::Syncs), Relaxed);
        self.unsynced.store(count(|said| *said == Said::DoesNotSync), Relaxed);
        self.silent.store(count(|said| matches!(said, Said::Nothing(_))), Relaxed);
    }
}

/// What one server said of itself.
#[derive(Debug, PartialEq)]
enum Said {
    Syncs,
    DoesNotSync,
    /// And why not.
    Nothing(String),
}

/// Refuses to start on a log server that says that it does not sync.
pub(crate) fn must_sync(config: &Config) -> Result<(), Error> {
    for (monitor, said) in ask_all(&config.log_monitors) {
        match said {
            Said::Syncs => {}
            Said::DoesNotSync => {
                let text =
                    format!("the log server at {monitor} acknowledges before it syncs: {REMEDY}");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            Said::Nothing(why) => {
                tracing::warn!(monitor, why, "whether this log server syncs is not known yet");
            }
        }
    }
    Ok(())
}

/// The loop of the thread that asks on.
pub(crate) fn run(node: &Arc<Node>) {
    while !node.is_stopping() {
        let said = ask_all(&node.config.log_monitors);
        for (monitor, _) in said.iter().filter(|(_, said)| *said == Said::DoesNotSync) {
            tracing::error!(monitor, "this log server acknowledges before it syncs: {REMEDY}");
        }
        node.log_servers.note(&said);
        node.park_background(ASK_EVERY);
    }
}

fn ask_all(monitors: &[String]) -> Vec<(String, Said)> {
    if monitors.is_empty() {
        return Vec::new();
    }
    let nothing =
        |why: String| monitors.iter().map(move |one| (one.clone(), Said::Nothing(why.clone())));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return nothing(error.to_string()).collect(),
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return nothing(error.to_string()).collect(),
    };
    // All at once: those that are silent cost their time together.
    let asked: Vec<_> =
        monitors.iter().map(|one| runtime.spawn(ask(client.clone(), one.clone()))).collect();
    let said = asked.into_iter().map(|answer| match runtime.block_on(answer) {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => Said::Nothing(error.to_string()),
        Err(error) => Said::Nothing(error.to_string()),
    });
    monitors.iter().cloned().zip(said).collect()
}

async fn ask(client: reqwest::Client, monitor: String) -> Result<Said, reqwest::Error> {
    let address = format!("{}/varz", monitor.trim_end_matches('/'));
    let mut answer = client.get(address).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(more) = answer.chunk().await? {
        if bytes.len() + more.len() > ANSWER_BYTES_MAX {
            return Ok(Said::Nothing("its answer is too long".to_owned()));
        }
        bytes.extend_from_slice(&more);
    }
    Ok(said_in(&bytes))
}

/// The part of `/varz` that counts.
#[derive(Deserialize)]
struct Varz {
    #[serde(default)]
    jetstream: JetStream,
}

#[derive(Default, Deserialize)]
struct JetStream {
    /// Absent until the server has its storage open.
    config: Option<Storage>,
}

#[derive(Deserialize)]
struct Storage {
    #[serde(default)]
    sync_always: bool,
}

fn said_in(bytes: &[u8]) -> Said {
    match serde_json::from_slice::<Varz>(bytes).map(|varz| varz.jetstream.config) {
        Ok(Some(Storage { sync_always: true })) => Said::Syncs,
        Ok(Some(Storage { sync_always: false })) => Said::DoesNotSync,
        Ok(None) => Said::Nothing("it does not say how it stores".to_owned()),
        Err(error) => Said::Nothing(format!("its answer is not a log server's: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_syncs_only_if_it_says_so() {
        let config = |text: &str| said_in(format!("{{\"jetstream\":{{{text}}}}}").as_bytes());
        assert_eq!(
            config(r#""config":{"sync_interval":120000000000,"sync_always":true}"#),
            Said::Syncs
        );
        assert_eq!(config(r#""config":{"sync_interval":60000000000}"#), Said::DoesNotSync);
        assert_eq!(config(r#""config":{"sync_always":false}"#), Said::DoesNotSync);
        for nothing in ["", r#""config":null"#, r#""config":{"sync_always":1}"#] {
            assert!(matches!(config(nothing), Said::Nothing(_)), "{nothing}");
        }
        assert!(matches!(said_in(b"{}"), Said::Nothing(_)));
        assert!(matches!(said_in(b"<html>"), Said::Nothing(_)));
    }

    #[test]
    fn each_round_counts_anew() {
        let heard = LogServersHeard::default();
        let counted =
            || [&heard.synced, &heard.unsynced, &heard.silent].map(|count| count.load(Relaxed));
        let silent = || Said::Nothing("refused".to_owned());
        let said = [Said::Syncs, silent(), silent()].map(|said| ("http://a:1".to_owned(), said));
        heard.note(&said);
        assert_eq!(counted(), [1, 0, 2]);
        let said = [Said::Syncs, Said::Syncs, Said::DoesNotSync];
        heard.note(&said.map(|said| ("http://a:1".to_owned(), said)));
        assert_eq!(counted(), [2, 1, 0]);
    }
}
