//! Small, fast, unpredictable-enough numbers for jitter and balancing. Not for secrets.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// A source of numbers (splitmix64), shareable between threads.
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    /// Seeded by the process's hash keys.
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one("hawser"))
    }

    /// The same numbers each time.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Any number.
    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; zero when `n` is zero.
    pub(crate) fn below(&self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// A fraction in `0.0..1.0`.
    pub(crate) fn fraction(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_and_reach_all() {
        let chance = Chance::seeded(7);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[chance.below(5)] += 1;
            assert!((0.0..1.0).contains(&chance.fraction()));
        }
        assert!(seen.iter().all(|&n| n > 120), "{seen:?}");
        assert_eq!(chance.below(0), 0);
    }
}
