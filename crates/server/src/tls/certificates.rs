//! The node's certificate, its key, and whose client certificates are accepted: read from files, and
//! read again when these change.
//!
//! A connection keeps what was in force when it was made. Files that cannot be taken change nothing:
//! they are told once, and counted. Tickets of resumed sessions are sealed with a key that ends with
//! the certificates they were made under, and take no memory of the node's.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_base::{Error, ErrorKind};
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};

use super::validity::not_after;
use crate::{Config, config::ClientCertificates, node::Node};

/// How often the files are looked at: an automatic renewal is in force soon enough.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Which files, and what is asked of clients.
struct Source {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    clients: ClientCertificates,
}

/// The files as they were read.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

type Fingerprint = [u8; 32];

/// What was last taken, and last refused.
struct Seen {
    taken: Fingerprint,
    refused: Option<Fingerprint>,
}

/// See the module's head.
pub(crate) struct Certificates {
    source: Source,
    /// In force. Taken at each new connection; a leaf in the lock order.
    current: Mutex<Arc<ServerConfig>>,
    /// Held while files are read, so that two reloads do not overtake each other.
    seen: Mutex<Seen>,
    not_after: AtomicI64,
    /// Certificates taken anew.
    pub reloads: AtomicU64,
    /// Changed files that could not be taken.
    pub reloads_failed: AtomicU64,
}

fn invalid(key: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("{key}: {}: {why}", path.display()))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let len = std::fs::metadata(path).map_err(|error| invalid(key, path, error))?.len();
    if len > FILE_BYTES_MAX {
        return Err(invalid(key, path, "larger than 1 MiB"));
    }
    std::fs::read(path).map_err(|error| invalid(key, path, error))
}

fn certificates(key: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| invalid(key, path, error))?;
    if all.is_empty() {
        return Err(invalid(key, path, "no certificate in it"));
    }
    Ok(all)
}

impl Source {
    fn read(&self) -> Result<Contents, Error> {
        Ok(Contents {
            certificate: read("tls.certificate_file", &self.certificate)?,
            key: read("tls.key_file", &self.key)?,
            client_ca: match self.clients {
                ClientCertificates::None => Vec::new(),
                _ => read("tls.client_ca_file", &self.client_ca)?,
            },
        })
    }

    /// What rustls makes of the files, and when the first certificate of the chain ends.
    fn build(&self, contents: &Contents) -> Result<(ServerConfig, i64), Error> {
        let (key, path) = ("tls.certificate_file", &self.certificate);
        let chain = certificates(key, path, &contents.certificate)?;
        let ends: Option<Vec<i64>> = chain.iter().map(|one| not_after(one)).collect();
        let first_end = ends.and_then(|ends| ends.into_iter().min());
        let first_end = first_end.ok_or_else(|| invalid(key, path, "its validity is not known"))?;
        let private = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| invalid("tls.key_file", &self.key, error))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        let builder = match self.clients {
            ClientCertificates::None => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(self.verifier(&contents.client_ca)?),
        };
        let mut config = builder
            .with_single_cert(chain, private)
            .map_err(|error| invalid(key, path, format!("with tls.key_file: {error}")))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new()
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        Ok((config, first_end))
    }

    fn verifier(&self, pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let (key, path) = ("tls.client_ca_file", &self.client_ca);
        let mut roots = RootCertStore::empty();
        for authority in certificates(key, path, pem)? {
            roots.add(authority).map_err(|error| invalid(key, path, error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.clients {
            ClientCertificates::Required => builder,
            _ => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| invalid(key, path, error))
    }
}

impl Contents {
    fn fingerprint(&self) -> Fingerprint {
        let mut all = Sha256::new();
        for file in [&self.certificate, &self.key, &self.client_ca] {
            all.update((file.len() as u64).to_le_bytes());
            all.update(file);
        }
        all.finalize().into()
    }
}

impl Certificates {
    /// Reads what the settings name. Errors name the setting and the file.
    pub(crate) fn load(config: &Config) -> Result<Certificates, Error> {
        let source = Source {
            certificate: config.tls_certificate_file.clone(),
            key: config.tls_key_file.clone(),
            client_ca: config.tls_client_ca_file.clone(),
            clients: config.tls_client_certificates,
        };
        let contents = source.read()?;
        let (built, first_end) = source.build(&contents)?;
        let seen = Seen { taken: contents.fingerprint(), refused: None };
        Ok(Certificates {
            source,
            current: Mutex::new(Arc::new(built)),
            seen: Mutex::new(seen),
            not_after: AtomicI64::new(first_end),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
        })
    }

    /// What a new connection works with.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.lock().clone()
    }

    /// When the certificate, or the first of its chain, ends: seconds since 1970.
    pub(crate) fn not_after(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }

    /// Takes the files if they have changed since they were last taken or refused. Whether they were
    /// taken.
    pub(crate) fn reload(&self) -> Result<bool, Error> {
        let mut seen = self.seen.lock();
        let contents = self.source.read();
        // Of what is wrong, if the files cannot be read: another error is told, too.
        let fingerprint = contents.as_ref().map_or_else(
            |error| Sha256::digest(error.to_string().as_bytes()).into(),
            Contents::fingerprint,
        );
        if fingerprint == seen.taken || seen.refused == Some(fingerprint) {
            seen.refused = seen.refused.filter(|_| fingerprint != seen.taken);
            return Ok(false);
        }
        match contents.and_then(|contents| self.source.build(&contents)) {
            Ok((built, first_end)) => {
                *self.current.lock() = Arc::new(built);
                self.not_after.store(first_end, Ordering::Relaxed);
                *seen = Seen { taken: fingerprint, refused: None };
                self.reloads.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) => {
                seen.refused = Some(fingerprint);
                self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

/// Reloads, and says what came of it.
pub(crate) fn reload_and_tell(certificates: &Certificates) {
    match certificates.reload() {
        Ok(true) => {
            let not_after = certificates.not_after();
            tracing::info!(not_after, "new certificates are in force for new connections");
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "the certificates stay as they were"),
    }
}

/// The loop of the thread that looks for changed files.
pub(crate) fn run(node: &Arc<Node>, certificates: &Certificates) {
    while !node.is_stopping() {
        node.park_background(LOOK_EVERY);
        reload_and_tell(certificates);
    }
}
