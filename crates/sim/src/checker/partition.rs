//! Splits a history into parts that share no key: a history is linearizable if each part is.
//!
//! Keys that one operation touches together are joined (union-find); an operation that names no key
//! joins all. Refused operations are left out: they have no effect that could explain anything.

use std::collections::BTreeMap;

use super::{HistoryOf, Model};
use crate::history::{Moment, Outcome};

/// One operation as the search sees it; a return means that the output must be explained.
pub(super) struct Call<'h, M: Model> {
    pub number: usize,
    pub input: &'h M::Input,
    pub invoked: Moment,
    pub returned: Option<(Moment, &'h M::Output)>,
}

impl<M: Model> Clone for Call<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Model> Copy for Call<'_, M> {}

impl<M: Model> Call<'_, M> {
    pub fn output(&self) -> Option<&M::Output> {
        self.returned.map(|(_, output)| output)
    }
}

/// The operations on one connected group of keys.
pub(super) struct Partition<'h, M: Model> {
    /// Sorted; empty when an operation on every key joined all.
    pub keys: Vec<M::Key>,
    pub calls: Vec<Call<'h, M>>,
}

/// The partitions by their smallest keys, the operations of each in recorded order.
pub(super) fn split<'h, M: Model>(model: &M, history: &'h HistoryOf<M>) -> Vec<Partition<'h, M>> {
    let mut groups = Groups::default();
    let mut ids = BTreeMap::new();
    let mut calls = Vec::new();
    let mut all_joined = false;
    for (number, operation) in history.operations().iter().enumerate() {
        if matches!(operation.outcome, Outcome::Refused { .. }) {
            continue;
        }
        let mut group = None;
        for key in model.keys(&operation.input) {
            let id = *ids.entry(key).or_insert_with(|| groups.add());
            group = Some(group.map_or(id, |other| groups.join(id, other)));
        }
        all_joined |= group.is_none();
        let returned = operation.returned().zip(operation.output());
        let call = Call { number, input: &operation.input, invoked: operation.invoked, returned };
        calls.push((group.unwrap_or_default(), call));
    }
    if all_joined {
        return vec![Partition {
            keys: Vec::new(),
            calls: calls.into_iter().map(|c| c.1).collect(),
        }];
    }
    collect(groups, ids, calls)
}

fn collect<'h, M: Model>(
    mut groups: Groups,
    ids: BTreeMap<M::Key, usize>,
    calls: Vec<(usize, Call<'h, M>)>,
) -> Vec<Partition<'h, M>> {
    let mut places = BTreeMap::new();
    let mut partitions: Vec<Partition<'h, M>> = Vec::new();
    for (key, id) in ids {
        let place = *places.entry(groups.root(id)).or_insert(partitions.len());
        match partitions.get_mut(place) {
            Some(partition) => partition.keys.push(key),
            None => partitions.push(Partition { keys: vec![key], calls: Vec::new() }),
        }
    }
    for (group, call) in calls {
        partitions[places[&groups.root(group)]].calls.push(call);
    }
    partitions
}

/// Union-find with path halving.
#[derive(Default)]
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn add(&mut self) -> usize {
        self.parent.push(self.parent.len());
        self.parent.len() - 1
    }

    fn root(&mut self, mut id: usize) -> usize {
        while self.parent[id] != id {
            self.parent[id] = self.parent[self.parent[id]];
            id = self.parent[id];
        }
        id
    }

    fn join(&mut self, a: usize, b: usize) -> usize {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a] = b;
        b
    }
}
