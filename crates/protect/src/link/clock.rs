//! Time that goes on while the system sleeps, which `Instant` does not.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment of this host's `CLOCK_BOOTTIME`, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub(super) u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        // This clock is in every kernel since 2.6.39, and reading it cannot fail then.
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Time from an earlier moment to this one; zero if that one is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from this moment to now.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// This long after it.
    pub fn plus(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}
