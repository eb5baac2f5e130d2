//! Something that has a state in memory and another on the medium, and the changes between them.
//! Guarantees: a change is on the medium for certain once a sync succeeded after it and no sync
//! failed in between; a change that a failed sync has covered never becomes certain again.
//! What an uncertain change leaves behind after a power cut is decided by the caller.

/// A state that changes can be applied to.
pub(super) trait Content: Clone {
    /// One change.
    type Change;

    /// Applies the change; must not fail, since it is replayed on states that lack others.
    fn apply(&mut self, change: &Self::Change);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    /// No sync has covered it yet.
    Dirty,
    /// A sync that failed has covered it: as Linux marks such pages clean, none will write it.
    Lost,
    /// Certain, but behind an uncertain change, so not yet part of `durable`.
    Synced,
}

/// The state in memory, the state that is certain to be on the medium, and what lies between.
#[derive(Debug, Clone, Hash)]
pub(super) struct Journaled<C: Content> {
    live: C,
    durable: C,
    changes: Vec<(C::Change, Fate)>,
}

impl<C: Content> Journaled<C> {
    pub(super) fn new(content: C) -> Self {
        Self { live: content.clone(), durable: content, changes: Vec::new() }
    }

    pub(super) fn live(&self) -> &C {
        &self.live
    }

    pub(super) fn durable(&self) -> &C {
        &self.durable
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &C::Change> {
        self.changes.iter().map(|(change, _)| change)
    }

    /// How many changes a power cut now might lose.
    pub(super) fn uncertain(&self) -> usize {
        self.changes.iter().filter(|(_, fate)| *fate != Fate::Synced).count()
    }

    pub(super) fn change(&mut self, change: C::Change) {
        self.live.apply(&change);
        self.changes.push((change, Fate::Dirty));
    }

    /// A change of the medium itself, seen at once and never lost.
    pub(super) fn change_medium(&mut self, change: C::Change) {
        self.live.apply(&change);
        self.changes.push((change, Fate::Synced));
        self.fold();
    }

    pub(super) fn sync(&mut self) {
        self.cover_dirty(Fate::Synced);
        self.fold();
    }

    pub(super) fn fail_sync(&mut self) {
        self.cover_dirty(Fate::Lost);
    }

    /// Cuts the power: certain changes stay, `remains` applies what is left of each other one.
    pub(super) fn cut(&mut self, mut remains: impl FnMut(&mut C, &C::Change)) {
        for (change, fate) in self.changes.drain(..) {
            match fate {
                Fate::Synced => self.durable.apply(&change),
                Fate::Dirty | Fate::Lost => remains(&mut self.durable, &change),
            }
        }
        self.live = self.durable.clone();
    }

    fn cover_dirty(&mut self, outcome: Fate) {
        for (_, fate) in &mut self.changes {
            if *fate == Fate::Dirty {
                *fate = outcome;
            }
        }
    }

    /// Moves the certain changes at the front into `durable`. Those behind an uncertain one must
    /// wait: applied first, they would be overwritten by what remains of the older one.
    fn fold(&mut self) {
        let certain = self.changes.iter().take_while(|(_, fate)| *fate == Fate::Synced).count();
        for (change, _) in self.changes.drain(..certain) {
            self.durable.apply(&change);
        }
    }
}
