//! What a device has had: which numbers, which events, and which numbers it should have had.

use hawser_proto::broker::statement::{AckCode, Skip};
use minicbor::{Decode, Encode};

use crate::{OpenError, sha256};

/// Most outcomes remembered, to acknowledge again what the mailbox sends again.
const MAX_OUTCOMES: usize = 512;
/// Most events remembered, so that none is handed on twice.
const MAX_EVENTS: usize = 2048;
/// Most separate gaps remembered.
const MAX_GAPS: usize = 64;

/// Numbers that did not come, and that no skip record of the domain's explains: withheld by whoever carries them, or on their
/// way yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Withheld {
    /// First number.
    #[n(0)]
    pub from: u64,
    /// Last number.
    #[n(1)]
    pub to: u64,
}

/// What a number is to this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Not seen yet, and after all that was.
    New,
    /// Not seen yet, and was missed.
    Late,
}

/// A device's memory of what came. Numbers count from 1; only such as stand under the sender's signature may be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Arrivals {
    #[n(0)]
    last: u64,
    #[n(1)]
    outcomes: Vec<(u64, AckCode)>,
    #[n(2)]
    events: Vec<Event>,
    #[n(3)]
    gaps: Vec<Withheld>,
    /// Numbers of gaps that are not remembered any more.
    #[n(4)]
    forgotten: u64,
}

/// The beginning of a hash of source and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
struct Event(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

impl Event {
    fn new(source: &str, id: &str) -> Self {
        let length = (source.len() as u64).to_be_bytes();
        let digest = sha256(&[&length, source.as_bytes(), id.as_bytes()].concat());
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Self(short)
    }
}

impl Arrivals {
    /// The highest number that came or was explained.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Up to here everything came or was explained: where the stream goes on (`Last-Event-ID`).
    pub fn complete(&self) -> u64 {
        self.gaps.first().map_or(self.last, |gap| gap.from - 1)
    }

    /// Whether an envelope with this number is new. To be asked before it is opened.
    pub fn check(&self, sequence: u64) -> Result<Arrival, OpenError> {
        let missed = |gap: &Withheld| (gap.from..=gap.to).contains(&sequence);
        match sequence > self.last {
            true => Ok(Arrival::New),
            false if self.gaps.iter().any(missed) => Ok(Arrival::Late),
            false => Err(OpenError::Replayed {
                sequence,
                last: self.last,
            }),
        }
    }

    /// What was acknowledged for a number; to be repeated when the mailbox sends it again.
    pub fn outcome(&self, sequence: u64) -> Option<AckCode> {
        let of = self.outcomes.iter().rev().find(|(s, _)| *s == sequence);
        of.map(|(_, code)| *code)
    }

    /// Whether this event was handed on before, under whatever number.
    pub fn knows(&self, source: &str, id: &str) -> bool {
        self.events.contains(&Event::new(source, id))
    }

    /// An event was handed on.
    pub fn handed_on(&mut self, source: &str, id: &str) {
        push(&mut self.events, Event::new(source, id), MAX_EVENTS);
    }

    /// A genuine envelope came, and is acknowledged like this. Tells of a gap before it.
    pub fn envelope(&mut self, sequence: u64, code: AckCode) -> Option<Withheld> {
        push(&mut self.outcomes, (sequence, code), MAX_OUTCOMES);
        self.arrived(sequence, sequence)
    }

    /// A genuine skip record came. Tells of a gap before it.
    pub fn skip(&mut self, skip: &Skip) -> Option<Withheld> {
        match skip.from <= skip.to {
            true => self.arrived(skip.from, skip.to),
            false => None,
        }
    }

    /// Numbers that did not come and are not explained, oldest first.
    pub fn withheld(&self) -> &[Withheld] {
        &self.gaps
    }

    /// How many numbers more were withheld than [`Arrivals::withheld`] still tells.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn arrived(&mut self, from: u64, to: u64) -> Option<Withheld> {
        self.close(from, to);
        if to <= self.last {
            return None;
        }
        let gap = (from > self.last.saturating_add(1)).then(|| Withheld {
            from: self.last + 1,
            to: from - 1,
        });
        self.last = to;
        self.gaps.extend(gap);
        self.bound();
        gap
    }

    fn bound(&mut self) {
        let over = self.gaps.len().saturating_sub(MAX_GAPS);
        for gap in self.gaps.drain(..over) {
            self.forgotten = self.forgotten.saturating_add(gap.to - gap.from + 1);
        }
    }

    /// Takes numbers out of the gaps.
    fn close(&mut self, from: u64, to: u64) {
        let rest = |gap: &Withheld| {
            let before = (gap.from < from).then(|| Withheld {
                from: gap.from,
                to: gap.to.min(from.saturating_sub(1)),
            });
            let after = (gap.to > to).then(|| Withheld {
                from: gap.from.max(to.saturating_add(1)),
                to: gap.to,
            });
            before.into_iter().chain(after)
        };
        self.gaps = self.gaps.iter().flat_map(rest).collect();
        self.bound();
    }
}

fn push<T>(list: &mut Vec<T>, item: T, limit: usize) {
    if list.len() >= limit {
        list.drain(..=list.len() - limit);
    }
    list.push(item);
}
