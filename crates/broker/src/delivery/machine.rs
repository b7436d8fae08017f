//! See [`super`].

mod gaps;
mod people;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use hawser_proto::{
    UnixTime,
    broker::{
        DeliveryId, DeviceHandle, UserName,
        api::State,
        mailbox::Outcome,
        statement::{AckCode, SkipReason},
    },
};

use super::{
    AckPolicy, Event, Hash, Key, MAX_HASHES, Row,
    lane::{Lane, WINDOW},
};
use crate::outbox::{Changes, Gap, Kept, Restored};

/// How often an event is sealed anew for a device that cannot open it.
const MAX_FAILURES: u32 = 3;

/// See [`super`].
#[derive(Debug, Default)]
pub struct Machine {
    events: HashMap<DeliveryId, Live>,
    lanes: HashMap<DeviceHandle, Lane>,
    numbers: HashMap<(DeviceHandle, u64), Key>,
    held: HashMap<UserName, BTreeSet<Key>>,
    collapsing: HashMap<(UserName, String), BTreeSet<DeliveryId>>,
    expiries: BTreeSet<(UnixTime, DeliveryId)>,
    ready: VecDeque<DeviceHandle>,
    blocked: BTreeSet<(UnixTime, DeviceHandle)>,
    gaps: BTreeMap<(DeviceHandle, u64), (Gap, GapStage)>,
}

#[derive(Debug)]
struct Live {
    event: Arc<Event>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GapStage {
    /// Not on disk yet.
    New,
    /// To be told.
    Todo,
    /// Being told.
    Moving,
}

/// What is to be sealed and deposited. If it was sealed with this number before in this run, the same bytes go again.
#[derive(Debug, Clone)]
pub struct Work {
    /// The row.
    pub key: Key,
    /// Its event.
    pub event: Arc<Event>,
    /// Whose.
    pub user: UserName,
    /// To which device.
    pub device: DeviceHandle,
    /// With which number.
    pub sequence: u64,
}

/// What follows from what happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be written. [`Machine::written`] hears of it then.
    pub changes: Changes,
    /// Devices that the mailbox must be told of.
    pub admit: Vec<DeviceHandle>,
    /// Devices that need a new wrapping key.
    pub rekey: Vec<DeviceHandle>,
    /// Sealed bytes that are needed no more.
    pub forget: Vec<(DeviceHandle, u64)>,
}

impl Effects {
    /// These, and then those.
    pub fn append(&mut self, mut other: Self) {
        self.changes.append(other.changes);
        self.admit.append(&mut other.admit);
        self.rekey.append(&mut other.rekey);
        self.forget.append(&mut other.forget);
    }
}

/// A device's acknowledgement whose signature and hash were right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// What it says.
    pub code: AckCode,
    /// The domain's receipt for it.
    pub receipt: String,
}

impl Machine {
    /// A machine that goes on where another process ended.
    pub fn restore(restored: Restored) -> Self {
        let mut machine = Self::default();
        for (device, next) in restored.lanes {
            machine.lanes.insert(device, Lane::new(next));
        }
        for gap in restored.gaps {
            machine.gaps.insert((gap.device, gap.from), (gap, GapStage::Todo));
        }
        for kept in restored.live {
            machine.insert(kept);
        }
        machine.lanes.values_mut().for_each(Lane::restored);
        machine
    }

    /// Takes an event that is on disk. It may replace others (`collapsekey`).
    pub fn accept(&mut self, kept: Kept, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        let event = &kept.event;
        if let Some(collapse) = &event.collapse {
            let place = (event.application.clone(), collapse.clone());
            let older = self.collapsing.get(&place).cloned().unwrap_or_default();
            let users: BTreeSet<&UserName> = kept.rows.iter().map(|r| &r.user).collect();
            for id in older {
                // What has a number already is replaced in the mailbox, which tells.
                let replaced = |row: &Row| users.contains(&row.user) && row.sequence == 0;
                self.end_where(
                    id,
                    replaced,
                    State::Dropped,
                    "a newer one took its place",
                    now,
                    &mut effects,
                );
            }
        }
        let id = event.delivery;
        self.insert(kept);
        self.finish(id, &mut effects);
        effects
    }

    fn insert(&mut self, kept: Kept) {
        let event = Arc::new(kept.event);
        let id = event.delivery;
        for (number, row) in (0..).zip(&kept.rows) {
            if row.state.is_final() {
                continue;
            }
            let key = (id, number);
            let Some(device) = row.device else {
                self.held.entry(row.user.clone()).or_default().insert(key);
                continue;
            };
            let lane = self.lanes.entry(device).or_default();
            lane.rows.insert(key);
            match row.state {
                State::Sealed => lane.restore(row.sequence, key),
                State::Queued | State::Sent => {}
                _ => lane.push(key),
            }
            if row.sequence > 0 {
                self.numbers.insert((device, row.sequence), key);
            }
            self.list(device);
        }
        if let Some(collapse) = &event.collapse {
            let place = (event.application.clone(), collapse.clone());
            self.collapsing.entry(place).or_default().insert(id);
        }
        self.expiries.insert((event.expires, id));
        let rows = kept.rows;
        self.events.insert(id, Live { event, rows });
    }

    /// Up to `limit` envelopes to seal and deposit, in the order in which each device must get them.
    pub fn take(&mut self, now: UnixTime, limit: usize) -> (Vec<Work>, Effects) {
        let (mut work, mut effects) = (Vec::new(), Effects::default());
        while let Some((until, device)) = self.blocked.first().copied()
            && until <= now
        {
            self.blocked.pop_first();
            if let Some(lane) = self.lanes.get_mut(&device)
                && lane.wakes().is_some_and(|until| until <= now)
            {
                lane.unblock();
            }
            self.list(device);
        }
        let mut rounds = self.ready.len();
        while work.len() < limit
            && rounds > 0
            && let Some(device) = self.ready.pop_front()
        {
            rounds -= 1;
            if let Some(lane) = self.lanes.get_mut(&device) {
                lane.listed = false;
            }
            self.take_from(device, now, limit, &mut work, &mut effects);
        }
        (work, effects)
    }

    fn take_from(
        &mut self,
        device: DeviceHandle,
        now: UnixTime,
        limit: usize,
        work: &mut Vec<Work>,
        effects: &mut Effects,
    ) {
        let lost = self.lanes.get_mut(&device).map(Lane::settle).unwrap_or_default();
        for (number, key) in lost {
            self.numbers.remove(&(device, number));
            effects.forget.push((device, number));
            self.gap(device, number, SkipReason::Withdrawn, effects);
            self.change(key, effects, |row| row.unseal(now, None));
        }
        let Some(lane) = self.lanes.get_mut(&device) else {
            return;
        };
        for _ in 0..WINDOW {
            if work.len() >= limit {
                break;
            }
            let events = &self.events;
            let usable = |(id, number): &Key| {
                let row = events.get(id).and_then(|live| live.rows.get(*number as usize));
                row.is_some_and(|r| r.state == State::Accepted && r.device == Some(device) && r.sequence == 0)
            };
            let Some((sequence, key)) = lane.take(now, usable) else {
                break;
            };
            let row = events
                .get(&key.0)
                .and_then(|l| Some((l, l.rows.get(key.1 as usize)?)));
            let Some((live, row)) = row else {
                lane.stopped(sequence);
                lane.give_up(sequence);
                continue;
            };
            self.numbers.insert((device, sequence), key);
            work.push(Work {
                key,
                event: live.event.clone(),
                user: row.user.clone(),
                device,
                sequence,
            });
        }
        self.list(device);
        self.rest(device);
    }

    /// A work's envelope is made: what it rests on is to be written before it is deposited. False: it is not to be deposited, but
    /// something else is to be written.
    pub fn sealed(
        &mut self,
        work: &Work,
        hash: Hash,
        variant: &str,
        fetchable: bool,
        now: UnixTime,
    ) -> (bool, Effects) {
        let mut effects = Effects::default();
        let hashes = self.row(work.key).filter(|row| {
            row.device == Some(work.device)
                && (row.state == State::Accepted || row.is_out())
                && (row.sequence == 0 || row.sequence == work.sequence)
        });
        let hashes = hashes.map(|row| row.hashes.len());
        if hashes.is_none_or(|n| n >= MAX_HASHES) {
            // Ended meanwhile. Or after so many starts the mailbox has never said whether it has it: with another number, then.
            self.unsent(work.device, work.sequence);
            self.drop_number(work.device, work.sequence, SkipReason::Withdrawn, &mut effects);
            if hashes.is_some() {
                self.change(work.key, &mut effects, |row| row.unseal(now, None));
                if let Some(lane) = self.lanes.get_mut(&work.device) {
                    lane.push(work.key);
                }
            }
            self.list(work.device);
            return (false, effects);
        }
        self.change(work.key, &mut effects, |row| {
            row.sequence = work.sequence;
            row.hashes.push(hash);
            row.variant = Some(variant.into());
            row.fetchable = fetchable;
            if row.state == State::Accepted {
                row.set(State::Sealed, now, None);
            }
        });
        let next = self
            .lanes
            .get(&work.device)
            .map(|lane| (work.device, lane.next()));
        effects.changes.lanes.extend(next);
        (true, effects)
    }

    /// A work is not deposited after all: its row ended meanwhile.
    pub fn unsent(&mut self, device: DeviceHandle, sequence: u64) {
        if let Some(lane) = self.lanes.get_mut(&device) {
            lane.stopped(sequence);
        }
        self.list(device);
    }

    /// A work's envelope cannot be made, ever.
    pub fn unsealable(&mut self, work: &Work, reason: &str, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        self.unsent(work.device, work.sequence);
        self.drop_number(work.device, work.sequence, SkipReason::Dropped, &mut effects);
        self.end(work.key, State::Dead, reason, now, &mut effects);
        effects
    }

    /// What became of a deposit.
    pub fn deposited(
        &mut self,
        device: DeviceHandle,
        sequence: u64,
        outcome: &Outcome,
        now: UnixTime,
    ) -> Effects {
        let mut effects = Effects::default();
        let key = self.numbers.get(&(device, sequence)).copied();
        let Some(lane) = self.lanes.get_mut(&device) else {
            return effects;
        };
        lane.stopped(sequence);
        match outcome {
            Outcome::Kept => {
                effects.forget.push((device, sequence));
                if let Some(key) = lane.kept(sequence) {
                    self.change_if(key, &mut effects, |row| {
                        let was_sealed = row.state == State::Sealed && row.sequence == sequence;
                        if was_sealed {
                            row.set(State::Queued, now, None);
                        }
                        was_sealed
                    });
                }
            }
            // A revocation that got there before `gone` came here: that says where the content goes.
            Outcome::Busy | Outcome::Full | Outcome::Revoked => lane.refused(sequence, now),
            Outcome::UnknownDevice => {
                lane.refused(sequence, now);
                self.forgotten(device);
                effects.admit.push(device);
            }
            Outcome::Refused(reason) => {
                self.drop_number(device, sequence, SkipReason::Dropped, &mut effects);
                if let Some(key) = key {
                    self.end(key, State::Dead, reason, now, &mut effects);
                }
            }
        }
        self.list(device);
        self.rest(device);
        effects
    }

    /// The connection to the mailbox is lost: all that was under way goes again.
    pub fn disconnected(&mut self) {
        let devices: Vec<DeviceHandle> = self.lanes.keys().copied().collect();
        for device in devices {
            if let Some(lane) = self.lanes.get_mut(&device) {
                lane.lost();
            }
            self.list(device);
        }
        self.blocked.clear();
        for (_, stage) in self.gaps.values_mut() {
            if *stage == GapStage::Moving {
                *stage = GapStage::Todo;
            }
        }
    }

    /// The row that has a number, its event and its user, while it is not done.
    pub fn by_number(&self, device: DeviceHandle, sequence: u64) -> Option<(Key, Arc<Event>, Row)> {
        let key = *self.numbers.get(&(device, sequence))?;
        let live = self.events.get(&key.0)?;
        Some((key, live.event.clone(), live.rows.get(key.1 as usize)?.clone()))
    }

    /// The mailbox has written an envelope to a connection of the device.
    pub fn sent(&mut self, device: DeviceHandle, sequence: u64, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        if let Some(key) = self.numbers.get(&(device, sequence)).copied() {
            self.change_if(key, &mut effects, |row| {
                let first = matches!(row.state, State::Sealed | State::Queued);
                if first {
                    row.set(State::Sent, now, None);
                }
                first
            });
        }
        effects
    }

    /// The mailbox gave an envelope up. The device is told by a skip record in any case.
    pub fn given_up(
        &mut self,
        device: DeviceHandle,
        sequence: u64,
        reason: SkipReason,
        now: UnixTime,
    ) -> Effects {
        let mut effects = Effects::default();
        let key = self.numbers.get(&(device, sequence)).copied();
        self.drop_number(device, sequence, reason, &mut effects);
        if let Some(key) = key {
            let (state, why) = match reason {
                SkipReason::Collapsed => (State::Dropped, "a newer one took its place"),
                SkipReason::Withdrawn => (State::Dropped, "it was withdrawn"),
                SkipReason::Expired => (State::Expired, "its time was over"),
                SkipReason::Dropped => (State::Dead, "the mailbox gave it up"),
            };
            self.end(key, state, why, now, &mut effects);
        }
        effects
    }

    /// A device acknowledged.
    pub fn acknowledged(&mut self, device: DeviceHandle, sequence: u64, ack: &Ack, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        if let Some(lane) = self.lanes.get_mut(&device) {
            lane.unblock();
            // Whatever became of the mailbox's answer.
            lane.kept(sequence);
        }
        self.list(device);
        let Some(key) = self.numbers.get(&(device, sequence)).copied() else {
            return effects;
        };
        let Some(row) = self.row(key) else {
            return effects;
        };
        if ack.code == AckCode::CannotDecrypt && row.is_out() && row.failures + 1 < MAX_FAILURES {
            self.numbers.remove(&(device, sequence));
            self.change(key, &mut effects, |row| {
                row.failures += 1;
                row.unseal(now, Some("the device could not open it: sealed anew"));
            });
            if let Some(lane) = self.lanes.get_mut(&device) {
                lane.give_up(sequence);
                lane.push(key);
            }
            effects.rekey.push(device);
            effects.forget.push((device, sequence));
            self.list(device);
            return effects;
        }
        self.change_if(key, &mut effects, |row| apply(row, ack, now));
        self.after_ack(key, now, &mut effects);
        effects
    }

    fn after_ack(&mut self, key: Key, now: UnixTime, effects: &mut Effects) {
        let Some((policy, user)) = self
            .events
            .get(&key.0)
            .and_then(|l| Some((l.event.ack, l.rows.get(key.1 as usize)?)))
            .filter(|(_, row)| matches!(row.state, State::Acked | State::Opened))
            .map(|(policy, row)| (policy, row.user.clone()))
        else {
            self.finish(key.0, effects);
            return;
        };
        if policy == AckPolicy::Any {
            let other = |row: &Row| row.user == user;
            self.end_where(
                key.0,
                other,
                State::Dropped,
                "another device of the user has it",
                now,
                effects,
            );
        }
        self.finish(key.0, effects);
    }

    /// What has to be ended by `now`.
    pub fn tick(&mut self, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        while let Some((expires, id)) = self.expiries.first().copied()
            && expires <= now
        {
            self.expiries.pop_first();
            self.end_where(
                id,
                |_| true,
                State::Expired,
                "its time was over",
                now,
                &mut effects,
            );
        }
        effects
    }

    /// When [`Machine::tick`] or [`Machine::take`] have something to do next, if nothing else happens.
    pub fn wakes(&self) -> Option<UnixTime> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let blocked = self.blocked.first().map(|(at, _)| *at);
        expiry.into_iter().chain(blocked).min()
    }

    /// An event that is not done, as it is now.
    pub fn live(&self, id: &DeliveryId) -> Option<Kept> {
        let live = self.events.get(id)?;
        Some(Kept {
            event: (*live.event).clone(),
            rows: live.rows.clone(),
        })
    }

    /// How many events are not done.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether all is done.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn row(&self, key: Key) -> Option<&Row> {
        self.events.get(&key.0)?.rows.get(key.1 as usize)
    }

    fn change(&mut self, key: Key, effects: &mut Effects, change: impl FnOnce(&mut Row)) {
        self.change_if(key, effects, |row| {
            change(row);
            true
        });
    }

    fn change_if(&mut self, key: Key, effects: &mut Effects, change: impl FnOnce(&mut Row) -> bool) {
        let live = self.events.get_mut(&key.0);
        if let Some(row) = live.and_then(|live| live.rows.get_mut(key.1 as usize))
            && change(row)
        {
            effects.changes.rows.push((key.0, key.1, row.clone()));
        }
    }

    /// Ends a row that is not final.
    fn end(&mut self, key: Key, state: State, reason: &str, now: UnixTime, effects: &mut Effects) {
        self.change_if(key, effects, |row| {
            let open = !row.state.is_final();
            if open {
                row.set(state, now, Some(reason));
            }
            open
        });
        self.finish(key.0, effects);
    }

    /// Ends those rows of an event that are not final, and takes their envelopes back.
    fn end_where(
        &mut self,
        id: DeliveryId,
        which: impl Fn(&Row) -> bool,
        state: State,
        reason: &str,
        now: UnixTime,
        effects: &mut Effects,
    ) {
        let Some(live) = self.events.get(&id) else {
            return;
        };
        let open = (0..)
            .zip(&live.rows)
            .filter(|(_, row)| !row.state.is_final() && which(row));
        let open: Vec<(u32, Row)> = open.map(|(number, row)| (number, row.clone())).collect();
        for (number, row) in open {
            if let (Some(device), true) = (row.device, row.is_out()) {
                match state {
                    // The mailbox sees for itself that the time is over, and tells; but for what it may not have.
                    State::Expired if row.state != State::Sealed => {}
                    State::Expired => self.drop_number(device, row.sequence, SkipReason::Expired, effects),
                    _ => self.drop_number(device, row.sequence, SkipReason::Withdrawn, effects),
                }
            }
            self.change((id, number), effects, |row| row.set(state, now, Some(reason)));
        }
        self.finish(id, effects);
    }

    /// If all rows of an event are final, forgets it: the outbox has it.
    fn finish(&mut self, id: DeliveryId, effects: &mut Effects) {
        let Some(live) = self.events.get(&id) else {
            return;
        };
        for (number, row) in (0..).zip(&live.rows) {
            if !row.state.is_final() {
                continue;
            }
            if let Some(lane) = row.device.and_then(|device| self.lanes.get_mut(&device)) {
                lane.rows.remove(&(id, number));
            }
            if row.device.is_none()
                && let Some(held) = self.held.get_mut(&row.user)
            {
                held.remove(&(id, number));
                if held.is_empty() {
                    self.held.remove(&row.user);
                }
            }
        }
        if !live.rows.iter().all(|row| row.state.is_final()) {
            return;
        }
        for row in &live.rows {
            if let Some(device) = row.device {
                self.numbers.remove(&(device, row.sequence));
            }
        }
        let wanted = |row: &Row| row.fetchable && matches!(row.state, State::Acked | State::Opened);
        effects.changes.done.push((id, !live.rows.iter().any(wanted)));
        self.expiries.remove(&(live.event.expires, id));
        if let Some(collapse) = &live.event.collapse {
            let place = (live.event.application.clone(), collapse.clone());
            if let Some(same) = self.collapsing.get_mut(&place) {
                same.remove(&id);
                if same.is_empty() {
                    self.collapsing.remove(&place);
                }
            }
        }
        self.events.remove(&id);
    }

    /// The mailbox knows nothing of a device: what it had of it goes again, with the same numbers.
    fn forgotten(&mut self, device: DeviceHandle) {
        let Some(lane) = self.lanes.get_mut(&device) else {
            return;
        };
        let events = &self.events;
        let out = |key: &Key| {
            let row = events.get(&key.0)?.rows.get(key.1 as usize)?;
            row.is_out().then_some((row.sequence, *key))
        };
        let out: Vec<_> = lane.rows.iter().filter_map(out).collect();
        lane.forgotten(out);
    }

    /// Notes that a lane may be able to go on.
    fn list(&mut self, device: DeviceHandle) {
        if let Some(lane) = self.lanes.get_mut(&device)
            && !lane.listed
            && lane.can_go(UnixTime(u64::MAX))
            && lane.wakes().is_none()
        {
            lane.listed = true;
            self.ready.push_back(device);
        }
    }

    /// Notes when a lane that rests can go on.
    fn rest(&mut self, device: DeviceHandle) {
        if let Some(until) = self.lanes.get(&device).and_then(Lane::wakes) {
            self.blocked.insert((until, device));
        }
    }
}

/// What an acknowledgement does to a row; false: nothing. Also for rows whose event is done.
pub fn apply(row: &mut Row, ack: &Ack, now: UnixTime) -> bool {
    let state = match (ack.code, row.state) {
        (AckCode::Delivered, s) if !s.is_final() => State::Acked,
        (AckCode::Opened, s) if !s.is_final() || s == State::Acked => State::Opened,
        (AckCode::CannotDecrypt | AckCode::NotDelivered, s) if !s.is_final() => State::Failed,
        _ => return false,
    };
    let reason = match ack.code {
        AckCode::CannotDecrypt => Some("the device could not open it"),
        AckCode::NotDelivered => Some("the device opened it, but could not hand it on"),
        AckCode::Delivered | AckCode::Opened => None,
    };
    row.set(state, now, reason);
    row.receipt = Some(ack.receipt.clone());
    true
}
