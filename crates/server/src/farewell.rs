//! Sockets that have said their last word and wait for the client to take it.
//!
//! A socket that is closed while received bytes lie unread in it resets the connection, and the reset
//! may overtake the last reply: the client is then cut off without a reason. So the sending half is
//! closed first, and what still comes is thrown away until the client closes too. Bounded in number,
//! bytes and time; whoever passes a bound is closed as it is.

use std::{
    collections::VecDeque,
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, Shutdown, recv, shutdown},
};

/// Sockets of one data thread that wait; the oldest makes room for one more.
const WAITING_MAX: usize = 256;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(1);
/// How much of what it still sends is thrown away.
const DRAIN_BYTES_MAX: usize = 4 << 20;

struct Farewell {
    token: u64,
    socket: TcpStream,
    until: Instant,
    bytes_left: usize,
}

/// See the module's head.
pub(crate) struct Farewells {
    /// Oldest first.
    waiting: VecDeque<Farewell>,
    next: u64,
}

impl Farewells {
    /// Their tokens in the event loop begin here.
    pub(crate) fn new(first_token: u64) -> Farewells {
        Farewells { waiting: VecDeque::new(), next: first_token }
    }

    /// Takes a socket whose last bytes have been handed to the kernel.
    pub(crate) fn begin(
        &mut self,
        epoll: &OwnedFd,
        socket: TcpStream,
        now: Instant,
        scratch: &mut [u8],
    ) {
        if shutdown(&socket, Shutdown::Write).is_err() {
            return;
        }
        let (token, readable) = (self.next, epoll::EventFlags::IN);
        let data = epoll::EventData::new_u64(token);
        let watched = match epoll::modify(epoll, &socket, data, readable) {
            Err(Errno::NOENT) => epoll::add(epoll, &socket, data, readable),
            modified => modified,
        };
        if watched.is_err() {
            return;
        }
        self.next += 1;
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        let bytes_left = DRAIN_BYTES_MAX;
        self.waiting.push_back(Farewell { token, socket, until: now + WAIT, bytes_left });
        // What has come already need not wait for the next turn.
        self.on_event(token, scratch);
    }

    /// Throws away what has come; closes once the client has closed or sends too much.
    pub(crate) fn on_event(&mut self, token: u64, scratch: &mut [u8]) {
        let Some(at) = self.waiting.iter().position(|one| one.token == token) else { return };
        let Some(one) = self.waiting.get_mut(at) else { return };
        let over = match recv(&one.socket, scratch, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => true,
            Ok((_, len)) => {
                one.bytes_left = one.bytes_left.saturating_sub(len);
                one.bytes_left == 0
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        };
        if over {
            // Dropping closes it, which takes it out of the event loop.
            self.waiting.remove(at);
        }
    }

    /// Closes those that have waited long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.waiting.front().is_some_and(|one| one.until <= now) {
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    fn pair() -> std::io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok((client, listener.accept()?.0))
    }

    fn epoll() -> std::io::Result<OwnedFd> {
        Ok(epoll::create(epoll::CreateFlags::CLOEXEC)?)
    }

    #[test]
    fn the_last_word_arrives_although_requests_lie_unread() -> std::io::Result<()> {
        let (mut client, server) = pair()?;
        let (epoll, mut farewells) = (epoll()?, Farewells::new(1 << 63));
        let mut scratch = vec![0; 1024];
        client.write_all(&[b'x'; 100_000])?;
        (&server).write_all(b"-ERR goodbye\r\n")?;
        farewells.begin(&epoll, server, Instant::now(), &mut scratch);
        client.write_all(b"more")?;
        let mut heard = String::new();
        client.read_to_string(&mut heard)?;
        assert_eq!(heard, "-ERR goodbye\r\n");
        Ok(())
    }

    /// Without it the reset takes the word away: this is what the module is for.
    #[test]
    fn a_plain_close_resets_a_connection_with_unread_requests() -> std::io::Result<()> {
        let (mut client, server) = pair()?;
        client.write_all(&[b'x'; 100_000])?;
        drop(server);
        let mut heard = String::new();
        let error = client.read_to_string(&mut heard).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        Ok(())
    }

    #[test]
    fn nobody_waits_past_the_bounds() -> std::io::Result<()> {
        let (epoll, mut farewells) = (epoll()?, Farewells::new(1 << 63));
        let mut scratch = vec![0; 64 << 10];
        let now = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..WAITING_MAX + 10 {
            let (client, server) = pair()?;
            farewells.begin(&epoll, server, now, &mut scratch);
            clients.push(client);
        }
        assert_eq!(farewells.waiting.len(), WAITING_MAX);
        farewells.expire(now + WAIT / 2);
        assert_eq!(farewells.waiting.len(), WAITING_MAX);
        farewells.expire(now + WAIT);
        assert_eq!(farewells.waiting.len(), 0);

        let (mut client, server) = pair()?;
        farewells.begin(&epoll, server, now, &mut scratch);
        let token = farewells.next - 1;
        let sent = (0..)
            .map_while(|_| {
                client.write_all(&scratch.clone()).ok()?;
                farewells.on_event(token, &mut scratch);
                (!farewells.waiting.is_empty()).then_some(scratch.len())
            })
            .sum::<usize>();
        assert!(sent <= 2 * DRAIN_BYTES_MAX, "{sent} bytes were taken");
        Ok(())
    }
}
