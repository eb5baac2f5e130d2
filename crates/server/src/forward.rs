//! Clients that know nothing of clusters, at a node that stands by: their connections are passed on to the owner,
//! byte by byte. All of the protocol, logging in included, is the owner's.
//!
//! A connection ends with the owner's; the client's next one goes where the data is then. A thread and a runtime
//! of its own: nothing here is on the way of a request that this node answers.

use std::{
    io,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::TcpStream as AsyncStream,
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
};

use crate::clients::{ClientInfo, Clients};

/// Bytes that a connection holds in each direction.
const BUFFER_BYTES: usize = 8 << 10;
/// How long connecting to the owner may take.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Connections that wait to be passed on.
const QUEUE: usize = 1024;

/// A client's connection, and where it goes.
struct Passed {
    socket: TcpStream,
    client: Arc<ClientInfo>,
    owner: String,
}

/// See the module's head. Dropping it ends all of its connections.
pub(crate) struct Forwarder {
    queue: Sender<Passed>,
    clients: Arc<Clients>,
    open: Arc<AtomicU64>,
    open_max: u64,
}

/// Counts an open connection while it lives.
struct Counted {
    client: Arc<ClientInfo>,
    clients: Arc<Clients>,
    open: Arc<AtomicU64>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.clients.disconnect(self.client.id);
    }
}

impl Forwarder {
    /// For connections that hold no more than so many bytes together; `open` counts them.
    pub(crate) fn start(
        clients: Arc<Clients>,
        open: Arc<AtomicU64>,
        bytes_max: u64,
    ) -> io::Result<Forwarder> {
        let (queue, waiting) = channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let counting = (clients.clone(), open.clone());
        let run = move || runtime.block_on(pass_on(waiting, counting));
        std::thread::Builder::new().name("forward".into()).spawn(run)?;
        let open_max = bytes_max / (2 * BUFFER_BYTES as u64);
        Ok(Forwarder { queue, clients, open, open_max })
    }

    /// Whether one more has room.
    pub(crate) fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed) < self.open_max
    }

    /// Passes a connection on.
    pub(crate) fn take(&self, socket: TcpStream, client: Arc<ClientInfo>, owner: String) {
        match self.queue.try_send(Passed { socket, client, owner }) {
            Ok(()) => {}
            Err(TrySendError::Full(passed) | TrySendError::Closed(passed)) => {
                self.clients.disconnect(passed.client.id);
            }
        }
    }
}

async fn pass_on(mut waiting: Receiver<Passed>, (clients, open): (Arc<Clients>, Arc<AtomicU64>)) {
    while let Some(Passed { socket, client, owner }) = waiting.recv().await {
        open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { client, clients: clients.clone(), open: open.clone() };
        tokio::spawn(async move {
            let ended = between(socket, &owner).await;
            if let Err(error) = ended {
                tracing::debug!(%error, owner, client = counted.client.id, "a passed connection ended");
            }
            drop(counted);
        });
    }
}

async fn between(socket: TcpStream, owner: &str) -> io::Result<()> {
    let mut client = AsyncStream::from_std(socket)?;
    let connecting = tokio::time::timeout(CONNECT_WAIT, AsyncStream::connect(owner));
    let mut server = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}
