//! Who is connected: what CLIENT LIST and INFO tell of each connection.
//!
//! Written when a client connects, names itself or leaves; never on the way of a request.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// What is told of one connection.
pub(crate) struct ClientInfo {
    pub id: u64,
    pub addr: SocketAddr,
    pub over_tls: bool,
    connected_at_seconds: u64,
    /// Guards the texts below; a leaf in the lock order.
    texts: Mutex<Texts>,
}

#[derive(Default)]
struct Texts {
    name: String,
    library: String,
    library_version: String,
}

/// Longest name or library text that is kept.
const TEXT_BYTES_MAX: usize = 256;

fn bounded(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX).collect()
}

impl ClientInfo {
    pub(crate) fn name(&self) -> String {
        self.texts.lock().name.clone()
    }

    pub(crate) fn set_name(&self, name: &str) {
        self.texts.lock().name = bounded(name);
    }

    pub(crate) fn set_library(&self, name: Option<&str>, version: Option<&str>) {
        let mut texts = self.texts.lock();
        if let Some(name) = name {
            texts.library = bounded(name);
        }
        if let Some(version) = version {
            texts.library_version = bounded(version);
        }
    }

    /// One line of CLIENT LIST.
    pub(crate) fn line(&self, uptime_seconds: u64, keyspace: u16) -> String {
        let texts = self.texts.lock();
        format!(
            "id={} addr={} name={} age={} db={keyspace} lib-name={} lib-ver={}\n",
            self.id,
            self.addr,
            texts.name,
            uptime_seconds.saturating_sub(self.connected_at_seconds),
            texts.library,
            texts.library_version
        )
    }
}

/// All connections of a node.
#[derive(Default)]
pub(crate) struct Clients {
    next_id: AtomicU64,
    /// How many are in `connected`; asked for in every turn when memory is scarce.
    count: AtomicUsize,
    /// A leaf in the lock order.
    connected: Mutex<BTreeMap<u64, Arc<ClientInfo>>>,
}

impl Clients {
    pub(crate) fn connect(
        &self,
        addr: SocketAddr,
        uptime_seconds: u64,
        over_tls: bool,
    ) -> Arc<ClientInfo> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let texts = Mutex::new(Texts::default());
        let connected_at_seconds = uptime_seconds;
        let client = Arc::new(ClientInfo { id, addr, over_tls, connected_at_seconds, texts });
        self.connected.lock().insert(id, client.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        client
    }

    pub(crate) fn disconnect(&self, id: u64) {
        if self.connected.lock().remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Arc<ClientInfo>> {
        self.connected.lock().values().cloned().collect()
    }
}
