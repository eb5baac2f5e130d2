//! What must hold in every state, and what must have happened in some: a check that never meets a take-over shows nothing.

use stateright::Property;

use crate::state::{Cluster, Content, Reader, Role, State};

/// Names of what must hold in every state.
pub const ALWAYS: [&str; 5] = [
    "sessions follow each other, and of each the records in the log are its first ones",
    "what was acknowledged is in the log",
    "no record is in the log twice",
    "a read shows what was acknowledged before it began",
    "no read leaves after another owner has acknowledged something",
];

/// Names of what must have happened in some state.
pub const REACHED: [&str; 6] = [
    "a second session acknowledges a write",
    "a second session answers a read",
    "a write without an answer is in the log",
    "a message stands dead behind a successor's barrier",
    "a node parts, and another one takes over",
    "a barrier is refused",
];

/// Whether a record may stand behind another: the next of its session, or the first of a later one.
fn follows((epoch, n): (u8, u8), (later, m): (u8, u8)) -> bool {
    if later == epoch { m == n + 1 } else { later > epoch && m == 0 }
}

fn records(state: &State) -> Vec<u8> {
    Reader::of(&state.log, state.log.len() as u8, true).records
}

/// The same for every node that reads the log: here without a filter if that is the bug.
fn is_acknowledged_kept(model: &Cluster, state: &State) -> bool {
    let filters = !model.has(crate::Bug::NoFilter);
    let records = Reader::of(&state.log, state.log.len() as u8, filters).records;
    // In the order in which they were acknowledged within each session.
    let mut places = Vec::new();
    for write in &state.acknowledged {
        let Some(at) = records.iter().position(|value| *value == write.value) else { return false };
        places.push((write.epoch, at));
    }
    places.windows(2).all(|pair| pair[0].0 > pair[1].0 || pair[0].1 < pair[1].1)
}

fn is_read_where_others_see_it(model: &Cluster, state: &State) -> bool {
    // A node that owns the shard and every reader of the log agree on what stands before its own records.
    let filters = !model.has(crate::Bug::NoFilter);
    state.nodes.iter().all(|node| match &node.role {
        Role::Owner(owner) if owner.epoch > 1 && !owner.poisoned => {
            let seen = Reader::of(&state.log, node.known, filters).records;
            let all = Reader::of(&state.log, state.log.len() as u8, filters).records;
            all.get(..seen.len()) == Some(&seen[..])
        }
        _ => true,
    })
}

pub(crate) fn properties() -> Vec<Property<Cluster>> {
    vec![
        Property::always(ALWAYS[0], |model: &Cluster, state: &State| {
            let filters = !model.has(crate::Bug::NoFilter);
            let places = Reader::of(&state.log, state.log.len() as u8, filters).places;
            let first = places.first().is_none_or(|(_, n)| *n == 0);
            first && places.windows(2).all(|pair| follows(pair[0], pair[1]))
        }),
        Property::always(ALWAYS[1], |model, state: &State| {
            is_acknowledged_kept(model, state) && is_read_where_others_see_it(model, state)
        }),
        Property::always(ALWAYS[2], |model: &Cluster, state: &State| {
            let filters = !model.has(crate::Bug::NoFilter);
            let mut records = Reader::of(&state.log, state.log.len() as u8, filters).records;
            let all = records.len();
            records.sort_unstable();
            records.dedup();
            records.len() == all
        }),
        Property::always(ALWAYS[3], |_, state: &State| !state.stale_read),
        Property::always(ALWAYS[4], |_, state: &State| !state.old_left),
        Property::sometimes(REACHED[0], |_, state: &State| {
            state.acknowledged.iter().any(|write| write.epoch > 1)
        }),
        Property::sometimes(REACHED[1], |_, state: &State| state.read_after_take_over),
        Property::sometimes(REACHED[2], |_, state: &State| {
            let is_owners = |role: &Role| matches!(role, Role::Owner(owner) if owner.poisoned);
            state.nodes.iter().any(|node| is_owners(&node.role))
                && records(state).len() > state.acknowledged.len()
        }),
        Property::sometimes(REACHED[3], |_, state: &State| {
            let reader = Reader::of(&state.log, state.log.len() as u8, true);
            let last = state.log.last();
            reader.has_dead
                && last.is_some_and(|message| {
                    message.epoch < reader.opened && message.content != Content::Barrier
                })
        }),
        Property::sometimes(REACHED[4], |_, state: &State| {
            let has_parted = state.log.iter().any(|message| message.content == Content::Parting);
            has_parted && state.acknowledged.iter().any(|write| write.epoch > 1)
        }),
        Property::sometimes(REACHED[5], |_, state: &State| {
            let is_opening = |role: &Role| matches!(role, Role::Opening { .. });
            let refused = |node: &crate::state::Node| node.answers.first() == Some(&None);
            state.nodes.iter().any(|node| is_opening(&node.role) && refused(node))
        }),
    ]
}
