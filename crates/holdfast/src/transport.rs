//! The bytes between a client of ours and a server: in clear or over TLS. The socket blocks or does
//! not, as its owner wants it.

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// What the server's certificate has to be signed by, and whose it has to be.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Trust {
    /// The authorities in a file, for the server of an address `HOST:PORT`.
    pub fn load(authorities: &Path, address: &str) -> Result<Trust, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", authorities.display());
        let pem = std::fs::read(authorities).map_err(|error| failed(&error))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        if roots.is_empty() {
            return Err(failed(&"no certificate in it"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(host).map_err(|error| format!("{address}: {error}"))?;
        Ok(Trust { config: Arc::new(config), server })
    }
}

/// See the head of the file.
#[derive(Debug)]
pub struct Transport {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// Over TLS if there is somebody to trust; waits for the handshake as long as the socket does.
    pub fn new(mut socket: TcpStream, trust: Option<&Trust>) -> Result<Transport, String> {
        let Some(Trust { config, server }) = trust else {
            return Ok(Transport { socket, tls: None });
        };
        let mut tls = ClientConnection::new(config.clone(), server.clone())
            .map_err(|error| error.to_string())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(|error| format!("TLS: {error}"))?;
        }
        Ok(Transport { socket, tls: Some(Box::new(tls)) })
    }

    /// Takes some of the bytes; sends them, or keeps them for `flush` if the socket takes no more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        let taken = tls.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    /// Sends some of what was taken.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        if tls.wants_write()
            && let Err(error) = tls.write_tls(&mut self.socket)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
        Ok(())
    }

    /// Whether something that was taken has not left yet.
    pub fn owes(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Reads; 0 is the end. What it leaves unread was never received: either the room was filled, or
    /// the event loop will tell of more.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(room) };
        loop {
            match tls.reader().read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Whether opened bytes may be waiting after a read that filled its room.
    pub fn is_buffered(&self) -> bool {
        self.tls.is_some()
    }
}
