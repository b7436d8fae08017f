//! When the next epoch is due. A busy guest gets one each interval; output that waits makes one due at once when the last is an
//! interval ago; a guest that neither writes much nor sends anything is left alone for longer, because every pause costs its
//! clock as much as it lasts.

use std::time::{Duration, Instant};

/// Pauses of an idle guest take at most one part in so many of its time.
const SHARE: u32 = 400;
/// Bounds of [`Pace::longest`].
const IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Bounds and thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From the begin of one epoch to the begin of the next while there is something to do.
    pub interval: Duration,
    /// The longest that an idle guest goes without an epoch: what is lost of its computing, unseen by anybody, when its host dies.
    pub longest: Duration,
    /// From so many written pages on an epoch is due though no output waits.
    pub pages: u64,
    /// Epochs that may be on their way to the standby, not acknowledged.
    pub in_flight: u64,
}

impl Pace {
    /// The defaults around an interval.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            longest: IDLE.0.max(interval),
            pages: 4096,
            in_flight: 2,
        }
    }

    /// An idle guest's clock is to lose little, however long a pause takes here: at most one part in [`SHARE`].
    pub fn keep_clock(&mut self, pause: Duration) {
        self.longest = (pause * SHARE).clamp(IDLE.0, IDLE.1).max(self.interval);
    }

    /// When the next epoch is due, given when the last began, how many epochs are not acknowledged, and what is known of the
    /// guest. None: not before an acknowledgement.
    pub fn due(&self, last: Instant, in_flight: u64, output_waits: bool, written: u64) -> Option<Instant> {
        if in_flight >= self.in_flight {
            return None;
        }
        let gap = if output_waits || written >= self.pages {
            self.interval
        } else {
            self.longest
        };
        Some(last + gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_guest_is_left_alone_and_a_waiting_frame_is_not() {
        let pace = Pace::new(Duration::from_millis(50));
        let last = Instant::now();
        assert_eq!(pace.due(last, 0, false, 10), Some(last + Duration::from_secs(1)));
        assert_eq!(pace.due(last, 0, true, 0), Some(last + Duration::from_millis(50)));
        assert_eq!(
            pace.due(last, 0, false, 4096),
            Some(last + Duration::from_millis(50))
        );
        assert_eq!(pace.due(last, 2, true, 4096), None, "back-pressure");
        let mut slow = pace;
        slow.keep_clock(Duration::from_millis(10));
        assert_eq!(
            slow.longest,
            Duration::from_secs(4),
            "a quarter of a percent of its time"
        );
    }
}
