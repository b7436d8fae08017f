//! When which message is tried: order, pauses and ends, as a state machine without I/O or clock.
//!
//! Messages of a lane go to one target. While that is away (no answer at all) the lane pauses as a whole, and one message at a time
//! finds out whether it is back. A target that answers with a passing error makes the message alone wait, and those behind it that
//! have its key. Times are in milliseconds since 1970.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hawser_store::spool::Id;

/// Longest time that a target may ask to be left alone (`Retry-After`).
const LONGEST_WISH: Duration = Duration::from_secs(3600);

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) number: u64,
    pub(crate) id: Id,
    pub(crate) queue: Arc<str>,
    pub(crate) lane: Arc<str>,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) attempts: u32,
    pub(crate) next: u64,
    pub(crate) expires: u64,
}

/// How often the messages of a queue are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Pause after the first failure; it doubles with each further one.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// Messages under way at once to one target.
    pub at_once: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            at_once: 8,
        }
    }
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try this message: its number and id. To be ended by [`Schedule::done`], [`Schedule::failed`] or [`Schedule::away`].
    Try(u64, Id),
    /// The time of this message is over. It is forgotten here.
    Expired(Id),
    /// Nothing before this time.
    Idle(Option<u64>),
}

#[derive(Default)]
pub(crate) struct Schedule {
    lanes: HashMap<LaneId, Lane>,
    /// By number.
    known: HashMap<u64, LaneId>,
    /// When each lane with something to try is to be looked at.
    due: BTreeSet<(u64, LaneId)>,
    /// When each message that is not under way is given up.
    ends: BTreeSet<(u64, u64)>,
    paces: HashMap<Arc<str>, Pace>,
}

/// Queue and lane.
type LaneId = (Arc<str>, Arc<str>);

#[derive(Default)]
struct Lane {
    items: BTreeMap<u64, Item>,
    /// Of each key, in order. Only the first one is ever tried.
    keys: HashMap<Arc<str>, BTreeSet<u64>>,
    /// Keys of which one is under way.
    busy: HashSet<Arc<str>>,
    /// What may be tried, by when.
    ready: BTreeSet<(u64, u64)>,
    under_way: HashMap<u64, Option<Arc<str>>>,
    /// Attempts in a row without any answer.
    failures: u32,
    paused: u64,
    /// Where it stands in [`Schedule::due`].
    due: Option<u64>,
}

struct Item {
    id: Id,
    key: Option<Arc<str>>,
    attempts: u32,
    next: u64,
    expires: u64,
}

impl Schedule {
    /// Other paces from now on.
    pub(crate) fn pace(&mut self, paces: HashMap<Arc<str>, Pace>) {
        self.paces = paces;
    }

    /// One more message.
    pub(crate) fn add(&mut self, w: Waiting) {
        let id = (w.queue, w.lane);
        self.known.insert(w.number, id.clone());
        self.ends.insert((w.expires, w.number));
        let lane = self.lanes.entry(id.clone()).or_default();
        let item = Item {
            id: w.id,
            key: w.key,
            attempts: w.attempts,
            next: w.next,
            expires: w.expires,
        };
        match item.key.clone() {
            None => {
                lane.ready.insert((item.next, w.number));
                lane.items.insert(w.number, item);
            }
            Some(key) => {
                // One that is replayed may come before the one that leads.
                let leads = lane.keys.get(&key).and_then(|line| line.first()).copied();
                if let Some(leads) = leads.filter(|leads| w.number < *leads)
                    && let Some(other) = lane.items.get(&leads)
                {
                    lane.ready.remove(&(other.next, leads));
                }
                lane.items.insert(w.number, item);
                lane.keys.entry(key.clone()).or_default().insert(w.number);
                lane.lead(&key);
            }
        }
        self.place(&id);
    }

    /// What is to be done at this time.
    pub(crate) fn next(&mut self, now: u64) -> Next {
        while let Some(&(end, number)) = self.ends.first()
            && end <= now
        {
            self.ends.pop_first();
            let id = self.item(number).map(|item| item.id);
            self.discard(number);
            if let Some(id) = id {
                return Next::Expired(id);
            }
        }
        let soonest = self.ends.first().map(|e| e.0);
        let Some((when, lane_id)) = self.due.first().cloned() else {
            return Next::Idle(soonest);
        };
        if when > now {
            return Next::Idle(Some(soonest.map_or(when, |s| s.min(when))));
        }
        let begun = self.lanes.get_mut(&lane_id).and_then(Lane::begin);
        if let Some((number, _, expires)) = begun {
            self.ends.remove(&(expires, number));
        }
        self.place(&lane_id);
        match begun {
            Some((number, id, _)) => Next::Try(number, id),
            None => Next::Idle(soonest),
        }
    }

    /// An attempt ended, and the message is no more: delivered, or given up after an answer.
    pub(crate) fn done(&mut self, number: u64) {
        self.answered(number);
        self.drop_item(number);
        self.over(number);
    }

    /// An attempt had an answer that was a passing error; `wish` is how long the target asked to be left alone, `chance` anything up to
    /// 1000. When it is tried again.
    pub(crate) fn failed(&mut self, number: u64, now: u64, wish: Option<Duration>, chance: u32) -> u64 {
        self.answered(number);
        let pace = self.pace_of(number);
        let mut next = now;
        if let Some(item) = self.item(number) {
            item.attempts = item.attempts.saturating_add(1);
            let wish = wish.unwrap_or_default().min(LONGEST_WISH);
            next = now.saturating_add(millis(wish.max(pause(pace, item.attempts, chance))));
            item.next = next;
        }
        self.over(number);
        next
    }

    /// An attempt had no answer: the target is away. When it is asked for again. The message keeps its place: the oldest one finds
    /// out.
    pub(crate) fn away(&mut self, number: u64, now: u64, chance: u32) -> u64 {
        let pace = self.pace_of(number);
        if let Some(item) = self.item(number) {
            item.attempts = item.attempts.saturating_add(1);
        }
        let mut next = now;
        if let Some(lane) = self.lane_of(number) {
            lane.failures = lane.failures.saturating_add(1);
            next = now.saturating_add(millis(pause(pace, lane.failures, chance)));
            lane.paused = lane.paused.max(next);
        }
        self.over(number);
        next
    }

    /// A message is thrown away. If it is under way, the attempt is ended like any other.
    pub(crate) fn discard(&mut self, number: u64) {
        self.drop_item(number);
        self.forget(number);
    }

    /// The target of a lane answered.
    fn answered(&mut self, number: u64) {
        if let Some(lane) = self.lane_of(number) {
            (lane.failures, lane.paused) = (0, 0);
        }
    }

    /// An attempt is over; the message waits again, unless it is gone.
    fn over(&mut self, number: u64) {
        let Some(lane) = self.lane_of(number) else { return };
        if let Some(key) = lane.under_way.remove(&number).flatten() {
            lane.busy.remove(&key);
            lane.lead(&key);
        }
        if let Some(item) = lane.items.get(&number) {
            let expires = item.expires;
            if item.key.is_none() {
                lane.ready.insert((item.next, number));
            }
            self.ends.insert((expires, number));
        }
        self.forget(number);
    }

    fn drop_item(&mut self, number: u64) {
        let Some(lane) = self.lane_of(number) else { return };
        let Some(item) = lane.items.remove(&number) else {
            return;
        };
        lane.ready.remove(&(item.next, number));
        if let Some(key) = item.key {
            if let Some(line) = lane.keys.get_mut(&key) {
                line.remove(&number);
                if line.is_empty() {
                    lane.keys.remove(&key);
                }
            }
            lane.lead(&key);
        }
        self.ends.remove(&(item.expires, number));
    }

    /// Puts the message's lane in its place, and forgets the message if it is gone.
    fn forget(&mut self, number: u64) {
        let Some(id) = self.known.get(&number).cloned() else {
            return;
        };
        let gone = self
            .lanes
            .get(&id)
            .is_none_or(|l| !l.items.contains_key(&number) && !l.under_way.contains_key(&number));
        if gone {
            self.known.remove(&number);
        }
        self.place(&id);
    }

    fn lane_of(&mut self, number: u64) -> Option<&mut Lane> {
        self.lanes.get_mut(self.known.get(&number)?)
    }

    fn item(&mut self, number: u64) -> Option<&mut Item> {
        self.lane_of(number)?.items.get_mut(&number)
    }

    fn pace_of(&self, number: u64) -> Pace {
        let queue = self.known.get(&number).map(|id| &id.0);
        let pace = queue.and_then(|queue| self.paces.get(queue));
        pace.copied().unwrap_or_default()
    }

    /// Puts a lane where it belongs among those that are due, or forgets it.
    fn place(&mut self, id: &LaneId) {
        let pace = self.paces.get(&id.0).copied().unwrap_or_default();
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        if let Some(when) = lane.due.take() {
            self.due.remove(&(when, id.clone()));
        }
        let most = if lane.failures > 0 { 1 } else { pace.at_once };
        if lane.under_way.len() < most
            && let Some(&(next, _)) = lane.ready.first()
        {
            let when = next.max(lane.paused);
            lane.due = Some(when);
            self.due.insert((when, id.clone()));
        }
        if lane.items.is_empty() && lane.under_way.is_empty() {
            self.lanes.remove(id);
        }
    }
}

impl Lane {
    /// Takes the first one that is ready: its number, id and end.
    fn begin(&mut self) -> Option<(u64, Id, u64)> {
        let (_, number) = self.ready.pop_first()?;
        let item = self.items.get(&number)?;
        if let Some(key) = &item.key {
            self.busy.insert(key.clone());
        }
        self.under_way.insert(number, item.key.clone());
        Some((number, item.id, item.expires))
    }

    /// The first message of a key is ready, unless one is under way.
    fn lead(&mut self, key: &Arc<str>) {
        if self.busy.contains(key) {
            return;
        }
        let first = self.keys.get(key).and_then(|line| line.first());
        if let Some((first, item)) = first.and_then(|n| Some((*n, self.items.get(n)?))) {
            self.ready.insert((item.next, first));
        }
    }
}

/// How long to wait after so many failures: doubled with each, up to a half less by chance.
fn pause(pace: Pace, failures: u32, chance: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let whole = pace.first.saturating_mul(1 << doublings).min(pace.longest);
    whole - whole.mul_f64(f64::from(chance.min(1000)) / 2000.0)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(number: u64, key: Option<&str>) -> Waiting {
        Waiting {
            number,
            id: [u8::try_from(number).unwrap(); 16],
            queue: "q".into(),
            lane: "l".into(),
            key: key.map(Into::into),
            attempts: 0,
            next: number,
            expires: 1_000_000,
        }
    }

    fn tried(s: &mut Schedule, now: u64) -> Vec<u64> {
        let mut all = Vec::new();
        while let Next::Try(number, _) = s.next(now) {
            all.push(number);
        }
        all
    }

    #[test]
    fn one_of_each_key_at_a_time_and_in_order() {
        let mut s = Schedule::default();
        for (n, key) in [
            (1, Some("a")),
            (2, Some("a")),
            (3, None),
            (4, Some("b")),
            (5, None),
        ] {
            s.add(waiting(n, key));
        }
        assert_eq!(tried(&mut s, 10), [1, 3, 4, 5]);
        s.done(3);
        assert_eq!(tried(&mut s, 10), [0; 0]);
        s.done(1);
        assert_eq!(tried(&mut s, 10), [2]);
    }

    #[test]
    fn what_fails_holds_up_its_key_alone() {
        let mut s = Schedule::default();
        for (n, key) in [(1, Some("a")), (2, Some("a")), (3, Some("b"))] {
            s.add(waiting(n, key));
        }
        assert_eq!(tried(&mut s, 10), [1, 3]);
        let next = s.failed(1, 10, None, 0);
        assert_eq!(next, 1010);
        s.done(3);
        assert_eq!(s.next(10), Next::Idle(Some(1010)));
        assert_eq!(tried(&mut s, 1010), [1]);
        assert_eq!(
            s.failed(1, 1010, Some(Duration::from_secs(60)), 0),
            61_010,
            "as the target wishes"
        );
        assert_eq!(tried(&mut s, 61_010), [1]);
        s.done(1);
        assert_eq!(tried(&mut s, 61_010), [2]);
    }

    #[test]
    fn a_target_that_is_away_is_asked_by_one_message_at_a_time() {
        let mut s = Schedule::default();
        (1..=20).for_each(|n| s.add(waiting(n, None)));
        assert_eq!(tried(&mut s, 50).len(), 8);
        let mut next = 0;
        for n in 1..=8 {
            next = s.away(n, 50, 0).max(next);
        }
        assert_eq!(tried(&mut s, next - 1), [0; 0]);
        assert_eq!(tried(&mut s, next), [1], "the oldest, alone");
        let then = s.away(1, next, 0);
        assert!(then - next > 128_000, "longer each time");
        assert_eq!(tried(&mut s, then), [1]);
        s.done(1);
        assert_eq!(tried(&mut s, then).len(), 8, "it is back");
    }

    #[test]
    fn what_is_over_its_time_is_given_up_and_lets_others_pass() {
        let mut s = Schedule::default();
        s.add(Waiting {
            expires: 100,
            ..waiting(1, Some("a"))
        });
        s.add(waiting(2, Some("a")));
        assert_eq!(tried(&mut s, 10), [1]);
        s.failed(1, 10, None, 0);
        assert_eq!(s.next(50), Next::Idle(Some(100)));
        assert_eq!(s.next(100), Next::Expired([1; 16]));
        assert_eq!(tried(&mut s, 100), [2]);
    }

    #[test]
    fn what_is_discarded_under_way_ends_by_itself() {
        let mut s = Schedule::default();
        s.add(waiting(1, Some("a")));
        s.add(waiting(2, Some("a")));
        assert_eq!(tried(&mut s, 10), [1]);
        s.discard(1);
        assert_eq!(tried(&mut s, 10), [0; 0], "the order holds until then");
        s.done(1);
        assert_eq!(tried(&mut s, 10), [2]);
        s.discard(2);
        s.away(2, 10, 0);
        assert!(s.lanes.is_empty() && s.known.is_empty() && s.due.is_empty() && s.ends.is_empty());
    }

    #[test]
    fn one_that_is_replayed_takes_its_old_place() {
        let mut s = Schedule::default();
        s.add(waiting(2, Some("a")));
        s.add(waiting(3, Some("a")));
        s.add(waiting(1, Some("a")));
        assert_eq!(tried(&mut s, 10), [1]);
        s.done(1);
        assert_eq!(tried(&mut s, 10), [2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8),
        Pass(u64),
        Done(usize),
        Failed(usize),
        Away(usize),
        Discard(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4u8).prop_map(Step::Add),
            2 => (0..3000u64).prop_map(Step::Pass),
            4 => (0..8usize).prop_map(Step::Done),
            2 => (0..8usize).prop_map(Step::Failed),
            1 => (0..8usize).prop_map(Step::Away),
            1 => (1..60u64).prop_map(Step::Discard),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #[test]
        fn order_holds_and_nothing_is_lost(steps in steps()) {
            let mut s = Schedule::default();
            let (mut now, mut count) = (0, 0);
            let mut waits: BTreeMap<u64, Option<String>> = BTreeMap::new();
            let mut under_way: Vec<u64> = Vec::new();
            let mut discarded: HashSet<u64> = HashSet::new();
            let take = |s: &mut Schedule, now, waits: &BTreeMap<u64, Option<String>>, under_way: &mut Vec<u64>, discarded: &HashSet<u64>| {
                while let Next::Try(n, _) = s.next(now) {
                    assert!(waits.contains_key(&n) && !under_way.contains(&n), "{n}");
                    if let Some(key) = &waits[&n] {
                        let same = |other: &u64| waits.get(other).is_some_and(|k| k.as_ref() == Some(key)) && *other != n;
                        assert!(!under_way.iter().any(|o| !discarded.contains(o) && same(o)), "two of a key");
                        assert!(!waits.keys().any(|o| *o < n && same(o)), "{n} before an earlier one");
                    }
                    under_way.push(n);
                }
            };
            for step in steps {
                match step {
                    Step::Add(k) => {
                        count += 1;
                        let key = (k > 0).then(|| k.to_string());
                        waits.insert(count, key.clone());
                        s.add(Waiting { next: now, expires: u64::MAX, id: [0; 16], ..waiting(1, key.as_deref()) }.numbered(count));
                    }
                    Step::Pass(ms) => now += ms,
                    Step::Discard(n) => if waits.remove(&n).is_some() {
                        s.discard(n);
                        if under_way.contains(&n) { discarded.insert(n); }
                    },
                    Step::Done(i) | Step::Failed(i) | Step::Away(i) if under_way.is_empty() => { let _ = i; }
                    Step::Done(i) => { let n = under_way.remove(i % under_way.len()); waits.remove(&n); s.done(n); }
                    Step::Failed(i) => { let n = under_way.remove(i % under_way.len()); s.failed(n, now, None, 500); }
                    Step::Away(i) => { let n = under_way.remove(i % under_way.len()); s.away(n, now, 0); }
                }
                take(&mut s, now, &waits, &mut under_way, &discarded);
            }
            // Everything ends once all goes well.
            while !waits.is_empty() || !under_way.is_empty() {
                for n in std::mem::take(&mut under_way) { waits.remove(&n); s.done(n); }
                now += 1_000_000;
                take(&mut s, now, &waits, &mut under_way, &discarded);
                prop_assert!(waits.is_empty() || !under_way.is_empty(), "stuck with {waits:?}");
            }
            prop_assert!(s.lanes.is_empty() && s.known.is_empty() && s.due.is_empty() && s.ends.is_empty());
        }
    }

    impl Waiting {
        fn numbered(self, number: u64) -> Self {
            Self { number, ..self }
        }
    }
}
