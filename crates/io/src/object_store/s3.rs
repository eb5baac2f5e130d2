//! An object store behind the S3 protocol.
//!
//! A runtime of its own, driven by the calling thread; every call has a time limit and a bounded
//! number of retries. Objects above one part of 5 MiB go up in parts, so memory stays bounded. It
//! reads no environment: whoever makes it brings the credentials, and they are never shown.

use std::fmt;
use std::io;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore as _, ObjectStoreExt as _,
    RetryConfig,
};
use tokio::runtime::Runtime;

use super::{ObjectEntry, ObjectStore, ObjectWriter};

/// The smallest part that S3 takes, for the least memory; 10,000 of them at most: up to 50 GB.
const PART_BYTES: usize = 5 << 20;
/// One request, its body included.
const REQUEST_SECONDS_MAX: u64 = 60;
const CONNECT_SECONDS_MAX: u64 = 10;
const RETRIES_MAX: usize = 4;
/// All retries of one request together.
const RETRY_SECONDS_MAX: u64 = 60;

/// Where the bucket is and who asks.
#[derive(Clone)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// In front of every name, without a slash at its ends; empty for none.
    pub prefix: String,
    /// `http://HOST:PORT` or `https://…`; Amazon's own for the region if absent.
    pub endpoint: Option<String>,
    /// Region; its name is part of every signature.
    pub region: String,
    /// Name of the key.
    pub access_key_id: String,
    /// The key. Never shown.
    pub secret_access_key: String,
    /// Token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let S3Options { bucket, prefix, endpoint, region, .. } = self;
        write!(f, "S3Options {{ {bucket}/{prefix} at {endpoint:?} in {region} }}")
    }
}

/// See the module's head.
pub struct S3Store {
    runtime: Runtime,
    store: AmazonS3,
    prefix: String,
}

impl S3Store {
    /// Connects nowhere yet. Plain HTTP is refused unless the endpoint is on this machine.
    pub fn new(options: &S3Options) -> io::Result<S3Store> {
        let loopback = options.endpoint.as_deref().is_some_and(is_loopback);
        let client = ClientOptions::new()
            .with_allow_http(loopback)
            .with_timeout(Duration::from_secs(REQUEST_SECONDS_MAX))
            .with_connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX));
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: Duration::from_secs(RETRY_SECONDS_MAX),
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&options.bucket)
            .with_region(&options.region)
            .with_access_key_id(&options.access_key_id)
            .with_secret_access_key(&options.secret_access_key)
            .with_client_options(client)
            .with_allow_http(loopback)
            .with_retry(retry);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(token) = &options.session_token {
            builder = builder.with_token(token);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = builder.build().map_err(failed)?;
        Ok(S3Store { runtime, store, prefix: options.prefix.clone() })
    }

    fn path(&self, name: &str) -> io::Result<Path> {
        let full = match self.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        Path::parse(full).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// Whether an endpoint is on this machine, where nobody listens in.
fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("http://").unwrap_or_default();
    let host = host.split('/').next().unwrap_or_default();
    host.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || host == "localhost"
        || host.starts_with("localhost:")
}

fn failed(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl ObjectStore for S3Store {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name)?;
        self.runtime.block_on(self.store.put(&path, bytes.to_vec().into())).map_err(failed)?;
        Ok(())
    }

    fn begin<'a>(&'a self, name: &str) -> io::Result<Box<dyn ObjectWriter + 'a>> {
        let path = self.path(name)?;
        Ok(Box::new(S3Writer { store: self, path, part: Vec::new(), parts: None }))
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let path = self.path(name)?;
        let range = GetRange::Bounded(offset..offset.saturating_add(len as u64));
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let read = self.runtime.block_on(async {
            match self.store.get_opts(&path, options).await {
                Ok(found) => found.bytes().await.map(|bytes| bytes.to_vec()),
                Err(absent @ object_store::Error::NotFound { .. }) => Err(absent),
                // A range behind the end is refused. What else went wrong is told as it was.
                Err(error) => match self.store.head(&path).await {
                    Ok(meta) if meta.size <= offset => Ok(Vec::new()),
                    _ => Err(error),
                },
            }
        });
        read.map_err(failed)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<ObjectEntry>> {
        let path = self.path(folder)?;
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&path)));
        let mut entries: Vec<_> = listed
            .map_err(failed)?
            .objects
            .into_iter()
            .filter_map(|meta| {
                let name = meta.location.filename()?.to_owned();
                Some(ObjectEntry { name, bytes: meta.size })
            })
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

struct S3Writer<'a> {
    store: &'a S3Store,
    path: Path,
    /// What waits to become a part.
    part: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl S3Writer<'_> {
    fn send_part(&mut self) -> io::Result<()> {
        let part = std::mem::take(&mut self.part);
        let S3Store { runtime, store, .. } = self.store;
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => runtime.block_on(store.put_multipart(&self.path)).map_err(failed)?,
        };
        let sent = runtime.block_on(parts.put_part(part.into()));
        self.parts = Some(parts);
        sent.map_err(failed)
    }
}

impl ObjectWriter for S3Writer<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.part.extend_from_slice(piece);
        if self.part.len() >= PART_BYTES { self.send_part() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let S3Store { runtime, store, .. } = self.store;
        if self.parts.is_none() {
            let whole = std::mem::take(&mut self.part);
            runtime.block_on(store.put(&self.path, whole.into())).map_err(failed)?;
            return Ok(());
        }
        if !self.part.is_empty() {
            self.send_part()?;
        }
        if let Some(parts) = &mut self.parts {
            runtime.block_on(parts.complete()).map_err(failed)?;
        }
        self.parts = None;
        Ok(())
    }
}

impl Drop for S3Writer<'_> {
    fn drop(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            // Parts without an end cost money; if this fails, the bucket's own rule for unfinished
            // uploads removes them.
            let _aborted = self.store.runtime.block_on(parts.abort());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for (endpoint, loopback) in [
            ("http://127.0.0.1:8333", true),
            ("http://localhost:9000/", true),
            ("http://[::1]:8333", true),
            ("http://10.0.0.1:8333", false),
            ("http://localhost.example.com", false),
            ("https://127.0.0.1", false),
        ] {
            assert_eq!(is_loopback(endpoint), loopback, "{endpoint}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = S3Options {
            bucket: "b".into(),
            prefix: String::new(),
            endpoint: None,
            region: "r".into(),
            access_key_id: "id".into(),
            secret_access_key: "hunter2".into(),
            session_token: Some("hunter3".into()),
        };
        assert!(!format!("{options:?}").contains("hunter"));
    }
}
