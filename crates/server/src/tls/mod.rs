//! TLS: certificates that can be changed while the node runs, and a stream that fits an event loop.
//!
//! rustls over ring, TLS 1.2 and 1.3. The Redis port uses the stream without threads and without
//! buffers of rustls' own; HTTP uses the same certificates through tokio. Nothing here reads a socket
//! by itself but [`TlsStream::flush`].

mod certificates;
mod failure;
mod stream;
#[cfg(test)]
mod tests;
mod validity;

pub(crate) use certificates::{Certificates, reload_and_tell, run as run_watcher};
pub(crate) use failure::{FAILURES, Failure, TlsMetrics};
pub(crate) use stream::{HANDSHAKE, Opened, TlsStream};
