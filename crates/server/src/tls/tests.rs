//! The stream against rustls' own client over bytes in memory, and against bytes that nobody should
//! send; certificates that change, end and do not fit.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{PrivateKeyDer, ServerName},
};

use super::*;
use crate::{Config, config::ClientCertificates, wire::Flushed};

type Anything = Result<(), Box<dyn std::error::Error>>;

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, as PEM.
struct Issued {
    certificate: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Result<Authority, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Authority(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn issue(&self, until_year: i32) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new(["localhost".into()])?;
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate()?;
        Ok(Issued { certificate: params.signed_by(&key, &self.0)?.pem(), key })
    }

    fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        Ok(roots)
    }
}

impl Issued {
    fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join("node.pem"), &self.certificate)?;
        std::fs::write(folder.join("node.key"), self.key.serialize_pem())
    }
}

fn config(folder: &Path) -> Config {
    Config {
        tls_certificate_file: folder.join("node.pem"),
        tls_key_file: folder.join("node.key"),
        ..Config::default()
    }
}

fn client(roots: RootCertStore, own: Option<&Issued>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some(own) => {
            use rustls::pki_types::{CertificateDer, pem::PemObject as _};
            let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("it was just made");
            let key = PrivateKeyDer::try_from(own.key.serialize_der()).expect("it was just made");
            builder.with_client_auth_cert(chain, key)
        }
    }
}

/// The stream on a real socket, driven as a data thread does it, in a thread of its own: sends back
/// what it receives, until the client ends or fails.
fn echo(
    stream: TlsStream,
) -> std::io::Result<(TcpStream, std::thread::JoinHandle<Result<usize, Failure>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut socket, _) = listener.accept()?;
    let echo = std::thread::spawn(move || {
        let (mut stream, mut received, mut plain) = (stream, [0; 5000], Vec::new());
        let mut echoed = 0;
        loop {
            let len = socket.read(&mut received).map_err(|_| Failure::Left)?;
            if len == 0 {
                return Ok(echoed);
            }
            let opened = stream.open(&mut received[..len], &mut plain);
            let (mut taken, mut sent) = (0, 0);
            if opened == Ok(Opened::Ended) {
                stream.say_goodbye();
            }
            let flushed = stream.flush(&socket, &plain, &mut taken, &mut sent);
            assert_eq!(flushed, Flushed::Done, "the socket blocks");
            assert!(stream.owed() == 0 && stream.held_bytes() < 40_000);
            echoed += taken;
            plain.drain(..taken);
            opened?;
        }
    });
    Ok((client, echo))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

#[test]
fn bytes_come_back_whole_over_both_versions() -> Anything {
    let (folder, authority) = (tempfile::tempdir()?, Authority::new()?);
    authority.issue(2040)?.write(folder.path())?;
    let certificates = Certificates::load(&config(folder.path()))?;
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let (socket, echo) = echo(TlsStream::new(certificates.current(), Instant::now())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(authority.roots()?)
            .with_no_client_auth();
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(client), name())?, socket);
        let mut total = 0;
        for len in [1, 100, 20_000, 16_384, 100_000, 3] {
            let sent: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            tls.write_all(&sent)?;
            let mut received = vec![0; len];
            tls.read_exact(&mut received)?;
            assert!(received == sent, "{len} bytes");
            total += len;
        }
        tls.conn.send_close_notify();
        tls.flush()?;
        // The goodbye comes before the end: without it this would be an error.
        assert_eq!(tls.read(&mut [0; 10])?, 0);
        drop(tls);
        assert_eq!(echo.join().expect("no panic"), Ok(total));
    }
    Ok(())
}

#[test]
fn clients_are_asked_for_certificates_and_told_what_is_wrong_with_theirs() -> Anything {
    let (folder, authority, other) = (tempfile::tempdir()?, Authority::new()?, Authority::new()?);
    authority.issue(2040)?.write(folder.path())?;
    std::fs::write(folder.path().join("ca.pem"), authority.0.pem())?;
    let (good, foreign, expired) =
        (authority.issue(2040)?, other.issue(2040)?, authority.issue(1999)?);
    for (asks, own, accepted) in [
        (ClientCertificates::Required, Some(&good), true),
        (ClientCertificates::Required, Some(&foreign), false),
        (ClientCertificates::Required, Some(&expired), false),
        (ClientCertificates::Required, None, false),
        (ClientCertificates::Optional, Some(&good), true),
        (ClientCertificates::Optional, Some(&foreign), false),
        (ClientCertificates::Optional, None, true),
        (ClientCertificates::None, Some(&foreign), true),
    ] {
        let certificates = Certificates::load(&Config {
            tls_client_certificates: asks,
            tls_client_ca_file: folder.path().join("ca.pem"),
            ..config(folder.path())
        })?;
        let (socket, echo) = echo(TlsStream::new(certificates.current(), Instant::now())?)?;
        let client = Arc::new(client(authority.roots()?, own)?);
        let mut tls = StreamOwned::new(ClientConnection::new(client, name())?, socket);
        let told = tls.write_all(b"ping").and_then(|()| tls.read_exact(&mut [0; 4]));
        drop(tls);
        let ended = echo.join().expect("no panic");
        assert_eq!(told.is_ok(), accepted, "{asks:?}: {told:?}");
        match told {
            Ok(()) => assert!(matches!(ended, Ok(4) | Err(Failure::Left)), "{ended:?}"),
            Err(error) => {
                assert_eq!(ended, Err(Failure::ClientCertificate), "{asks:?}");
                assert!(error.to_string().contains("fatal alert"), "{error}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_that_does_not_trust_the_node_is_counted_as_refusing() -> Anything {
    let (folder, authority) = (tempfile::tempdir()?, Authority::new()?);
    for (until, roots) in [(1999, authority.roots()?), (2040, Authority::new()?.roots()?)] {
        authority.issue(until)?.write(folder.path())?;
        let certificates = Certificates::load(&config(folder.path()))?;
        let (socket, echo) = echo(TlsStream::new(certificates.current(), Instant::now())?)?;
        let client = Arc::new(client(roots, None)?);
        let mut tls = StreamOwned::new(ClientConnection::new(client, name())?, socket);
        assert!(tls.write_all(b"ping").and_then(|()| tls.flush()).is_err());
        let _ = tls.conn.write_tls(&mut tls.sock);
        drop(tls);
        assert_eq!(echo.join().expect("no panic"), Err(Failure::RefusedByClient));
    }
    Ok(())
}

#[test]
fn whoever_does_not_speak_tls_is_told_so_in_clear() -> Anything {
    let (folder, authority) = (tempfile::tempdir()?, Authority::new()?);
    authority.issue(2040)?.write(folder.path())?;
    let certificates = Certificates::load(&config(folder.path()))?;
    for words in ["PING\r\n", "*1\r\n$4\r\nPING\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let (mut socket, echo) = echo(TlsStream::new(certificates.current(), Instant::now())?)?;
        socket.write_all(words.as_bytes())?;
        let mut told = String::new();
        socket.read_to_string(&mut told)?;
        assert!(told.starts_with("-ERR this port speaks TLS") && told.ends_with("\r\n"), "{told}");
        assert_eq!(echo.join().expect("no panic"), Err(Failure::PlainText));
    }
    Ok(())
}

/// Whatever is sent in place of a handshake, in whatever pieces: an end with a reason, little memory,
/// no panic.
#[test]
fn hostile_handshakes_end_within_their_bounds() -> Anything {
    let (folder, authority) = (tempfile::tempdir()?, Authority::new()?);
    authority.issue(2040)?.write(folder.path())?;
    let certificates = Certificates::load(&config(folder.path()))?;
    let mut hello = Vec::new();
    let mut real = ClientConnection::new(Arc::new(client(authority.roots()?, None)?), name())?;
    real.write_tls(&mut hello)?;

    let feed = |bytes: &[u8], piece: usize| -> Result<(), Failure> {
        let began = Instant::now();
        let mut stream = TlsStream::new(certificates.current(), began).expect("it begins");
        let mut plain = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            stream.open(&mut piece, &mut plain)?;
            assert!(stream.held_bytes() <= 128 << 10, "{} bytes held", stream.held_bytes());
            assert!(plain.is_empty() && !stream.is_established());
        }
        Ok(())
    };
    // Truncated anywhere, and in any pieces, the hello is no error yet.
    for end in 1..=hello.len() {
        assert_eq!(feed(&hello[..end], 1 + end % 7), Ok(()), "{end} bytes of the hello");
    }
    let mut refused = 0;
    for bit in 8..hello.len() * 8 {
        let mut damaged = hello.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused += usize::from(feed(&damaged, 1000).is_err());
    }
    assert!(refused > 100, "only {refused} damaged hellos were refused");
    // A handshake message that claims 16 MiB, in records that never end it.
    let mut endless = Vec::new();
    for first in [true, false].into_iter().chain(std::iter::repeat_n(false, 300)) {
        endless.extend_from_slice(&[22, 3, 1, 0x40, 0]);
        let start = endless.len();
        endless.resize(start + 0x4000, 1);
        if first {
            endless[start..start + 4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        }
    }
    assert_eq!(feed(&endless, 5000), Err(Failure::Malformed));
    // One of 60 KiB, which is within the bounds of the protocol, byte by byte in small records.
    let mut slow = Vec::new();
    for at in 0..0xf000u32 {
        let byte = match at {
            0 => 1,
            2 => 0xef,
            _ => 0,
        };
        slow.extend_from_slice(&[22, 3, 1, 0, 1, byte]);
    }
    let began = Instant::now();
    let _ = feed(&slow, 4096);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // The second half of the handshake replaced by noise: application data, alerts, nonsense.
    for kind in [20, 21, 23, 24, 99] {
        let mut bytes = hello.clone();
        bytes.extend_from_slice(&[kind, 3, 3, 0, 40]);
        bytes.resize(bytes.len() + 40, 7);
        assert!(feed(&bytes, 100_000).is_err(), "a record of kind {kind}");
    }
    Ok(())
}

#[test]
fn changed_files_are_taken_and_wrong_ones_change_nothing() -> Anything {
    let (folder, authority) = (tempfile::tempdir()?, Authority::new()?);
    authority.issue(2040)?.write(folder.path())?;
    let certificates = Certificates::load(&config(folder.path()))?;
    let first = certificates.not_after();
    assert!(!certificates.reload()?);

    // The certificate is there and its key not yet: told once.
    let next = authority.issue(2041)?;
    std::fs::write(folder.path().join("node.pem"), &next.certificate)?;
    let error = certificates.reload().expect_err("the key is another's");
    assert!(error.to_string().contains("tls.key_file"), "{error}");
    assert!(!certificates.reload()? && certificates.not_after() == first);

    next.write(folder.path())?;
    assert!(certificates.reload()? && !certificates.reload()?);
    assert_eq!(certificates.not_after() - first, 366 * 86_400);
    std::fs::remove_file(folder.path().join("node.key"))?;
    let error = certificates.reload().expect_err("a file is gone");
    assert!(error.to_string().contains("tls.key_file") && !certificates.reload()?, "{error}");
    Ok(())
}

#[test]
fn files_that_cannot_be_used_are_named() -> Anything {
    let (folder, authority) = (tempfile::tempdir()?, Authority::new()?);
    let good = authority.issue(2040)?;
    for (file, content, setting) in [
        ("node.pem", "", "tls.certificate_file"),
        ("node.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "tls.cert"),
        ("node.key", "no key", "tls.key_file"),
        ("ca.pem", "no authority", "tls.client_ca_file"),
    ] {
        good.write(folder.path())?;
        std::fs::write(folder.path().join("ca.pem"), authority.0.pem())?;
        std::fs::write(folder.path().join(file), content)?;
        let config = Config {
            tls_client_certificates: ClientCertificates::Required,
            tls_client_ca_file: folder.path().join("ca.pem"),
            ..config(folder.path())
        };
        let error = Certificates::load(&config).err().ok_or(file)?.to_string();
        assert!(error.contains(setting) && error.contains(file), "{error}");
    }
    Ok(())
}
