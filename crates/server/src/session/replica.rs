//! Requests at a node that does not own the data: what it answers itself, and where it sends the rest.
//!
//! As a replica of Redis Cluster: reads after READONLY, and what names no key, it answers from what it
//! has, which is a state that the owner had; everything else is the owner's. `READAFTER token` holds a
//! connection's requests until the state is at least as new as the token, which TOKEN gives on any node: so a
//! client reads its own writes, and never an older state than before.

use std::time::{Duration, Instant};

use holdfast_base::{Incarnation, Lsn};
use holdfast_protocol::{number::parse_i64, resp::Args};

use super::{Command, CommandError, Session, commands::cluster::moved};
use crate::{members::Members, node::Node, ownership};

/// How long requests are held until the node has followed to their token; then reads are refused.
const HELD_FOR: Duration = Duration::from_secs(1);

/// What a connection has said of the answers that it takes from a node that does not own the data.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// READONLY: they may be old.
    replica: bool,
    /// But no older than this; and until when requests are held for it.
    after: Option<(Lsn, Instant)>,
}

impl Reading {
    /// Whether a request waits until the node has followed further.
    #[inline]
    pub(crate) fn waits(&mut self, node: &Node, now: Instant) -> bool {
        match self.after {
            None => false,
            Some((lsn, _)) if lsn <= node.shown() => {
                self.after = None;
                false
            }
            Some((_, until)) => now < until,
        }
    }
}

/// Whether a node that does not own the data may answer this: the refusal says who does.
#[cold]
pub(super) fn admit(
    node: &Node,
    session: &Session,
    command: &Command,
    args: Args<'_>,
) -> Result<(), CommandError> {
    let Some(members) = node.members.as_deref().filter(|_| !node.owns()) else {
        return Err(CommandError::text(ownership::LAPSED_TEXT));
    };
    let key = command.keys(args).next();
    // Without a key Redis answers for the node alone, and clients expect no redirect.
    let is_own_affair = !command.is_write() && (session.reading.replica || key.is_none());
    if is_own_affair && session.reading.after.is_some() {
        return Err(CommandError::text("TRYAGAIN this node has not followed so far yet"));
    }
    if is_own_affair && node.is_fresh() {
        return Ok(());
    }
    Err(elsewhere(members, session, key))
}

fn elsewhere(members: &Members, session: &Session, key: Option<&[u8]>) -> CommandError {
    if members.is_taking_over() {
        return CommandError::text("TRYAGAIN this node is taking the data over");
    }
    let Some(key) = key else {
        let owner = members.elsewhere(session.client.over_tls);
        let owner = owner.map_or("unknown".to_owned(), |(host, port)| format!("{host}:{port}"));
        let text = format!("READONLY this node does not own the data: the owner is {owner}");
        return CommandError::Text(text.into());
    };
    let unknown = || CommandError::text("CLUSTERDOWN nobody owns the data at the moment");
    moved(members, session.client.over_tls, Some(key)).unwrap_or_else(unknown)
}

/// READONLY: reads may be old.
pub(super) fn read_only(session: &mut Session) {
    session.reading.replica = true;
}

/// READAFTER: but no older than the token.
pub(super) fn read_after(
    node: &Node,
    session: &mut Session,
    token: &[u8],
) -> Result<(), CommandError> {
    let lsn = position_of(node, token)?;
    let before = session.reading.after.map_or(Lsn::ZERO, |(lsn, _)| lsn);
    let after = Some((lsn.max(before), Instant::now() + HELD_FOR));
    session.reading = Reading { replica: true, after };
    Ok(())
}

/// READWRITE: everything is the owner's again.
pub(super) fn read_write(session: &mut Session) {
    session.reading = Reading::default();
}

/// A position of the log, as clients carry it from node to node.
pub(super) fn token((incarnation, lsn): (Incarnation, Lsn)) -> String {
    format!("{:016x}:{}", incarnation.0, lsn.0)
}

fn position_of(node: &Node, token: &[u8]) -> Result<Lsn, CommandError> {
    let parsed = || {
        let (incarnation, lsn) = std::str::from_utf8(token).ok()?.split_once(':')?;
        let incarnation = u64::from_str_radix(incarnation, 16).ok()?;
        let lsn = parse_i64(lsn.as_bytes()).and_then(|lsn| u64::try_from(lsn).ok())?;
        Some((Incarnation(incarnation), Lsn(lsn)))
    };
    let (incarnation, lsn) = parsed().ok_or(CommandError::text("ERR no token: TOKEN gives one"))?;
    let (own, shown) = node.shard.position().value;
    // A node that has nothing yet knows no life.
    if incarnation != own && shown > Lsn::ZERO {
        return Err(CommandError::text("ERR the token is of another life of the log"));
    }
    Ok(lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_the_life_and_the_position() {
        assert_eq!(token((Incarnation(10), Lsn(7))), "000000000000000a:7");
    }
}
