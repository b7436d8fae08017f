//! When the sender begins: at a fixed share of the ring, or at one that follows from measured rates.

use std::time::Duration;

/// Bytes over which a rate is the mean: what is older counts less and less.
const WINDOW: f64 = 8e6;
/// An adaptive threshold is never above this share of the ring: rates are guesses.
const HIGHEST: f64 = 0.5;

/// The fill of the ring at which the sender begins.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Threshold {
    /// A share of the ring's capacity, 0 to 1.
    Fixed(f64),
    /// As late as it can be without the copier waiting for it, as early as it must be for the sender not to run dry: for a
    /// copy of B bytes at write rate W, emptied at rate D (reading and sending, one after the other), the sender that
    /// begins at B x (1 - W / D) reaches the copier just at the end of the copy. With D <= W it begins with the first slot.
    #[default]
    Adaptive,
}

/// Measured rates, in bytes per second; zero: not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Rates {
    /// The copier into the ring, without its waits.
    pub write: f64,
    /// The sender out of the ring (digests), without the channel.
    pub read: f64,
    /// The channel.
    pub send: f64,
}

// Rates are measured, never the result of zero by zero.
impl Eq for Rates {}

impl Rates {
    /// At what rate the ring is emptied.
    fn drain(&self) -> f64 {
        if self.read > 0.0 && self.send > 0.0 {
            1.0 / (1.0 / self.read + 1.0 / self.send)
        } else {
            0.0
        }
    }
}

/// Measures rates. Bytes and time are summed apart, since a mean of single rates would be that of the lucky ones.
#[derive(Debug, Default)]
pub(super) struct Meters {
    write: Meter,
    read: Meter,
    send: Meter,
}

impl Meters {
    pub(super) fn copied(&mut self, bytes: u64, took: Duration) {
        self.write.add(bytes, took);
    }

    pub(super) fn sent(&mut self, bytes: u64, reading: Duration, sending: Duration) {
        self.read.add(bytes, reading);
        self.send.add(bytes, sending);
    }

    pub(super) fn rates(&self) -> Rates {
        Rates {
            write: self.write.rate(),
            read: self.read.rate(),
            send: self.send.rate(),
        }
    }
}

#[derive(Debug, Default)]
struct Meter {
    bytes: f64,
    seconds: f64,
}

impl Meter {
    fn add(&mut self, bytes: u64, took: Duration) {
        let older = (-(bytes as f64) / WINDOW).exp();
        self.bytes = self.bytes * older + bytes as f64;
        self.seconds = self.seconds * older + took.as_secs_f64();
    }

    fn rate(&self) -> f64 {
        if self.seconds > 0.0 {
            self.bytes / self.seconds
        } else {
            0.0
        }
    }
}

impl Threshold {
    /// The threshold in bytes: at least one slot, and low enough to be reached before the ring is full.
    pub(super) fn bytes(&self, capacity: usize, slot: usize, expected: usize, rates: Rates) -> usize {
        let bytes = match self {
            Threshold::Fixed(share) => share.clamp(0.0, 1.0) * capacity as f64,
            Threshold::Adaptive => {
                let drain = rates.drain();
                if rates.write <= 0.0 || drain <= rates.write {
                    0.0
                } else {
                    let latest = expected as f64 * (1.0 - rates.write / drain);
                    latest.min(HIGHEST * capacity as f64)
                }
            }
        };
        // Slots are rarely filled to the brim, so the last one does not count.
        (bytes as usize).clamp(1, capacity - slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 32 << 20;
    const SLOT: usize = 256 << 10;

    fn adaptive(write: f64, read: f64, send: f64) -> usize {
        Threshold::Adaptive.bytes(CAPACITY, SLOT, 10 << 20, Rates { write, read, send })
    }

    #[test]
    fn a_share_is_a_share_of_the_ring() {
        let at = |share| Threshold::Fixed(share).bytes(CAPACITY, SLOT, 1, Rates::default());
        assert_eq!(at(0.5), CAPACITY / 2);
        assert_eq!(at(0.0), 1);
        assert_eq!(at(1.0), CAPACITY - SLOT);
    }

    #[test]
    fn unknown_rates_begin_at_once() {
        assert_eq!(adaptive(0.0, 0.0, 0.0), 1);
    }

    #[test]
    fn a_channel_slower_than_the_copier_begins_at_once() {
        assert_eq!(adaptive(3e9, 10e9, 0.1e9), 1);
    }

    #[test]
    fn a_faster_channel_begins_so_late_that_it_does_not_run_dry() {
        // Emptied at 2e9, filled at 1e9: half of the copy has to be there.
        let at = adaptive(1e9, 4e9, 4e9);
        assert!((at as f64 - (5 << 20) as f64).abs() < 2.0, "{at}");
    }

    #[test]
    fn a_much_faster_channel_begins_at_half_of_the_ring_at_the_latest() {
        let at = Threshold::Adaptive.bytes(
            4 << 20,
            SLOT,
            100 << 20,
            Rates {
                write: 1e8,
                read: 1e11,
                send: 1e11,
            },
        );
        assert_eq!(at, 2 << 20);
    }

    #[test]
    fn rates_are_means_over_bytes_and_forget_what_is_old() {
        let mut meters = Meters::default();
        assert_eq!(meters.rates(), Rates::default());
        // Half of the bytes at 1, half at 3: it took 4/3 seconds for two.
        meters.sent(10, Duration::from_secs(1), Duration::from_secs(10));
        meters.sent(10, Duration::from_secs(1), Duration::from_secs_f64(10.0 / 3.0));
        assert!((meters.rates().send - 1.5).abs() < 1e-3);
        for _ in 0..20 {
            meters.copied(WINDOW as u64, Duration::from_secs(1));
        }
        meters.copied(20 * WINDOW as u64, Duration::from_secs(10));
        assert!((meters.rates().write / WINDOW - 2.0).abs() < 1e-3);
        meters.copied(0, Duration::ZERO);
        assert!((meters.rates().write / WINDOW - 2.0).abs() < 1e-3);
    }
}
