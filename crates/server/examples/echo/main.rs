//! A server that answers and does nothing else, to measure what a way of waiting for sockets costs.
//!
//! It speaks enough of the Redis protocol for `holdfast bench`: every GET gets the same 100 bytes.
//! `--loop` picks the way: the event loop that the data threads have, tokio with a runtime a core,
//! or io_uring. One listener a thread, all on one port. `proofs/echo.py` runs them side by side;
//! what came of it is in docs/decisions/0010-data-path-threads.md.

mod answer;
mod epoll;
mod tokio_core;
mod uring;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// A way to serve the connections of one listener, for ever.
type Serve = fn(TcpListener) -> io::Result<()>;

const WAYS: [(&str, Serve); 3] =
    [("epoll", epoll::serve), ("tokio", tokio_core::serve), ("uring", uring::serve)];
const USAGE: &str = "usage: echo --loop epoll|tokio|uring [--threads N] [--port PORT]";
const BACKLOG: i32 = 1024;

fn main() -> Result<(), String> {
    let (serve, threads, port) = options()?;
    let first = listen(port).map_err(|error| format!("port {port}: {error}"))?;
    let addr = first.local_addr().map_err(|error| error.to_string())?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(listen(addr.port()).map_err(|error| format!("{addr}: {error}"))?);
    }
    println!("ready redis={addr}");
    std::thread::scope(|scope| {
        let running: Vec<_> =
            listeners.into_iter().map(|listener| scope.spawn(move || serve(listener))).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err("a thread panicked".to_owned()),
        })
    })
}

fn options() -> Result<(Serve, usize, u16), String> {
    let (mut serve, mut threads, mut port) = (None, 1, 0);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match word.as_str() {
            "--loop" => serve = WAYS.iter().find(|way| way.0 == value).map(|way| way.1),
            "--threads" => threads = value.parse().map_err(|_| USAGE)?,
            "--port" => port = value.parse().map_err(|_| USAGE)?,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok((serve.ok_or(USAGE)?, threads, port))
}

/// A listener that others may share the port with: the kernel spreads the connections.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
