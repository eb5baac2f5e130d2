//! What there is: a log server, nodes, what is on the way between them, and what clients were told.

use crate::{Bug, Scope};

/// Ticks that a lease lasts from when its sign was sent.
pub(crate) const LEASE: u8 = 2;
/// Ticks of silence after which it has certainly run out: one clock may lose a tick.
pub(crate) const SILENCE: u8 = 3;

/// The model: a scope, and perhaps a bug.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// How far is tried.
    pub scope: Scope,
    /// What is done wrong.
    pub bug: Option<Bug>,
}

impl Cluster {
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Content {
    /// A session of this epoch begins.
    Barrier,
    /// A record: its place in the epoch, and a value that no other has.
    Write { n: u8, value: u8 },
    /// A sign of life.
    Sign,
    /// The owner gives the shard up.
    Parting,
}

/// A message, as it stands in the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Message {
    pub epoch: u8,
    pub content: Content,
}

/// On the way to the server, which stores it only behind so many messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Request {
    pub expected: Option<u8>,
    pub message: Message,
}

/// An append of an owner that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pending {
    /// Sequence that it is to have.
    pub sequence: u8,
    pub content: Content,
    /// When it was sent, on the node's clock.
    pub sent: u8,
}

/// A session of a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Owner {
    pub epoch: u8,
    pub next_n: u8,
    /// Sequence of the next message.
    pub next: u8,
    pub pending: Vec<Pending>,
    /// It answers before this, on its clock.
    pub lease_end: u8,
    /// And not before this.
    pub others_until: u8,
    /// An answer was not the one that was due.
    pub poisoned: bool,
    /// It has given the shard up, or is about to.
    pub parted: bool,
    /// A read was taken, and has not left.
    pub reading: bool,
}

/// What a node does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role {
    /// It has seen this many messages up to the last sign, the last one at this time on its clock.
    Standby {
        signs: u8,
        seen: u8,
    },
    /// Its barrier is on the way.
    Opening {
        epoch: u8,
        sent: u8,
        was_free: bool,
        signs: u8,
        seen: u8,
    },
    Owner(Owner),
    /// It was replaced, or has parted.
    Gone,
}

/// A node with its connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Node {
    pub clock: u8,
    /// Messages of the log that it knows.
    pub known: u8,
    pub role: Role,
    pub requests: Vec<Request>,
    /// Sequences, or refusals.
    pub answers: Vec<Option<u8>>,
    /// Of connections that are broken: they arrive in order, at any time or never.
    pub stray: Vec<Request>,
}

/// A write that a client was told of: where it stands among the records, and its value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Acknowledged {
    pub epoch: u8,
    pub value: u8,
}

/// See the module's head.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub(crate) log: Vec<Message>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ticks: u8,
    pub(crate) cuts: u8,
    pub(crate) written: u8,
    /// A clock has lost its tick, or was set back.
    pub(crate) clock_erred: bool,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// A read was taken that lacks what was acknowledged before.
    pub(crate) stale_read: bool,
    /// A read has left after another owner had acknowledged something.
    pub(crate) old_left: bool,
    /// A read has left in a session after the first.
    pub(crate) read_after_take_over: bool,
}

impl State {
    pub(crate) fn first(scope: Scope) -> State {
        let node = Node {
            clock: 0,
            known: 0,
            role: Role::Standby { signs: 0, seen: 0 },
            requests: Vec::new(),
            answers: Vec::new(),
            stray: Vec::new(),
        };
        State {
            log: Vec::new(),
            nodes: vec![node; scope.nodes.into()],
            ticks: 0,
            cuts: 0,
            written: 0,
            clock_erred: false,
            acknowledged: Vec::new(),
            stale_read: false,
            old_left: false,
            read_after_take_over: false,
        }
    }
}

/// What a reader makes of the stored messages.
#[derive(Default)]
pub(crate) struct Reader {
    /// The epoch that is open; 0: none yet.
    pub opened: u8,
    next_n: u8,
    /// Values of the records, in order.
    pub records: Vec<u8>,
    /// Epoch of each, and its place in it.
    pub places: Vec<(u8, u8)>,
    /// Messages up to the last that was not dead.
    pub signs: u8,
    pub given_up: bool,
    /// Some message was dead.
    pub has_dead: bool,
}

impl Reader {
    /// Reads so many messages.
    pub(crate) fn of(log: &[Message], known: u8, filters: bool) -> Reader {
        let mut reader = Reader::default();
        for (message, count) in log.iter().zip(1..=known) {
            if reader.take(*message, filters) {
                reader.signs = count;
            } else {
                reader.has_dead = true;
            }
        }
        reader
    }

    fn take(&mut self, Message { epoch, content }: Message, filters: bool) -> bool {
        match content {
            Content::Barrier => {
                let opens = epoch > self.opened;
                if opens {
                    (self.opened, self.next_n, self.given_up) = (epoch, 0, false);
                }
                opens
            }
            _ if filters && epoch != self.opened => false,
            Content::Write { n, value } => {
                let is_next = !filters || n == self.next_n;
                if is_next {
                    self.next_n += 1;
                    self.records.push(value);
                    self.places.push((epoch, n));
                }
                is_next
            }
            Content::Sign => true,
            Content::Parting => {
                self.given_up = true;
                true
            }
        }
    }
}
