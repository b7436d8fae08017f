//! One device's way to the mailbox: sequence numbers without gaps, and never a number after a higher one. A device takes an
//! envelope with a lower number than it has seen for a replay, so a number that failed while a later one was kept is given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hawser_proto::UnixTime;

use super::Key;

/// Most numbers of one device that are on their way to the mailbox at a time.
pub(super) const WINDOW: usize = 32;
/// Wait after the first and after many refusals in a row, in seconds.
const PATIENCE: [u64; 6] = [1, 2, 4, 8, 15, 30];

/// How far a number is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be sealed (unless it was) and deposited.
    Todo,
    /// That is being done.
    Moving,
    /// The mailbox would not take it now.
    Failed,
    /// It failed, and the mailbox may have kept a later one since.
    Passed,
}

/// See the module page.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The number that was given last.
    last: u64,
    /// Highest number that the mailbox has kept.
    kept: u64,
    /// Rows without a number, in their order. Some may have gone elsewhere meanwhile.
    waiting: VecDeque<Key>,
    /// Numbers that the mailbox has not confirmed.
    out: BTreeMap<u64, (Key, Stage)>,
    /// Numbers that were given up while they were moving: the mailbox may keep them yet.
    leaving: BTreeSet<u64>,
    /// Rows that are not final.
    pub(super) rows: BTreeSet<Key>,
    blocked: Option<UnixTime>,
    refusals: usize,
    /// Whether the machine has it in its list of lanes that can go on.
    pub(super) listed: bool,
}

impl Lane {
    /// A lane whose next number is `next`.
    pub(super) fn new(next: u64) -> Self {
        Self {
            last: next.saturating_sub(1),
            ..Self::default()
        }
    }

    /// The next number, to be written down with what uses up the ones before.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    pub(super) fn push(&mut self, key: Key) {
        self.waiting.push_back(key);
    }

    /// A number of an earlier run whose deposit was not confirmed.
    pub(super) fn restore(&mut self, number: u64, key: Key) {
        self.last = self.last.max(number);
        self.out.insert(number, (key, Stage::Failed));
    }

    /// When all is restored: what the mailbox may have kept in an earlier run is everything that is not known to be
    /// unconfirmed.
    pub(super) fn restored(&mut self) {
        self.kept = (1..=self.last)
            .rev()
            .find(|n| !self.out.contains_key(n))
            .unwrap_or(0);
    }

    /// Whether `take` could give something.
    pub(super) fn can_go(&self, now: UnixTime) -> bool {
        self.blocked.is_none_or(|until| until <= now)
            && (!self.waiting.is_empty() || self.out.values().any(|(_, stage)| *stage != Stage::Moving))
    }

    /// When it can go on, if it waits for a time.
    pub(super) fn wakes(&self) -> Option<UnixTime> {
        self.blocked
    }

    /// The next number to seal and deposit, and for which row. `usable` says whether a waiting row still wants to go.
    pub(super) fn take(&mut self, now: UnixTime, usable: impl Fn(&Key) -> bool) -> Option<(u64, Key)> {
        if self.blocked.is_some_and(|until| until > now) {
            return None;
        }
        self.blocked = None;
        let moving = self.out.values().filter(|(_, s)| *s == Stage::Moving).count();
        if moving >= WINDOW || self.failed() {
            return None;
        }
        let todo = self.out.iter_mut().find(|(_, (_, stage))| *stage == Stage::Todo);
        if let Some((number, (key, stage))) = todo {
            *stage = Stage::Moving;
            return Some((*number, *key));
        }
        while let Some(key) = self.waiting.pop_front() {
            if usable(&key) {
                self.last += 1;
                self.out.insert(self.last, (key, Stage::Moving));
                return Some((self.last, key));
            }
        }
        None
    }

    /// Once nothing is moving: failed numbers below one that was or may be kept, which are given up (in descending order); the
    /// others are tried again as they are.
    pub(super) fn settle(&mut self) -> Vec<(u64, Key)> {
        if !self.leaving.is_empty() || self.out.values().any(|(_, stage)| *stage == Stage::Moving) {
            return Vec::new();
        }
        let passed =
            |n: u64, stage: Stage| stage == Stage::Passed || (stage == Stage::Failed && n < self.kept);
        let lost = self
            .out
            .iter()
            .rev()
            .filter(|(n, (_, stage))| passed(**n, *stage));
        let lost: Vec<(u64, Key)> = lost.map(|(n, (key, _))| (*n, *key)).collect();
        for (number, key) in &lost {
            self.out.remove(number);
            self.waiting.push_front(*key);
        }
        for (_, stage) in self.out.values_mut() {
            *stage = Stage::Todo;
        }
        lost
    }

    /// Whether one waits to be settled.
    fn failed(&self) -> bool {
        let mut stages = self.out.values().map(|(_, stage)| stage);
        stages.any(|s| matches!(s, Stage::Failed | Stage::Passed))
    }

    /// The mailbox has it.
    pub(super) fn kept(&mut self, number: u64) -> Option<Key> {
        self.kept = self.kept.max(number);
        let (key, _) = self.out.remove(&number)?;
        self.refusals = 0;
        Some(key)
    }

    /// The mailbox does not take it now: the lane rests.
    pub(super) fn refused(&mut self, number: u64, now: UnixTime) {
        if let Some((_, stage)) = self.out.get_mut(&number) {
            *stage = Stage::Failed;
        }
        let wait = PATIENCE[self.refusals.min(PATIENCE.len() - 1)];
        self.refusals += 1;
        self.blocked = Some(UnixTime(now.0.saturating_add(wait)));
    }

    /// There may be room again.
    pub(super) fn unblock(&mut self) {
        self.blocked = None;
    }

    /// The number is no longer wanted. If it is on its way, the mailbox may keep it all the same.
    pub(super) fn give_up(&mut self, number: u64) {
        if let Some((_, Stage::Moving)) = self.out.remove(&number) {
            self.leaving.insert(number);
        }
    }

    /// The number is not on its way: the mailbox answered, or it was not deposited at all.
    pub(super) fn stopped(&mut self, number: u64) {
        self.leaving.remove(&number);
        if let Some((_, stage @ Stage::Moving)) = self.out.get_mut(&number) {
            *stage = Stage::Failed;
        }
    }

    /// The connection is gone: what was moving may or may not have arrived, and goes again.
    pub(super) fn lost(&mut self) {
        let moving = |(n, (_, stage)): (&u64, &(Key, Stage))| (*stage == Stage::Moving).then_some(*n);
        let moving = self.out.iter().filter_map(moving).max();
        let highest = moving.max(self.leaving.pop_last());
        self.leaving.clear();
        for (number, (_, stage)) in &mut self.out {
            *stage = match stage {
                Stage::Passed => Stage::Passed,
                Stage::Failed if Some(*number) < highest => Stage::Passed,
                Stage::Todo | Stage::Moving | Stage::Failed => Stage::Failed,
            };
        }
        self.blocked = None;
        self.refusals = 0;
    }

    /// The mailbox has forgotten the device: what it kept of these goes again.
    pub(super) fn forgotten(&mut self, numbers: impl IntoIterator<Item = (u64, Key)>) {
        self.kept = 0;
        for (number, key) in numbers {
            self.out.entry(number).or_insert((key, Stage::Todo));
        }
    }
}
