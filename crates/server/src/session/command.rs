//! How a command is declared and called. The table has one entry a command; arity, COMMAND DOCS,
//! categories and the reference page all come from it.

use std::borrow::Cow;

use holdfast_base::{Error, ErrorKind, KeyspaceId};
use holdfast_engine::Tier;
use holdfast_io::Random as _;
use holdfast_protocol::resp::{Args, ReplyWriter};
use holdfast_shard::{Gate, KeyRef, OpError, Txn};

use super::{Flow, Session};
use crate::{metrics::Family, node::Node};

/// Why a command gave no regular reply.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The op says why; [`super::errors`] has the words.
    Op(OpError),
    /// These words, the code in front.
    Text(Cow<'static, str>),
}

impl From<OpError> for CommandError {
    fn from(error: OpError) -> Self {
        CommandError::Op(error)
    }
}

impl CommandError {
    /// A text that is known beforehand.
    pub(crate) const fn text(text: &'static str) -> CommandError {
        CommandError::Text(Cow::Borrowed(text))
    }

    /// Whether the command only needs rows that are not in memory.
    pub(crate) fn is_miss(&self) -> bool {
        matches!(self, CommandError::Op(OpError::Miss(_) | OpError::ColdRange))
    }
}

/// Output up to which nobody is refused a reply: small ones have to say what is wrong.
const REPLY_BYTES_ALWAYS: u64 = 64 << 10;

/// Refuses a reply with which a connection would owe `owed`: more than one may owe, or than connections have
/// memory left for.
pub(crate) fn check_reply(node: &Node, owed: usize) -> Result<(), OpError> {
    let owed = owed as u64;
    if owed > node.config.redis_output_bytes_max.0 {
        let text = "the reply would pass redis.output_bytes_max: ask for less at once";
        return Err(OpError::TooLarge(text));
    }
    if owed > REPLY_BYTES_ALWAYS && owed > node.connection_bytes_free() {
        let text = "the memory for connections is used up: ask for less at once";
        return Err(OpError::Fault(Error::new(ErrorKind::Full, text)));
    }
    Ok(())
}

pub(crate) type Outcome = Result<(), CommandError>;

/// A command on keys at work, within a record of its own or a transaction's.
pub(crate) struct Call<'c, 't, 'o> {
    pub txn: &'c mut Txn<'t>,
    pub keyspace: KeyspaceId,
    /// The keys that the table names, in order.
    pub keys: &'c [KeyRef<'c>],
    pub args: Args<'c>,
    pub out: &'c mut ReplyWriter<'o>,
    pub node: &'c Node,
}

/// A command on connection or server at work.
pub(crate) struct SessionCall<'c> {
    pub node: &'c Node,
    pub session: &'c mut Session,
    pub args: Args<'c>,
    pub out: ReplyWriter<'c>,
    pub tier: Tier,
    /// What the reply has to wait for.
    pub gate: Option<Gate>,
}

/// How a command runs.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// Reads keys, without the shard lock where possible.
    Read(fn(&mut Call<'_, '_, '_>) -> Outcome),
    /// Reads and changes keys, under the shard lock.
    Write(fn(&mut Call<'_, '_, '_>) -> Outcome),
    /// Walks a keyspace from the cursor in its first argument.
    Scan(fn(&mut Call<'_, '_, '_>, Option<&[u8]>) -> Outcome),
    /// Concerns the connection or the server.
    Session(fn(&mut SessionCall<'_>) -> Result<Flow, CommandError>),
}

/// Which arguments are keys: first, last (negative: from the end) and step, as COMMAND tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeySpec {
    pub first: usize,
    pub last: isize,
    pub step: usize,
}

pub(crate) const NO_KEY: KeySpec = KeySpec { first: 0, last: 0, step: 0 };
pub(crate) const ONE_KEY: KeySpec = KeySpec { first: 1, last: 1, step: 1 };
pub(crate) const ALL_KEYS: KeySpec = KeySpec { first: 1, last: -1, step: 1 };

/// One entry of the table.
pub(crate) struct Command {
    /// Lower case.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: isize,
    pub key_spec: KeySpec,
    pub run: Run,
    /// Subcommands that rules on users may name by themselves, in lower case.
    pub subcommands: &'static [&'static str],
    /// Flags as COMMAND INFO tells them.
    pub flags: &'static [&'static str],
    /// Group as COMMAND DOCS tells it; also an ACL category where Redis has one of that name.
    pub group: &'static str,
    /// Redis version that first had it.
    pub since: &'static str,
    pub summary: &'static str,
    pub complexity: &'static str,
    /// Allowed before authentication.
    pub before_auth: bool,
}

/// What most entries have in common.
pub(crate) const COMMAND: Command = Command {
    name: "",
    arity: 1,
    key_spec: NO_KEY,
    run: Run::Session(|_| Ok(Flow::Continue)),
    subcommands: &[],
    flags: &[],
    group: "generic",
    since: "1.0.0",
    summary: "",
    complexity: "O(1)",
    before_auth: false,
};

impl Command {
    pub(crate) fn arity_fits(&self, len: usize) -> bool {
        if self.arity < 0 { len >= self.arity.unsigned_abs() } else { len == self.arity as usize }
    }

    /// The keys among the arguments.
    pub(crate) fn keys<'a>(&self, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let KeySpec { first, last, step } = self.key_spec;
        let end = if last < 0 {
            (args.len() + 1).saturating_sub(last.unsigned_abs())
        } else {
            last as usize + 1
        };
        let end = if first == 0 { 0 } else { end };
        (first..end).step_by(step.max(1)).filter_map(move |at| args.get(at))
    }

    pub(crate) fn family(&self) -> Family {
        match self.run {
            Run::Read(_) | Run::Scan(_) => Family::Read,
            Run::Write(_) => Family::Write,
            Run::Session(_) if self.name == "exec" => Family::Transaction,
            Run::Session(_) => Family::Other,
        }
    }

    pub(crate) fn is_write(&self) -> bool {
        self.flags.contains(&"write")
    }

    /// ACL categories, with the sign in front, as COMMAND INFO tells them.
    pub(crate) fn categories(&self) -> Vec<&'static str> {
        let mut categories = Vec::new();
        // Where Redis has a category that the group does not say.
        let group = match self.name {
            "asking" | "command" | "readonly" | "readwrite" | "wait" => "connection",
            "dbsize" | "flushall" | "flushdb" => "generic",
            _ => self.group,
        };
        let group = match group {
            "string" => Some("@string"),
            "hash" => Some("@hash"),
            "set" => Some("@set"),
            "list" => Some("@list"),
            "sorted-set" => Some("@sortedset"),
            "generic" => Some("@keyspace"),
            "transactions" => Some("@transaction"),
            "connection" => Some("@connection"),
            _ => None,
        };
        for (flag, category) in [
            ("write", "@write"),
            ("readonly", "@read"),
            ("admin", "@admin"),
            ("dangerous", "@dangerous"),
        ] {
            if self.flags.contains(&flag) {
                categories.push(category);
            }
        }
        if ["acl", "config", "flushall", "flushdb", "info", "keyspace"].contains(&self.name) {
            categories.push("@dangerous");
        }
        categories.extend(group);
        categories.push(if self.flags.contains(&"fast") { "@fast" } else { "@slow" });
        categories
    }
}

impl<'c> Call<'c, '_, '_> {
    /// An argument that the arity guarantees.
    pub(crate) fn arg(&self, at: usize) -> &'c [u8] {
        self.args.get(at).unwrap_or_default()
    }

    /// See [`check_reply`]; what runs a command does this at its end.
    pub(crate) fn check_reply(&self) -> Outcome {
        check_reply(self.node, self.out.len()).map_err(CommandError::Op)
    }

    /// Random numbers, for the ops that choose.
    pub(crate) fn random(&self) -> impl FnMut() -> u64 + use<'c> {
        let random = &self.node.random;
        move || random.lock().next_u64()
    }

    /// All arguments from `first` on.
    pub(crate) fn rest(&self, first: usize) -> Vec<&'c [u8]> {
        self.args.iter().skip(first).collect()
    }

    /// An integer argument.
    pub(crate) fn integer(&self, at: usize) -> Result<i64, CommandError> {
        holdfast_protocol::number::parse_i64(self.arg(at))
            .ok_or(CommandError::Op(OpError::NotInteger))
    }
}
