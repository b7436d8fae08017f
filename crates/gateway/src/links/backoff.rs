//! How long to wait before trying again: exponential, jittered, and forgotten after a stable time.

use std::time::Duration;

use super::chance::Chance;

/// Waits between tries. Pure: the caller tells how long the last success held.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    stable: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from about `first` doubling to about `most`; a success that held for `stable` starts again at `first`.
    pub(crate) fn new(first: Duration, most: Duration, stable: Duration) -> Self {
        Self {
            first,
            most,
            stable,
            next: first,
        }
    }

    /// The wait after a failure: between half of the nominal value and all of it, so that gateways that lost the same hub do
    /// not come back in step.
    pub(crate) fn failed(&mut self, chance: &Chance) -> Duration {
        let nominal = self.next;
        self.next = (self.next * 2).min(self.most);
        nominal.mul_f64(0.5 + chance.fraction() / 2.0)
    }

    /// A success held for `held`.
    pub(crate) fn held(&mut self, held: Duration) {
        if held >= self.stable {
            self.next = self.first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_to_the_most_with_jitter_and_reset_when_stable() {
        let chance = Chance::seeded(1);
        let mut backoff = Backoff::new(100 * MS, Duration::from_secs(30), Duration::from_secs(10));
        for nominal in [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
            let wait = backoff.failed(&chance);
            assert!(
                wait >= nominal / 2 * MS && wait <= nominal * MS,
                "{wait:?} for {nominal}"
            );
        }
        backoff.held(Duration::from_secs(1));
        assert!(
            backoff.failed(&chance) >= Duration::from_secs(15),
            "a short success resets nothing"
        );
        backoff.held(Duration::from_secs(10));
        assert!(backoff.failed(&chance) <= 100 * MS);
    }
}
