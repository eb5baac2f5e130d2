//! Why a TLS connection did not come about: few reasons, for metrics and for whoever looks for one.

use std::sync::atomic::{AtomicU64, Ordering};

use rustls::Error;

use crate::metrics::Histogram;

/// A reason. Each tells an operator something else to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// The client does not speak TLS.
    PlainText,
    /// A client spoke TLS on the port without it.
    TlsOnPlainPort,
    /// The handshake took longer than it may.
    TimedOut,
    /// The client's certificate is missing or not accepted.
    ClientCertificate,
    /// The client refused: most often it does not trust the node's certificate.
    RefusedByClient,
    /// No version or cipher in common.
    NothingInCommon,
    /// Bytes that are not the protocol.
    Malformed,
    /// The client left before the end of the handshake.
    Left,
}

/// All reasons with their label.
pub(crate) const FAILURES: [(Failure, &str); 8] = [
    (Failure::PlainText, "plain_text"),
    (Failure::TlsOnPlainPort, "tls_on_plain_port"),
    (Failure::TimedOut, "timed_out"),
    (Failure::ClientCertificate, "client_certificate"),
    (Failure::RefusedByClient, "refused_by_client"),
    (Failure::NothingInCommon, "nothing_in_common"),
    (Failure::Malformed, "malformed"),
    (Failure::Left, "left"),
];

impl Failure {
    /// The reason behind an error of a stream that is read and written for rustls.
    pub(crate) fn of_io(error: &std::io::Error) -> Failure {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
        cause.map_or(Failure::Left, Failure::of)
    }

    /// The reason behind an error of rustls.
    pub(super) fn of(error: &Error) -> Failure {
        match error {
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
                Failure::ClientCertificate
            }
            Error::AlertReceived(_) => Failure::RefusedByClient,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::NothingInCommon,
            _ => Failure::Malformed,
        }
    }
}

/// What is counted of TLS, over all threads: handshakes are rare beside requests.
#[derive(Default)]
pub(crate) struct TlsMetrics {
    /// Duration of handshakes that succeeded, with the waiting for the client.
    pub handshakes: Histogram,
    failures: [AtomicU64; FAILURES.len()],
}

impl TlsMetrics {
    pub(crate) fn fail(&self, failure: Failure) {
        self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failures(&self, failure: Failure) -> u64 {
        self.failures[failure as usize].load(Ordering::Relaxed)
    }
}
