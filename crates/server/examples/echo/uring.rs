//! io_uring: receives that stay armed and take their buffers from a ring, sends handed over together.
//!
//! System calls in a turn: one `io_uring_enter`, which sends all answers of the turn and waits for
//! what comes next.
//!
//! Unsafe, because the kernel reads and writes this memory behind the compiler's back: buffers lent
//! to it are not touched until their completion has come.
#![expect(unsafe_code, reason = "io_uring is shared memory with the kernel")]

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd},
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::answer::Conversation;

const ENTRIES: u32 = 1024;
const BUFFERS: u16 = 256;
/// Room for 32 requests of a usual length; longer input comes in several buffers.
const BUFFER_BYTES: usize = 4 << 10;
const GROUP: u16 = 0;

const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;

struct Connection {
    socket: TcpStream,
    conversation: Conversation,
    output: Vec<u8>,
    /// Lent to the kernel while a send is under way.
    sending: Vec<u8>,
    sent: usize,
    is_sending: bool,
}

/// Serves for ever. Places of closed connections are not used again, since the kernel may still
/// hold what they have lent it.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(8 * ENTRIES)
        .build(ENTRIES)?;
    Server { buffers: Buffers::register(&ring)?, ring, connections: Vec::new(), ready: Vec::new() }
        .run(&listener)
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    /// Connections with answers that are not on their way.
    ready: Vec<usize>,
}

impl Server {
    fn run(&mut self, listener: &TcpListener) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build();
        self.push(&accept.user_data(ACCEPT))?;
        let mut completions = Vec::new();
        loop {
            match self.ring.submit_and_wait(1) {
                // A stopped process that goes on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                waited => {
                    waited?;
                }
            }
            completions.extend(self.ring.completion());
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
            self.buffers.publish();
            for place in std::mem::take(&mut self.ready) {
                self.send(place)?;
            }
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let place = (completion.user_data() >> 2) as usize;
        match completion.user_data() & 3 {
            ACCEPT => {
                let descriptor = check(completion.result())?;
                // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
                let socket = unsafe { TcpStream::from_raw_fd(descriptor as i32) };
                socket.set_nodelay(true)?;
                self.connections.push(Connection {
                    socket,
                    conversation: Conversation::default(),
                    output: Vec::new(),
                    sending: Vec::new(),
                    sent: 0,
                    is_sending: false,
                });
                self.receive(self.connections.len() - 1)
            }
            RECEIVE => self.received(place, completion),
            _ => self.sent(place, completion.result()),
        }
    }

    /// Arms the receive of a connection. It stays armed until it says otherwise.
    fn receive(&mut self, place: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get(place) else { return Ok(()) };
        let socket = types::Fd(connection.socket.as_raw_fd());
        let receive = opcode::RecvMulti::new(socket, GROUP).build();
        self.push(&receive.user_data((place as u64) << 2 | RECEIVE))
    }

    fn received(&mut self, place: usize, completion: &cqueue::Entry) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(place) else { return Ok(()) };
        let result = completion.result();
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            let bytes = self.buffers.get(buffer, result.max(0) as usize);
            let understood = connection.conversation.take(bytes, &mut connection.output);
            self.buffers.give_back(buffer);
            if understood.is_err() {
                connection.socket.shutdown(std::net::Shutdown::Both)?;
            }
            if !connection.output.is_empty() && !connection.is_sending {
                connection.is_sending = true;
                self.ready.push(place);
            }
        }
        let ran_dry = result == -rustix::io::Errno::NOBUFS.raw_os_error();
        if !cqueue::more(completion.flags()) && (result > 0 || ran_dry) {
            self.receive(place)?;
        }
        Ok(())
    }

    fn send(&mut self, place: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(place) else { return Ok(()) };
        if connection.sent == connection.sending.len() {
            connection.sending.clear();
            connection.sent = 0;
            std::mem::swap(&mut connection.sending, &mut connection.output);
        }
        let rest = connection.sending.get(connection.sent..).unwrap_or_default();
        let socket = types::Fd(connection.socket.as_raw_fd());
        let send = opcode::Send::new(socket, rest.as_ptr(), rest.len() as u32).build();
        self.push(&send.user_data((place as u64) << 2 | SEND))
    }

    fn sent(&mut self, place: usize, result: i32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(place) else { return Ok(()) };
        let Ok(sent) = check(result) else { return Ok(()) };
        connection.sent += sent as usize;
        let rest = connection.sending.len() - connection.sent + connection.output.len();
        if rest > 0 {
            self.ready.push(place);
        } else {
            connection.is_sending = false;
        }
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: memory that entries point to is a connection's `sending`, which is neither
        // changed nor freed before the send has completed; connections are never dropped.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

fn check(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Receive buffers that the kernel picks from, and the ring that says which are free.
struct Buffers {
    ring: *mut types::BufRingEntry,
    memory: Vec<u8>,
    tail: u16,
}

impl Buffers {
    fn register(ring: &IoUring) -> io::Result<Buffers> {
        let bytes = usize::from(BUFFERS) * size_of::<types::BufRingEntry>();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: fresh, zeroed, page-aligned memory at no chosen address.
        let entries =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags) }?.cast();
        // SAFETY: the mapping holds BUFFERS entries and is never unmapped.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)
        }?;
        let memory = vec![0; usize::from(BUFFERS) * BUFFER_BYTES];
        let mut buffers = Buffers { ring: entries, memory, tail: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        buffers.publish();
        Ok(buffers)
    }

    fn get(&self, buffer: u16, len: usize) -> &[u8] {
        let start = usize::from(buffer) * BUFFER_BYTES;
        self.memory.get(start..start + len).unwrap_or_default()
    }

    fn give_back(&mut self, buffer: u16) {
        let start = usize::from(buffer) * BUFFER_BYTES;
        // SAFETY: the index is below BUFFERS, and the kernel does not read this entry before the
        // tail has passed it.
        let entry = unsafe { &mut *self.ring.add(usize::from(self.tail % BUFFERS)) };
        entry.set_addr(self.memory.as_mut_ptr().wrapping_add(start) as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the buffers that were given back.
    fn publish(&mut self) {
        // SAFETY: the tail lies in the ring's first entry, aligned, and the kernel only reads it.
        let tail = unsafe { &*types::BufRingEntry::tail(self.ring).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}
