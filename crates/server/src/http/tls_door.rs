//! HTTP over TLS: a listener whose handshakes run beside each other, few at a time and not for long.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    startup::Startup,
    tls::{Certificates, Failure},
};

/// Handshakes at a time; further clients wait in the kernel.
const HANDSHAKES_MAX: usize = 32;
/// How long accepting rests after it failed.
const PAUSE: Duration = Duration::from_millis(100);

type Ready = (TlsStream<TcpStream>, SocketAddr);

/// See the module's head.
pub(super) struct TlsDoor {
    listener: TcpListener,
    certificates: Arc<Certificates>,
    startup: Arc<Startup>,
    handshakes: JoinSet<Option<Ready>>,
}

impl TlsDoor {
    pub(super) fn new(
        listener: TcpListener,
        certificates: Arc<Certificates>,
        startup: Arc<Startup>,
    ) -> TlsDoor {
        TlsDoor { listener, certificates, startup, handshakes: JoinSet::new() }
    }

    fn shake_hands(&mut self, socket: TcpStream, addr: SocketAddr) {
        let acceptor = TlsAcceptor::from(self.certificates.current());
        let startup = self.startup.clone();
        let bound = Duration::from_secs(startup.config.tls_handshake_seconds_max);
        let began = std::time::Instant::now();
        self.handshakes.spawn(async move {
            let metrics = &startup.metrics.tls;
            match timeout(bound, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => {
                    metrics.handshakes.add(began.elapsed().as_micros() as u64, 1);
                    return Some((stream, addr));
                }
                Ok(Err(error)) => metrics.fail(Failure::of_io(&error)),
                Err(_) => metrics.fail(Failure::TimedOut),
            }
            None
        });
    }
}

impl Listener for TlsDoor {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Ready {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(ready)) = ended {
                        return ready;
                    }
                }
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    match accepted {
                        Ok((socket, addr)) => self.shake_hands(socket, addr),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
