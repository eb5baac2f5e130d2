//! `holdfast serve`: runs a node until SIGTERM or SIGINT, then drains and flushes; SIGHUP takes changed
//! certificates.

use std::{
    io::Write as _,
    ops::ControlFlow,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use holdfast_server::{Node, OpenProgress, PortPolicy};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{self, SignalKind},
};
use tracing_subscriber::EnvFilter;

use crate::config::Sources;

/// Arguments of `holdfast serve`.
#[derive(Args)]
#[command(after_help = "Examples:\n  holdfast serve\n  holdfast serve --data /var/lib/holdfast \
                        --redis 0.0.0.0:6379 --set memory=8GiB\n  holdfast serve --ports auto\n\n\
                        When ready it prints one line on standard output:\n  \
                        ready redis=HOST:PORT http=HOST:PORT\n\
                        with redis-tls=HOST:PORT and http-tls=HOST:PORT where TLS is spoken.")]
pub struct ServeArgs {
    #[command(flatten)]
    sources: Sources,
    /// What to do when a port is in use.
    #[arg(long, value_enum, default_value_t = Ports::AsConfigured)]
    ports: Ports,
    /// How logs are written to standard error; what is logged: HOLDFAST_LOG=info,holdfast=debug.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ports {
    /// Refuse, and name who holds it.
    AsConfigured,
    /// Pick free ones.
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}

/// Between two looks whether the data is to be handed over.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Runs a node until it is told to stop.
pub fn run(args: ServeArgs) -> Result<(), String> {
    start_logging(args.log_format);
    end_on_panic();
    raise_file_limit();
    // Signals are caught before anything starts, so that an early one is not lost.
    let mut signals = Signals::catch()?;
    let config = args.sources.load()?;
    let policy = match args.ports {
        Ports::AsConfigured => PortPolicy::AsConfigured,
        Ports::Auto => PortPolicy::Auto,
    };
    let mut told = Instant::now();
    let mut stood_by = 0;
    let mut early_stop = None;
    let node = Node::start(config, policy, |progress| {
        match progress {
            OpenProgress::Replaying { done, total } => {
                if done == total || told.elapsed() > PROGRESS_EVERY {
                    told = Instant::now();
                    tracing::info!(done, total, "replaying the log");
                }
            }
            OpenProgress::Fetching { done, total } => {
                if done == total || told.elapsed() > PROGRESS_EVERY {
                    told = Instant::now();
                    tracing::info!(done, total, "fetching a backup, in bytes");
                }
            }
            OpenProgress::StandingBy { epoch, .. } => {
                if std::mem::replace(&mut stood_by, epoch) != epoch {
                    tracing::info!(epoch, "standing by: another node owns the data");
                }
                early_stop = signals.stop_by_now();
            }
        }
        if early_stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|error| error.to_string())?;
    let Some(node) = node else {
        let signal = early_stop.unwrap_or_default();
        tracing::info!(signal, "stopped while standing by");
        return Ok(());
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {}", node.addresses())
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {error}"))?;
    drop(out);
    let signal = loop {
        match signals.next(LOOK_EVERY) {
            Signal::Stop(name) => break name,
            Signal::Reload => node.reload_certificates(),
            Signal::None if node.is_asked_to_hand_over() => break "HANDOVER",
            Signal::None => {}
        }
    };
    tracing::info!(signal, "stopping: draining and flushing");
    node.stop().map_err(|error| error.to_string())?;
    tracing::info!("stopped");
    if node.is_asked_to_hand_over() { start_again() } else { Ok(()) }
}

/// The same program with the same arguments, in this process: it stands by then.
fn start_again() -> Result<(), String> {
    let error = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
    Err(format!("starting again after the data was handed over: {error}"))
}

/// A panic is a broken invariant: the process ends at once, and the next start replays what is durable.
/// A node that went on without one of its threads would look alive and serve nobody.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// Connections and table files each take a descriptor: use what the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What a signal asks for.
enum Signal {
    /// By the signal's name.
    Stop(&'static str),
    Reload,
    /// None has come in time.
    None,
}

/// SIGTERM, SIGINT and SIGHUP, caught from the moment on that this is made.
pub(crate) struct Signals {
    runtime: Runtime,
    term: unix::Signal,
    int: unix::Signal,
    hup: unix::Signal,
}

impl Signals {
    pub(crate) fn catch() -> Result<Signals, String> {
        let failed = |error: std::io::Error| format!("signals: {error}");
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let inside = runtime.enter();
        let [term, int, hup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
                .map(|kind| unix::signal(kind).map_err(failed));
        let (term, int, hup) = (term?, int?, hup?);
        drop(inside);
        Ok(Signals { runtime, term, int, hup })
    }

    /// The signal to stop, if one has come. Others that came are dropped: nothing is read again yet.
    pub(crate) fn stop_by_now(&mut self) -> Option<&'static str> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = self.term.recv() => Some("SIGTERM"),
                _ = self.int.recv() => Some("SIGINT"),
                // The runtime sees signals only when it waits.
                () = tokio::time::sleep(Duration::from_millis(1)) => None,
            }
        })
    }

    /// Waits for the next, for so long.
    fn next(&mut self, patience: Duration) -> Signal {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.term.recv() => Signal::Stop("SIGTERM"),
                _ = self.int.recv() => Signal::Stop("SIGINT"),
                _ = self.hup.recv() => Signal::Reload,
                () = tokio::time::sleep(patience) => Signal::None,
            }
        })
    }
}
