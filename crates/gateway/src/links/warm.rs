//! Warm TCP sessions with one peer gateway: made before they are wanted, each used for one connection, so that a connection
//! costs one round trip and no handshake.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most warm sessions with one peer.
pub(crate) const MAX_WARM: usize = 8;
/// Unused for this long, the warm sessions of a peer are dropped.
pub(crate) const UNUSED: Duration = Duration::from_secs(60);
/// Connections within this time decide how many are kept warm.
const RECENT: Duration = Duration::from_secs(2);

/// The warm sessions with one peer: which to use and how many to make. Pure; `S` is a session.
#[derive(Debug)]
pub(crate) struct Warm<S> {
    ready: VecDeque<Ready<S>>,
    /// Being made.
    making: usize,
    /// When sessions were lately wanted, at most [`MAX_WARM`] of them.
    wanted: VecDeque<Instant>,
}

#[derive(Debug)]
struct Ready<S> {
    session: S,
    drop_at: Instant,
}

impl<S> Default for Warm<S> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            making: 0,
            wanted: VecDeque::new(),
        }
    }
}

impl<S> Warm<S> {
    /// A warm session, the newest; whether it is still alive is for the caller to see. Notes that one was wanted.
    pub(crate) fn take(&mut self, now: Instant) -> Option<S> {
        if self.wanted.len() >= MAX_WARM {
            self.wanted.pop_front();
        }
        self.wanted.push_back(now);
        self.ready.retain(|r| now < r.drop_at);
        self.ready.pop_back().map(|r| r.session)
    }

    /// How many are to be made now; they count as being made until [`Warm::made`] or [`Warm::not_made`].
    pub(crate) fn refill(&mut self, now: Instant) -> usize {
        let missing = self.target(now).saturating_sub(self.ready.len() + self.making);
        self.making += missing;
        missing
    }

    /// One was made, good until `drop_at`.
    pub(crate) fn made(&mut self, session: S, drop_at: Instant) {
        self.making = self.making.saturating_sub(1);
        self.ready.push_back(Ready { session, drop_at });
    }

    /// One could not be made. No more are tried until the next one is wanted.
    pub(crate) fn not_made(&mut self) {
        self.making = self.making.saturating_sub(1);
        self.wanted.clear();
    }

    /// Drops what is unused, due, or no longer alive.
    pub(crate) fn sweep(&mut self, now: Instant, mut alive: impl FnMut(&mut S) -> bool) {
        if self.target(now) == 0 {
            self.ready.clear();
        }
        self.ready
            .retain_mut(|r| now < r.drop_at && alive(&mut r.session));
    }

    /// How many stand ready.
    pub(crate) fn len(&self) -> usize {
        self.ready.len()
    }

    /// One while the peer is in use, more when connections come in quick succession.
    fn target(&self, now: Instant) -> usize {
        let Some(last) = self.wanted.back() else { return 0 };
        if now.duration_since(*last) >= UNUSED {
            return 0;
        }
        let recent = self
            .wanted
            .iter()
            .filter(|at| now.duration_since(**at) < RECENT)
            .count();
        recent.clamp(1, MAX_WARM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_use_makes_one_warm_and_a_run_makes_more() {
        let now = Instant::now();
        let mut warm = Warm::default();
        assert_eq!(warm.refill(now), 0, "nothing before the first use");
        assert_eq!(warm.take(now), None);
        assert_eq!(warm.refill(now), 1);
        assert_eq!(warm.refill(now), 0, "it is being made");
        warm.made('a', now + 100 * S);
        assert_eq!(warm.take(now), Some('a'));
        for _ in 0..20 {
            assert_eq!(warm.take(now), None);
        }
        assert_eq!(warm.refill(now), MAX_WARM);
    }

    #[test]
    fn what_is_unused_due_or_dead_goes() {
        let now = Instant::now();
        let mut warm = Warm::default();
        warm.take(now);
        warm.made('a', now + 5 * S);
        warm.made('b', now + 100 * S);
        warm.made('c', now + 100 * S);
        warm.sweep(now + 6 * S, |s| *s != 'c');
        assert_eq!(warm.len(), 1);
        warm.sweep(now + UNUSED, |_| true);
        assert_eq!((warm.len(), warm.refill(now + UNUSED)), (0, 0));
    }

    #[test]
    fn a_failure_is_not_repeated_until_one_is_wanted_again() {
        let now = Instant::now();
        let mut warm = Warm::<()>::default();
        warm.take(now);
        assert_eq!(warm.refill(now), 1);
        warm.not_made();
        assert_eq!(warm.refill(now), 0);
        warm.take(now);
        assert_eq!(warm.refill(now), 1);
    }
}
