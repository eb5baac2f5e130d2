//! What the search remembers: the distinct states, and the configurations it has visited.
//!
//! A configuration is the number of returns already explained, the operations taken early (known
//! ones whose return is still ahead, as bits over reused slots; unknown ones as bits for ever) and
//! the state. Exact, not a digest. One that has spent a superset of the unknown operations of a
//! visited one can do nothing that the visited one could not, and is pruned with it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};
use std::rc::Rc;

/// Fixed keys: the same run takes the same time. Nothing iterates over these maps.
pub(super) type FixedHash = BuildHasherDefault<DefaultHasher>;

/// A set of small numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    /// An empty set of numbers below `bound`.
    pub fn below(bound: usize) -> Self {
        Bits(vec![0; bound.div_ceil(64)].into())
    }

    pub fn insert(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    pub fn remove(&mut self, bit: usize) {
        self.0[bit / 64] &= !(1 << (bit % 64));
    }

    pub fn contains(&self, bit: usize) -> bool {
        self.0[bit / 64] & (1 << (bit % 64)) != 0
    }

    /// Whether all of this is in `other`, which has the same bound.
    fn within(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & !b == 0)
    }
}

/// Names a state of one search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StateId(usize);

/// Every distinct state once.
pub(super) struct States<S> {
    states: Vec<Rc<S>>,
    ids: HashMap<Rc<S>, StateId, FixedHash>,
}

impl<S: Eq + Hash> States<S> {
    pub fn new() -> Self {
        States { states: Vec::new(), ids: HashMap::default() }
    }

    pub fn id(&mut self, state: S) -> StateId {
        if let Some(id) = self.ids.get(&state) {
            return *id;
        }
        let (id, state) = (StateId(self.states.len()), Rc::new(state));
        self.states.push(Rc::clone(&state));
        self.ids.insert(state, id);
        id
    }

    pub fn get(&self, id: StateId) -> &S {
        &self.states[id.0]
    }
}

/// The visited configurations.
#[derive(Default)]
pub(super) struct Memo {
    visited: HashMap<(usize, StateId, Bits), Vec<Bits>, FixedHash>,
}

impl Memo {
    /// Whether the configuration is new; remembers it if so.
    pub fn visit(&mut self, explained: usize, state: StateId, known: &Bits, open: &Bits) -> bool {
        let spent = self.visited.entry((explained, state, known.clone())).or_default();
        if spent.iter().any(|visited| visited.within(open)) {
            return false;
        }
        spent.retain(|visited| !open.within(visited));
        spent.push(open.clone());
        true
    }
}
