//! Listening: a port in use is told with its holder and the command that works instead.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use holdfast_base::{Error, ErrorKind};
use socket2::{Domain, Protocol, Socket, Type};

use crate::SETTINGS;

/// What to do when a port is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PortPolicy {
    /// Refuse and say who holds it.
    #[default]
    AsConfigured,
    /// Pick free ones.
    Auto,
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One listener for each data thread, all on one port: the kernel spreads connections.
pub(crate) fn listen(
    what: &str,
    addr: SocketAddr,
    count: usize,
    policy: PortPolicy,
) -> Result<(SocketAddr, Vec<TcpListener>), Error> {
    // The first listener is alone, so that another program with SO_REUSEPORT is noticed.
    let probe = bind(addr, false);
    let addr = match (probe, policy) {
        (Ok(listener), _) => listener.local_addr(),
        (Err(error), PortPolicy::Auto) if error.kind() == io::ErrorKind::AddrInUse => {
            bind(SocketAddr::new(addr.ip(), 0), false).and_then(|listener| listener.local_addr())
        }
        (Err(error), _) => Err(error),
    }
    .map_err(|error| explain(what, addr, &error))?;
    let listeners: io::Result<Vec<_>> = (0..count).map(|_| bind(addr, true)).collect();
    Ok((addr, listeners.map_err(|error| explain(what, addr, &error))?))
}

fn explain(what: &str, addr: SocketAddr, error: &io::Error) -> Error {
    let text = if error.kind() == io::ErrorKind::AddrInUse {
        let holder = holder(addr.port()).map_or(String::new(), |holder| format!(" by {holder}"));
        let way_out = way_out(std::env::args());
        format!("{addr} for {what} is in use{holder}: stop that, or run {way_out}")
    } else {
        format!("cannot listen on {addr} for {what}: {error}")
    };
    Error::new(ErrorKind::Unavailable, text)
}

/// The command that works, to be typed as it stands. A secret is not repeated.
fn way_out(command: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=".contains(c);
    let quoted = |word: &String| match word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let words: Vec<String> = command.collect();
    let secrets = || SETTINGS.iter().filter(|setting| setting.secret);
    let is_secret = |word: &String| {
        word.contains("password") || secrets().any(|setting| word.contains(setting.key))
    };
    if words.iter().any(is_secret) {
        return "the same with `--ports auto`".to_owned();
    }
    format!("`{} --ports auto`", words.iter().map(quoted).collect::<Vec<_>>().join(" "))
}

/// The process that listens on this port, as far as /proc lets us see it.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit(':').next()?;
            // State 0A is LISTEN.
            let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local, 16) == Ok(port);
            listens.then(|| fields.get(9).copied().unwrap_or_default().to_owned())
        })
    })?;
    let socket = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        if process.file_name().to_string_lossy().parse::<u32>().is_err() {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            std::fs::read_link(descriptor.path())
                .is_ok_and(|target| target.to_string_lossy() == socket)
        });
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let pid = process.file_name().to_string_lossy().into_owned();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_its_holder_and_the_way_out() -> io::Result<()> {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let addr = taken.local_addr()?;
        let error = listen("redis", addr, 1, PortPolicy::AsConfigured).expect_err("in use");
        assert!(error.text().contains("--ports auto"), "{error}");
        assert!(error.text().contains(&std::process::id().to_string()), "{error}");
        let (free, listeners) = listen("redis", addr, 2, PortPolicy::Auto).expect("a free one");
        assert_ne!(free.port(), addr.port());
        assert_eq!(listeners.len(), 2);
        Ok(())
    }

    #[test]
    fn the_way_out_is_the_command_itself_and_keeps_secrets_to_itself() {
        let words = |text: &str| way_out(text.split(' ').map(str::to_owned));
        assert_eq!(words("bin/holdfast serve"), "`bin/holdfast serve --ports auto`");
        assert_eq!(words("holdfast --data it's"), "`holdfast --data 'it'\\''s' --ports auto`");
        for secret in ["redis.password=hush", "http.token=hush"] {
            assert!(!words(&format!("holdfast serve --set {secret}")).contains("hush"));
        }
    }
}
