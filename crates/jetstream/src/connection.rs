//! The connection to the log servers: a small runtime of its own behind blocking calls.
//!
//! Everything here may be called from any thread outside of an async runtime. A refusal that the
//! server does not answer (a missing permission) arrives as an event: it is told in the log, since the
//! caller sees a time-out only.

use std::{
    future::Future,
    io,
    time::{Duration, Instant},
};

use async_nats::{
    Client, ConnectOptions, Event, ServerError,
    jetstream::{Context, context::ContextBuilder},
};
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_log::LogError;
use tokio::runtime::{Builder, Runtime};

use crate::JetStreamOptions;

/// The servers that this is written for: group commit under `sync_interval: always` came with it.
const VERSION_MIN: (u64, u64) = (2, 15);
/// How long one request waits for its answer. While a leader is elected there is none, and a request that was
/// sent before is not answered later either: it is sent again.
pub(crate) const TRY_FOR: Duration = Duration::from_secs(2);
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
        let settings = connect_options(options)?;
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
        let connection =
            Connection { runtime, client, context, request_timeout: options.request_timeout };
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
            let error = match self.wait(request()) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if gives_up(&error) || Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(RETRY_AFTER);
        }
    }

    /// Messages of a stream from this sequence on: some, or none if there are none yet. Any copy may
    /// answer, so the last ones may be missing; what is there is durable.
    pub fn fetch(&self, stream: &str, from: u64) -> Result<Vec<Stored>, LogError> {
        let wish = serde_json::json!({
            "seq": from, "batch": FETCH_MESSAGES, "max_bytes": FETCH_BYTES,
        });
        let fetched = self.ask(|| self.try_direct(stream, &wish), |_| false);
        let stored = fetched.and_then(|messages| messages.into_iter().map(stored_in).collect());
        stored.map_err(|error| failed("reading the log", error))
    }

    /// What a stream holds of a wish (NATS, ADR-31): asked for once.
    pub fn get_direct(
        &self,
        stream: &str,
        wish: &serde_json::Value,
    ) -> io::Result<Vec<async_nats::Message>> {
        self.wait(self.try_direct(stream, wish))
    }

    async fn try_direct(
        &self,
        stream: &str,
        wish: &serde_json::Value,
    ) -> io::Result<Vec<async_nats::Message>> {
        let answered = tokio::time::timeout(TRY_FOR, self.direct(stream, wish)).await;
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn direct(
        &self,
        stream: &str,
        wish: &serde_json::Value,
    ) -> io::Result<Vec<async_nats::Message>> {
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(other)?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let wish = Bytes::from(wish.to_string());
        self.client.publish_with_reply(subject, inbox, wish).await.map_err(other)?;
        let mut stored = Vec::new();
        while let Some(reply) = replies.next().await {
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

fn connect_options(options: &JetStreamOptions) -> Result<ConnectOptions, LogError> {
    let mut settings = ConnectOptions::new()
        .name("holdfast")
        .ping_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(2))
        .request_timeout(Some(TRY_FOR))
        .max_reconnects(None)
        .reconnect_delay_callback(|tries| Duration::from_millis(50 << tries.min(5)))
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
