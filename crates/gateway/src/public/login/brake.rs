//! How often passwords may be guessed: after some wrong ones the next waits, and longer after each further one. Without I/O.
//!
//! Names are counted in a fixed number of slots, by a hash under a key of this process: a table by name would grow with every
//! name that strangers think of, and could tell which names there are.

use std::time::{Duration, Instant};

/// Places where names are counted.
const SLOTS: usize = 4096;
/// Wrong passwords without a wait.
const FREE: u32 = 5;
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// After this long without a try all is forgotten.
const FORGET: Duration = Duration::from_secs(15 * 60);

/// Counts wrong passwords.
pub(super) struct Brake(Box<[Slot]>);

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Tries since the last right one.
    tries: u32,
    last: Option<Instant>,
}

impl Brake {
    pub(super) fn new() -> Self {
        Self(vec![Slot { tries: 0, last: None }; SLOTS].into())
    }

    /// A try that begins counts as a wrong one until [`Brake::right`], so that many at once are counted, too. Err: how long it is to
    /// wait, uncounted.
    pub(super) fn begin(&mut self, name: u64, now: Instant) -> Result<(), Duration> {
        let slot = self.slot(name);
        if let Some(last) = slot.last {
            let since = now.saturating_duration_since(last);
            if since >= FORGET {
                slot.tries = 0;
            }
            let wait = wait(slot.tries);
            if since < wait {
                return Err(wait - since);
            }
        }
        slot.tries = slot.tries.saturating_add(1);
        slot.last = Some(now);
        Ok(())
    }

    /// It was right.
    pub(super) fn right(&mut self, name: u64) {
        self.slot(name).tries = 0;
    }

    /// It was not looked at after all.
    pub(super) fn undone(&mut self, name: u64) {
        let slot = self.slot(name);
        slot.tries = slot.tries.saturating_sub(1);
    }

    fn slot(&mut self, name: u64) -> &mut Slot {
        let place = usize::try_from(name % SLOTS as u64).unwrap_or(0);
        &mut self.0[place]
    }
}

/// Before the next try, after so many.
fn wait(tries: u32) -> Duration {
    match tries.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(over) => Duration::from_secs(1 << over.min(6)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_wait_longer_and_longer_and_others_do_not() {
        let mut brake = Brake::new();
        let mut now = Instant::now();
        for _ in 0..FREE {
            brake.begin(7, now).unwrap();
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = brake.begin(7, now).unwrap_err();
            assert!(brake.begin(8, now).is_ok());
            brake.right(8);
            waits.push(wait.as_secs());
            now += wait;
            brake.begin(7, now).unwrap();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        brake.right(7);
        assert!(brake.begin(7, now).is_ok());
    }

    #[test]
    fn in_the_end_it_is_forgotten() {
        let mut brake = Brake::new();
        let now = Instant::now();
        for _ in 0..FREE {
            brake.begin(7, now).unwrap();
        }
        assert!(brake.begin(7, now).is_err());
        for _ in 0..FREE {
            assert!(brake.begin(7, now + FORGET).is_ok());
        }
    }
}
