//! What was measured lately: windows of samples, and what is read off them.

use std::{collections::VecDeque, time::Duration};

/// Samples kept.
const WINDOW: usize = 1000;

/// The last samples of something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window(VecDeque<u64>);

impl Window {
    pub(crate) fn add(&mut self, sample: u64) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(crate) fn add_time(&mut self, sample: Duration) {
        self.add(sample.as_micros().min(u128::from(u64::MAX)) as u64);
    }

    /// Median, 99th percentile and last. None before the first sample.
    pub(crate) fn spread(&self) -> Option<Spread> {
        let mut sorted: Vec<u64> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let at = |share: f64| {
            sorted
                .get(((sorted.len() as f64 - 1.0) * share).round() as usize)
                .copied()
        };
        Some(Spread {
            p50: at(0.5)?,
            p99: at(0.99)?,
            last: *self.0.back()?,
        })
    }
}

/// A summary of samples; times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// The median.
    pub p50: u64,
    /// 99 of 100 are not above this.
    pub p99: u64,
    /// The latest.
    pub last: u64,
}

/// How far something large has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, as far as is known.
    pub total: u64,
    /// Bytes a second, lately.
    pub rate: u64,
}

impl Progress {
    /// Time left at this rate; none while there is no rate.
    pub fn left(&self) -> Option<Duration> {
        let rest = self.total.saturating_sub(self.done);
        (self.rate > 0).then(|| Duration::from_secs_f64(rest as f64 / self.rate as f64))
    }
}

/// Makes a rate from the amounts seen at times.
#[derive(Debug, Clone)]
pub(crate) struct Rate {
    since: std::time::Instant,
    begin: u64,
    rate: u64,
}

impl Rate {
    pub(crate) fn new(now: std::time::Instant, amount: u64) -> Self {
        Self {
            since: now,
            begin: amount,
            rate: 0,
        }
    }

    /// The amount now; the rate over the last half second or more.
    pub(crate) fn at(&mut self, now: std::time::Instant, amount: u64) -> u64 {
        let gone = now.duration_since(self.since);
        if gone >= Duration::from_millis(500) {
            self.rate = (amount.saturating_sub(self.begin) as f64 / gone.as_secs_f64()) as u64;
            self.since = now;
            self.begin = amount;
        } else if self.rate == 0 && !gone.is_zero() {
            return (amount.saturating_sub(self.begin) as f64 / gone.as_secs_f64()) as u64;
        }
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_what_is_old_and_knows_its_median() {
        let mut window = Window::default();
        assert!(window.spread().is_none());
        (0..2001).for_each(|n| window.add(n));
        let spread = window.spread().unwrap();
        assert_eq!((spread.p50, spread.p99, spread.last), (1501, 1990, 2000));
    }

    #[test]
    fn time_left_needs_a_rate() {
        let mut progress = Progress {
            done: 50,
            total: 100,
            rate: 0,
        };
        assert_eq!(progress.left(), None);
        progress.rate = 25;
        assert_eq!(progress.left(), Some(Duration::from_secs(2)));
    }
}
