//! Everything that lives under an identity, so that it can be cut at once: control connections and data sessions.
//!
//! `P` is what is known of a party. Cutting walks all that lives, which is rare (a revocation, another policy); entering and
//! leaving is cheap. Whoever enters must look at the trust in force *after* entering: a revocation between the proof of an
//! identity and its entry here would pass by otherwise.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Why something was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    /// An identity, its issuer or its domain was revoked, or the domain is no longer admitted.
    Revoked,
    /// The policy in force does not allow it any more.
    Policy,
    /// A newer connection of the same gateway has taken over.
    Replaced,
    /// The hub is going.
    Drained,
}

impl Cut {
    /// The word in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Cut::Revoked => "revoked",
            Cut::Policy => "policy",
            Cut::Replaced => "replaced",
            Cut::Drained => "drained",
        }
    }
}

/// What is to be cut: the parties of each living thing, the dialling one first.
pub(crate) type Parties<P> = [Option<Arc<P>>; 2];

/// All that lives.
#[derive(Debug)]
pub(crate) struct Lives<P>(Mutex<Table<P>>);

#[derive(Debug)]
struct Table<P> {
    next: u64,
    entries: HashMap<u64, Entry<P>>,
}

#[derive(Debug)]
struct Entry<P> {
    parties: Parties<P>,
    life: Life,
}

/// One living thing's end. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Life(Arc<LifeInner>);

#[derive(Debug, Default)]
struct LifeInner {
    token: CancellationToken,
    why: OnceLock<Cut>,
}

impl Life {
    /// Ends it; the first reason counts.
    pub(crate) fn cut(&self, why: Cut) {
        let _ = self.0.why.set(why);
        self.0.token.cancel();
    }

    /// Cancelled when it is cut.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Why it was cut; none while it lives.
    pub(crate) fn why(&self) -> Option<Cut> {
        self.0.why.get().copied()
    }
}

/// An entry; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Living<P> {
    lives: Arc<Lives<P>>,
    key: u64,
    life: Life,
}

impl<P> Default for Lives<P> {
    fn default() -> Self {
        Self(Mutex::new(Table {
            next: 0,
            entries: HashMap::new(),
        }))
    }
}

impl<P> Lives<P> {
    /// Something begins to live under these identities.
    pub(crate) fn enter(self: &Arc<Self>, parties: Parties<P>) -> Living<P> {
        let life = Life(Arc::default());
        let mut table = self.table();
        let key = table.next;
        table.next += 1;
        table.entries.insert(
            key,
            Entry {
                parties,
                life: life.clone(),
            },
        );
        Living {
            lives: self.clone(),
            key,
            life,
        }
    }

    /// Cuts everything for which `judge` has a reason. Gives how many were cut.
    pub(crate) fn cut(&self, judge: impl Fn(&Parties<P>) -> Option<Cut>) -> usize {
        // Cancelling wakes tasks, which is done outside the lock.
        let condemned: Vec<_> = self
            .table()
            .entries
            .values()
            .filter(|e| e.life.why().is_none())
            .filter_map(|e| Some((e.life.clone(), judge(&e.parties)?)))
            .collect();
        for (life, why) in &condemned {
            life.cut(*why);
        }
        condemned.len()
    }

    fn table(&self) -> MutexGuard<'_, Table<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Living<P> {
    /// The handle by which it ends.
    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// It lives under these identities from now on.
    pub(crate) fn belongs_to(&self, parties: Parties<P>) {
        if let Some(entry) = self.lives.table().entries.get_mut(&self.key) {
            entry.parties = parties;
        }
    }
}

impl<P> Drop for Living<P> {
    fn drop(&mut self) {
        self.lives.table().entries.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn either(name: &'static str) -> impl Fn(&Parties<&'static str>) -> Option<Cut> {
        move |parties| {
            parties
                .iter()
                .flatten()
                .any(|p| **p == name)
                .then_some(Cut::Revoked)
        }
    }

    #[test]
    fn a_cut_reaches_everything_of_an_identity_and_nothing_else() {
        let lives = Arc::new(Lives::default());
        let [a, b] = ["a", "b"].map(Arc::new);
        let control = lives.enter([Some(a.clone()), None]);
        let pair = lives.enter([Some(b.clone()), None]);
        let other = lives.enter([Some(b.clone()), None]);
        pair.belongs_to([Some(b), Some(a)]);
        assert_eq!(lives.cut(either("a")), 2);
        assert_eq!(lives.cut(either("a")), 0, "once");
        assert!(control.life().token().is_cancelled() && pair.life().token().is_cancelled());
        assert_eq!(pair.life().why(), Some(Cut::Revoked));
        assert!(!other.life().token().is_cancelled());
        pair.life().cut(Cut::Drained);
        assert_eq!(pair.life().why(), Some(Cut::Revoked));
        drop((control, pair, other));
        assert!(lives.table().entries.is_empty());
    }
}
