//! The connection to the log servers: a small runtime of its own behind blocking calls.
//!
//! Everything here may be called from any thread outside of an async runtime. A refusal that the
//! server does not answer (a missing permission) arrives as an event: it is told in the log, since the
//! caller sees a time-out only.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{
    Client, ConnectOptions, Event, ReconnectToServer, Server, ServerError, ServerInfo,
    jetstream::{Context, context::ContextBuilder},
};
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_log::LogError;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use crate::{JetStreamOptions, patience::Patience};

/// The servers that this is written for: group commit under `sync_interval: always` came with it.
const VERSION_MIN: (u64, u64) = (2, 15);
/// How long one request waits for its answer. While a leader is elected there is none, and a request that was
/// sent before is not answered later either: it is sent again.
pub(crate) const TRY_FOR: Duration = Duration::from_secs(2);
/// How long a read of the log waits for its first message. Any copy may be asked, that of a server that stands
/// still or was cut off as well, until the others know that; the next try asks another one by chance.
const READ_BEGINS_WITHIN: Duration = Duration::from_millis(500);
/// Between two tries of what was refused at once.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Appends in flight over all sessions.
const APPENDS_MAX: usize = 4096;
/// Bytes of messages that one request asks for, and how many of them.
const FETCH_BYTES: usize = 8 << 20;
const FETCH_MESSAGES: usize = 512;

/// See the module's head.
pub(crate) struct Connection {
    runtime: Runtime,
    client: Client,
    context: Context,
    request_timeout: Duration,
    /// With one server there is none to go to.
    is_only_server: bool,
    next: NextServer,
    /// Two locks of their own, never held over the network.
    requests: Mutex<Patience>,
    appends: Mutex<Patience>,
}

/// Says which server is tried next when one was left. Left to itself, the client goes back to the one that
/// failed least often to connect, and that is the one that answers nothing.
#[derive(Clone, Default)]
struct NextServer {
    turn: Arc<AtomicUsize>,
    is_wanted: Arc<AtomicBool>,
}

impl NextServer {
    fn want(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.is_wanted.store(true, Ordering::Release);
    }

    /// The one whose turn it is, once; none: the client chooses.
    fn take(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let is_wanted = self.is_wanted.swap(false, Ordering::AcqRel);
        let at = self.turn.load(Ordering::Relaxed) % servers.len().max(1);
        let server = servers.get(at).filter(|_| is_wanted)?;
        Some(ReconnectToServer { addr: server.addr.clone(), delay: Some(Duration::ZERO) })
    }
}

/// A message of a stream.
pub(crate) struct Stored {
    pub sequence: u64,
    pub bytes: Bytes,
}

/// An error of the log servers, in the form that callers know.
pub(crate) fn failed(what: &str, error: impl std::fmt::Display) -> LogError {
    LogError::Io(io::Error::other(format!("{what}: {error}")))
}

impl Connection {
    pub fn open(options: &JetStreamOptions) -> Result<Connection, LogError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("log-net")
            .enable_all()
            .build()?;
        let next = NextServer::default();
        let settings = connect_options(options, next.clone())?;
        let connected = runtime.block_on(async {
            let connect = async_nats::connect_with_options(&options.servers[..], settings);
            tokio::time::timeout(options.request_timeout, connect).await
        });
        let client = connected
            .map_err(|_| failed("connecting to the log servers", "no answer in time"))?
            .map_err(|error| failed("connecting to the log servers", error))?;
        let context = {
            // Its builder starts a task.
            let _inside = runtime.enter();
            ContextBuilder::new()
                .timeout(TRY_FOR)
                .max_ack_inflight(APPENDS_MAX)
                .backpressure_on_inflight(true)
                .build(client.clone())
        };
        let connection = Connection {
            runtime,
            client,
            context,
            request_timeout: options.request_timeout,
            is_only_server: options.servers.len() == 1,
            next,
            requests: Mutex::default(),
            appends: Mutex::default(),
        };
        connection.check_server(options)?;
        Ok(connection)
    }

    fn check_server(&self, options: &JetStreamOptions) -> Result<(), LogError> {
        let info = self.client.server_info();
        let mut numbers = info.version.split('.').map_while(|word| word.parse().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < VERSION_MIN {
            let (major, minor) = VERSION_MIN;
            let what = format!("the log server is {}: {major}.{minor} is the least", info.version);
            return Err(LogError::Invalid(what));
        }
        let needed = options.message_bytes_max + crate::message::HEADER_BYTES + 1024;
        if info.max_payload < needed {
            let what = format!(
                "the log server's max_payload is {}: {needed} are needed",
                info.max_payload
            );
            return Err(LogError::Invalid(what));
        }
        Ok(())
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Runs this to its end on the connection's own runtime.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Sends a request until it is answered, within the time for requests. It must be one that may be
    /// carried out twice. Errors for which `gives_up` holds are answers.
    pub fn ask<T, E: std::fmt::Display, W: Future<Output = Result<T, E>>>(
        &self,
        request: impl Fn() -> W,
        gives_up: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let deadline = Instant::now() + self.request_timeout;
        loop {
            let sent = Instant::now();
            let error = match self.wait(request()) {
                Ok(answer) => {
                    self.requests.lock().done();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if gives_up(&error) {
                self.requests.lock().done();
                return Err(error);
            }
            self.note_failure(&self.requests, sent);
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(RETRY_AFTER);
        }
    }

    /// What became of a message that was sent to be appended at `sent`: a refusal may be that of a leader
    /// which the others do not follow any more.
    pub fn note_append(&self, sent: Instant, is_taken: bool) {
        if is_taken {
            self.appends.lock().done();
        } else {
            self.note_failure(&self.appends, sent);
        }
    }

    fn note_failure(&self, patience: &Mutex<Patience>, sent: Instant) {
        let is_over = patience.lock().is_over(sent, Instant::now());
        if is_over && !self.is_only_server {
            tracing::warn!("this log server takes nothing: going to another one");
            self.leave_server();
        }
    }

    /// Connects anew until it is to another server, for some seconds at most. What waits for an answer does
    /// not get it.
    fn leave_server(&self) {
        let left = self.client.server_info();
        let mut last = left.clone();
        let deadline = Instant::now() + TRY_FOR;
        loop {
            self.next.want();
            if self.wait(self.client.force_reconnect()).is_err() {
                return;
            }
            // A connection has a number of its own at its server.
            let is_last = |info: &ServerInfo| {
                (&info.server_id, info.client_id) == (&last.server_id, last.client_id)
            };
            while is_last(&self.client.server_info()) {
                if Instant::now() > deadline {
                    return;
                }
                std::thread::sleep(RETRY_AFTER);
            }
            last = self.client.server_info();
            if last.server_id != left.server_id || Instant::now() > deadline {
                return;
            }
        }
    }

    /// Messages of a stream from this sequence on: some, or none if there are none yet. Any copy may
    /// answer, so the last ones may be missing; what is there is durable.
    pub fn fetch(&self, stream: &str, from: u64) -> Result<Vec<Stored>, LogError> {
        let wish = serde_json::json!({
            "seq": from, "batch": FETCH_MESSAGES, "max_bytes": FETCH_BYTES,
        });
        let fetched = self.ask(|| self.try_direct(stream, &wish, READ_BEGINS_WITHIN), |_| false);
        let stored = fetched.and_then(|messages| messages.into_iter().map(stored_in).collect());
        stored.map(without_gap).map_err(|error| failed("reading the log", error))
    }

    /// What a stream holds of a wish (NATS, ADR-31): asked for once.
    pub fn get_direct(
        &self,
        stream: &str,
        wish: &serde_json::Value,
    ) -> io::Result<Vec<async_nats::Message>> {
        self.wait(self.try_direct(stream, wish, TRY_FOR))
    }

    async fn try_direct(
        &self,
        stream: &str,
        wish: &serde_json::Value,
        begins_within: Duration,
    ) -> io::Result<Vec<async_nats::Message>> {
        let replies = self.direct(stream, wish, begins_within);
        let answered = tokio::time::timeout(TRY_FOR, replies).await;
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn direct(
        &self,
        stream: &str,
        wish: &serde_json::Value,
        begins_within: Duration,
    ) -> io::Result<Vec<async_nats::Message>> {
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(other)?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let wish = Bytes::from(wish.to_string());
        self.client.publish_with_reply(subject, inbox, wish).await.map_err(other)?;
        let mut stored = Vec::new();
        let mut within = begins_within;
        while let Some(reply) = tokio::time::timeout(within, replies.next()).await? {
            within = TRY_FOR;
            match reply.status.map(|status| status.as_u16()) {
                None => stored.push(reply),
                // The end of the batch, or nothing there.
                Some(204 | 404) => break,
                Some(status) => {
                    let why = reply.description.unwrap_or_default();
                    return Err(other(format!("status {status} {why}")));
                }
            }
        }
        Ok(stored)
    }
}

/// What comes before the first gap: replies are lost when a connection between servers breaks, and what lies behind a
/// lost one is to be asked for again, not taken for its neighbour.
fn without_gap(mut stored: Vec<Stored>) -> Vec<Stored> {
    let follows = |pair: &[Stored]| pair[1].sequence == pair[0].sequence + 1;
    let kept = stored.windows(2).take_while(|pair| follows(pair)).count() + 1;
    stored.truncate(kept);
    stored
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn stored_in(reply: async_nats::Message) -> io::Result<Stored> {
    let headers = reply.headers.as_ref();
    let sequence = headers.and_then(|headers| headers.get("Nats-Sequence"));
    let sequence = sequence.and_then(|value| value.as_str().parse().ok());
    let sequence = sequence.ok_or_else(|| other("a message without its sequence"))?;
    Ok(Stored { sequence, bytes: reply.payload })
}

fn connect_options(
    options: &JetStreamOptions,
    next: NextServer,
) -> Result<ConnectOptions, LogError> {
    let mut settings = ConnectOptions::new()
        .name("holdfast")
        .ping_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(2))
        .request_timeout(Some(TRY_FOR))
        .max_reconnects(None)
        .reconnect_delay_callback(|tries| Duration::from_millis(50 << tries.min(5)))
        .reconnect_to_server_callback(move |servers, _| {
            let next = next.take(&servers);
            async move { next }
        })
        .event_callback(|event| async move { tell(&event) });
    if let Some(file) = &options.nkey_seed_file {
        let seed = std::fs::read_to_string(file).map_err(|error| {
            let what = format!("the nkey's seed in {}: {error}", file.display());
            LogError::Io(io::Error::new(error.kind(), what))
        })?;
        settings = settings.nkey(seed.trim().to_owned());
    }
    if let Some(tls) = &options.tls {
        settings = settings.require_tls(true).add_root_certificates(tls.ca.clone());
        if let Some((certificate, key)) = &tls.identity {
            settings = settings.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    Ok(settings)
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to a log server"),
        Event::Disconnected => tracing::warn!("the connection to the log server is lost"),
        Event::ServerError(ServerError::AuthorizationViolation) => {
            tracing::error!("the log servers do not accept this node's credentials");
        }
        Event::ServerError(error) => tracing::error!(%error, "a log server refused something"),
        event => tracing::info!(%event, "log server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_a_lost_reply_is_not_taken() {
        let kept = |sequences: &[u64]| {
            let stored = sequences.iter().map(|&sequence| Stored { sequence, bytes: Bytes::new() });
            without_gap(stored.collect()).iter().map(|one| one.sequence).collect::<Vec<_>>()
        };
        assert!(kept(&[]).is_empty());
        assert_eq!(kept(&[7]), [7]);
        assert_eq!(kept(&[7, 8, 9]), [7, 8, 9]);
        assert_eq!(kept(&[7, 8, 10, 11]), [7, 8]);
        assert_eq!(kept(&[7, 9]), [7]);
        assert_eq!(kept(&[7, 8, 8]), [7, 8]);
    }
}
