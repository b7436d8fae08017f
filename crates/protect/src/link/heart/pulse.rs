//! One peer's heartbeats and ours to it, as a state machine: datagrams and moments in, datagrams and events out. No I/O.

use std::time::Duration;

use super::datagram::{Beat, HeartKeys, LENGTH, Tag};
use crate::link::Moment;

/// Our last beats whose times are kept, to tell when the one was sent that the peer has heard.
const KEPT: usize = 256;

/// How often, and how long is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Time between two beats.
    pub every: Duration,
    /// Silence after which [`HeartEvent::Silent`] is told.
    pub silent_after: Duration,
    /// A pause of this process after which its judgement of silence begins anew.
    pub frozen_after: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(20),
            silent_after: Duration::from_millis(100),
            frozen_after: Duration::from_millis(100),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartEvent {
    /// Nothing came for [`Rhythm::silent_after`].
    Silent,
    /// Something came after silence, or for the first time.
    Heard,
    /// The peer tells another status than before.
    Status(u16),
    /// This very process did not run for a while: it was stopped, starved, or its host slept. Others may have decided since.
    Frozen(Gap),
}

/// A time in which this process did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When it last ran before.
    pub from: Moment,
    /// For how long it did not.
    pub length: Duration,
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeartStats {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the system would not send.
    pub unsent: u64,
    /// Datagrams of the peer.
    pub received: u64,
    /// Datagrams of the peer that came late or once more, and were not listened to.
    pub stale: u64,
    /// Datagrams with the peer's tag that it did not send, or that were changed.
    pub forged: u64,
    /// Times that this process was found not to have run.
    pub gaps: u64,
    /// The latest round trip.
    pub round_trip: Option<Duration>,
    /// How much too late our latest of all beats was sent.
    pub latest: Duration,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Fresh,
    Stale,
    Forged,
}

pub(super) struct Pulse {
    keys: HeartKeys,
    rhythm: Rhythm,
    /// Sequence number of the next beat.
    next: u64,
    next_at: Moment,
    times: [Moment; KEPT],
    status: u16,
    /// The peer's latest beat, and when it came.
    peer: Option<(Beat, Moment)>,
    confirmed: Option<Moment>,
    silence: Duration,
    silent: bool,
    ticked: Moment,
    heard: Option<Moment>,
    gap: Option<Gap>,
    stats: HeartStats,
}

impl Pulse {
    pub(super) fn new(keys: HeartKeys, rhythm: Rhythm, now: Moment) -> Self {
        Self {
            keys,
            rhythm,
            next: 1,
            next_at: now,
            times: [Moment::default(); KEPT],
            status: 0,
            peer: None,
            confirmed: None,
            silence: Duration::ZERO,
            silent: false,
            ticked: now,
            heard: None,
            gap: None,
            stats: HeartStats::default(),
        }
    }

    /// By which its datagrams are known.
    pub(super) fn tag(&self) -> Tag {
        self.keys.receive.tag
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_at(&self) -> Moment {
        let judged = if self.silent {
            self.next_at
        } else {
            self.ticked
                .plus(self.rhythm.silent_after.saturating_sub(self.silence))
        };
        self.next_at.min(judged)
    }

    /// The beat that is due now, if one is.
    pub(super) fn beat(&mut self, now: Moment) -> Option<[u8; LENGTH]> {
        if now < self.next_at {
            return None;
        }
        self.stats.latest = self.stats.latest.max(now.since(self.next_at));
        // Beats that were missed are not made up for.
        self.next_at = self.next_at.plus(self.rhythm.every);
        if self.next_at <= now {
            self.next_at = now.plus(self.rhythm.every);
        }
        let (heard, ago) = self
            .peer
            .map_or((0, Duration::ZERO), |(beat, at)| (beat.sequence, now.since(at)));
        let beat = Beat {
            sequence: self.next,
            heard,
            heard_ago: u32::try_from(ago.as_micros()).unwrap_or(u32::MAX),
            status: self.status,
        };
        self.times[(self.next % KEPT as u64) as usize] = now;
        self.next += 1;
        Some(self.keys.send.seal(&beat))
    }

    /// A datagram with this session's tag came.
    pub(super) fn receive(&mut self, datagram: &[u8], now: Moment, events: &mut Vec<HeartEvent>) -> Verdict {
        let Some(beat) = self.keys.receive.open(datagram) else {
            self.stats.forged += 1;
            return Verdict::Forged;
        };
        let (last, status) = self.peer.map_or((0, 0), |(b, _)| (b.sequence, b.status));
        if beat.sequence <= last {
            self.stats.stale += 1;
            return Verdict::Stale;
        }
        self.stats.received += 1;
        self.peer = Some((beat, now));
        self.heard = Some(now);
        if beat.status != status {
            events.push(HeartEvent::Status(beat.status));
        }
        if beat.heard > 0 && beat.heard < self.next && self.next - beat.heard <= KEPT as u64 {
            let sent = self.times[(beat.heard % KEPT as u64) as usize];
            if self.confirmed.is_none_or(|c| sent >= c) {
                self.confirmed = Some(sent);
                let ago = Duration::from_micros(beat.heard_ago.into());
                self.stats.round_trip = Some(now.since(sent).saturating_sub(ago));
            }
        }
        Verdict::Fresh
    }

    /// Judges silence. To be called after everything that has come was given to [`Self::receive`]: what waited while this
    /// process did not run counts as heard. `life` is when anything else last came from the peer.
    pub(super) fn tick(&mut self, now: Moment, life: Option<Moment>, events: &mut Vec<HeartEvent>) {
        let passed = now.since(self.ticked);
        let frozen = passed >= self.rhythm.frozen_after;
        let fresh = self.heard.max(life).filter(|h| *h > self.ticked);
        self.silence = match fresh {
            Some(heard) => now.since(heard),
            None if frozen => Duration::ZERO,
            // Time in which this process hardly ran proves nothing about the peer.
            None => self.silence + passed.min(2 * self.rhythm.every),
        };
        if frozen {
            let gap = Gap {
                from: self.ticked,
                length: passed,
            };
            self.gap = Some(gap);
            self.stats.gaps += 1;
            events.push(HeartEvent::Frozen(gap));
        }
        self.ticked = now;
        let ever = self.heard.is_some() || life.is_some();
        if self.silence >= self.rhythm.silent_after && !self.silent {
            self.silent = true;
            events.push(HeartEvent::Silent);
        } else if fresh.is_some() && self.silent && ever {
            self.silent = false;
            events.push(HeartEvent::Heard);
        }
    }

    pub(super) fn sent(&mut self, ok: bool) {
        if ok {
            self.stats.sent += 1;
        } else {
            self.stats.unsent += 1;
        }
    }

    /// Tells the peer this from now on, beginning at once.
    pub(super) fn tell(&mut self, status: u16, now: Moment) {
        self.status = status;
        self.next_at = self.next_at.min(now);
    }

    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    pub(super) fn heard(&self) -> Option<Moment> {
        self.heard
    }

    pub(super) fn confirmed(&self) -> Option<Moment> {
        self.confirmed
    }

    pub(super) fn peer_status(&self) -> Option<u16> {
        self.peer.map(|(beat, _)| beat.status)
    }

    /// The last time in which this process did not run, also the one that ends only now.
    pub(super) fn gap(&self, now: Moment) -> Option<Gap> {
        let length = now.since(self.ticked);
        if length >= self.rhythm.frozen_after {
            let from = self.ticked;
            return Some(Gap { from, length });
        }
        self.gap
    }

    pub(super) fn stats(&self) -> HeartStats {
        self.stats
    }
}

#[cfg(test)]
mod tests;
