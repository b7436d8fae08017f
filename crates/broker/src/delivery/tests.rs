use std::collections::{BTreeMap, BTreeSet, HashMap};

use hawser_proto::{
    UnixTime,
    broker::{
        DeliveryId, DeviceHandle, ItemId, UserName,
        api::State,
        envelope::Urgency,
        mailbox::Outcome,
        statement::{AckCode, SkipReason},
    },
};
use proptest::prelude::*;

use super::*;
use crate::outbox::{Gap, Kept, Restored};

const NOW: UnixTime = UnixTime(1000);

fn device(n: u8) -> DeviceHandle {
    DeviceHandle([n; 16])
}

fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

fn event(n: u8) -> Event {
    Event {
        delivery: DeliveryId([n; 16]),
        application: user("mail"),
        source: "/mail".into(),
        id: n.to_string(),
        event_type: "message".into(),
        accepted: NOW,
        expires: UnixTime(2000),
        urgency: Urgency::Normal,
        mode: None,
        ack: AckPolicy::Each,
        collapse: None,
        item: ItemId([n; 16]),
    }
}

fn kept(event: Event, rows: &[(&str, Option<u8>)]) -> Kept {
    let row = |(name, d): &(&str, Option<u8>)| Row::new(user(name), d.map(device), NOW);
    Kept {
        event,
        rows: rows.iter().map(row).collect(),
    }
}

fn ack(code: AckCode) -> Ack {
    Ack {
        code,
        receipt: "receipt".into(),
    }
}

/// A machine and what it has written.
#[derive(Default)]
struct Bench {
    machine: Machine,
    disk: HashMap<DeliveryId, Kept>,
    done: BTreeSet<DeliveryId>,
    lanes: BTreeMap<DeviceHandle, u64>,
    gaps: BTreeMap<(DeviceHandle, u64), Gap>,
}

impl Bench {
    fn publish(&mut self, kept: Kept) {
        self.disk.insert(kept.event.delivery, kept.clone());
        let effects = self.machine.accept(kept, NOW);
        self.write(effects);
    }

    fn write(&mut self, effects: Effects) -> Effects {
        let changes = &effects.changes;
        for (id, number, row) in &changes.rows {
            let rows = &mut self.disk.get_mut(id).unwrap().rows;
            match rows.get_mut(*number as usize) {
                Some(old) => old.clone_from(row),
                None => rows.push(row.clone()),
            }
        }
        for (d, next) in &changes.lanes {
            let last = self.lanes.entry(*d).or_default();
            *last = (*last).max(*next);
        }
        for gap in &changes.gaps {
            self.gaps.insert((gap.device, gap.from), *gap);
        }
        for place in &changes.filled {
            self.gaps.remove(place);
        }
        self.done.extend(changes.done.iter().map(|(id, _)| *id));
        for d in &changes.gone {
            self.lanes.remove(d);
            self.gaps.retain(|(g, _), _| g != d);
        }
        self.machine.written(changes);
        effects
    }

    fn restart(&mut self) {
        let live = self
            .disk
            .values()
            .filter(|k| !self.done.contains(&k.event.delivery));
        self.machine = Machine::restore(Restored {
            live: live.cloned().collect(),
            lanes: self.lanes.iter().map(|(d, n)| (*d, *n)).collect(),
            gaps: self.gaps.values().copied().collect(),
        });
    }

    /// Seals all there is to seal.
    fn seal(&mut self) -> Vec<Work> {
        let (work, effects) = self.machine.take(NOW, 100);
        self.write(effects);
        let mut sealed = Vec::new();
        for w in work {
            let hash = Hash([w.sequence as u8; 32]);
            let (wanted, effects) = self.machine.sealed(&w, hash, "text", false, NOW);
            self.write(effects);
            sealed.extend(wanted.then_some(w));
        }
        sealed
    }

    fn deposit(&mut self, work: &Work, outcome: Outcome) -> Effects {
        let effects = self.machine.deposited(work.device, work.sequence, &outcome, NOW);
        self.write(effects)
    }

    fn row(&self, id: u8, number: usize) -> &Row {
        &self.disk[&DeliveryId([id; 16])].rows[number]
    }
}

#[test]
fn an_event_goes_its_way() {
    let mut b = Bench::default();
    b.publish(kept(event(1), &[("alice", Some(1)), ("bob", Some(2))]));
    let work = b.seal();
    assert_eq!(work.iter().map(|w| w.sequence).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(b.row(1, 0).state, State::Sealed);
    for w in &work {
        b.deposit(w, Outcome::Kept);
    }
    assert_eq!(b.row(1, 0).state, State::Queued);
    let effects = b.machine.sent(device(1), 1, NOW);
    b.write(effects);
    assert_eq!(b.row(1, 0).state, State::Sent);
    for d in [1, 2] {
        let effects = b
            .machine
            .acknowledged(device(d), 1, &ack(AckCode::Delivered), NOW);
        b.write(effects);
    }
    assert_eq!(
        (b.row(1, 0).state, b.row(1, 1).state),
        (State::Acked, State::Acked)
    );
    assert!(b.machine.is_empty());
    // What comes later finds the row on disk.
    let mut row = b.row(1, 0).clone();
    assert!(apply(&mut row, &ack(AckCode::Opened), NOW));
    assert_eq!(row.state, State::Opened);
    assert!(!apply(&mut row, &ack(AckCode::NotDelivered), NOW));
}

#[test]
fn what_a_user_without_a_device_gets_waits_for_one() {
    let mut b = Bench::default();
    b.publish(kept(event(1), &[("alice", None)]));
    assert_eq!(b.row(1, 0).state, State::Held);
    assert!(b.seal().is_empty());
    b.restart();
    let effects = b.machine.arrived(&user("alice"), device(3), NOW);
    b.write(effects);
    assert_eq!(b.seal()[0].device, device(3));
}

#[test]
fn a_number_that_failed_below_a_kept_one_is_given_up() {
    let mut b = Bench::default();
    for n in 1..=3 {
        b.publish(kept(event(n), &[("alice", Some(1))]));
    }
    let work = b.seal();
    b.deposit(&work[0], Outcome::Full);
    assert!(b.seal().is_empty(), "nothing overtakes");
    b.deposit(&work[1], Outcome::Kept);
    b.deposit(&work[2], Outcome::Full);
    let (none, _) = b.machine.take(NOW, 10);
    assert!(none.is_empty(), "the lane rests");
    let later = b.machine.wakes().unwrap();
    let (again, effects) = b.machine.take(later, 10);
    b.write(effects);
    // 1 is below 2, which the mailbox has: its event gets another number. 3 is as it was.
    assert_eq!(b.gaps.keys().collect::<Vec<_>>(), [&(device(1), 1)]);
    let got: Vec<_> = again.iter().map(|w| (w.key.0.0[0], w.sequence)).collect();
    assert_eq!(got, [(3, 3), (1, 4)]);
}

#[test]
fn one_acknowledgement_is_enough_where_the_policy_says_so() {
    let mut b = Bench::default();
    let any = Event {
        ack: AckPolicy::Any,
        ..event(1)
    };
    b.publish(kept(
        any,
        &[("alice", Some(1)), ("alice", Some(2)), ("bob", Some(3))],
    ));
    for w in b.seal() {
        b.deposit(&w, Outcome::Kept);
    }
    let effects = b
        .machine
        .acknowledged(device(1), 1, &ack(AckCode::Delivered), NOW);
    b.write(effects);
    assert_eq!(b.row(1, 1).state, State::Dropped);
    assert_eq!(b.row(1, 2).state, State::Queued, "another user's is not touched");
    assert_eq!(b.gaps[&(device(2), 1)].reason, SkipReason::Withdrawn);
    assert_eq!(b.machine.take_gaps(10).len(), 1);
    b.machine.disconnected();
    assert_eq!(
        b.machine.take_gaps(10).len(),
        1,
        "told again until the mailbox confirms"
    );
    let effects = b.machine.skipped(device(2), 1, &Outcome::Kept);
    b.write(effects);
    assert!(b.gaps.is_empty());
}

#[test]
fn a_newer_one_takes_the_place_of_what_is_not_out() {
    let mut b = Bench::default();
    let weather = |n| Event {
        collapse: Some("weather".into()),
        ..event(n)
    };
    b.publish(kept(weather(1), &[("alice", Some(1)), ("bob", None)]));
    let work = b.seal();
    b.deposit(&work[0], Outcome::Kept);
    b.publish(kept(weather(2), &[("alice", Some(1)), ("bob", None)]));
    assert_eq!(
        b.row(1, 0).state,
        State::Queued,
        "the mailbox replaces it, and tells"
    );
    assert_eq!(b.row(1, 1).state, State::Dropped);
    let effects = b.machine.given_up(device(1), 1, SkipReason::Collapsed, NOW);
    b.write(effects);
    assert_eq!(b.row(1, 0).state, State::Dropped);
    assert_eq!(b.gaps[&(device(1), 1)].reason, SkipReason::Collapsed);
}

#[test]
fn a_revoked_devices_pending_content_goes_to_the_others() {
    let mut b = Bench::default();
    b.publish(kept(event(1), &[("alice", Some(1))]));
    b.publish(kept(event(2), &[("alice", Some(1)), ("alice", Some(2))]));
    for w in b.seal() {
        b.deposit(&w, Outcome::Kept);
    }
    let effects = b.machine.gone(device(1), Some(&[device(2)]), NOW);
    b.write(effects);
    assert_eq!(
        (b.row(1, 0).state, b.row(2, 0).state),
        (State::Dropped, State::Dropped)
    );
    assert_eq!(b.row(1, 1).device, Some(device(2)));
    assert_eq!(b.disk[&DeliveryId([2; 16])].rows.len(), 2, "it has that already");
    assert_eq!(b.seal()[0].sequence, 2);
    let effects = b.machine.gone(device(2), Some(&[]), NOW);
    b.write(effects);
    assert_eq!(b.row(1, 2).state, State::Held);
    let effects = b.machine.user_gone(&user("alice"), NOW);
    b.write(effects);
    assert!(b.machine.is_empty());
}

#[test]
fn what_cannot_be_opened_is_sealed_anew_a_few_times() {
    let mut b = Bench::default();
    b.publish(kept(event(1), &[("alice", Some(1))]));
    for sequence in 1..=3 {
        let work = b.seal();
        assert_eq!(work[0].sequence, sequence);
        b.deposit(&work[0], Outcome::Kept);
        let effects = b
            .machine
            .acknowledged(device(1), sequence, &ack(AckCode::CannotDecrypt), NOW);
        b.write(effects);
    }
    assert_eq!(b.row(1, 0).state, State::Failed);
    assert!(b.machine.is_empty());
}

#[test]
fn time_ends_it() {
    let mut b = Bench::default();
    b.publish(kept(
        event(1),
        &[("alice", Some(1)), ("bob", Some(2)), ("carol", None)],
    ));
    let work = b.seal();
    b.deposit(&work[0], Outcome::Kept);
    let effects = b.machine.tick(UnixTime(1999));
    assert!(effects.changes.is_empty());
    let effects = b.machine.tick(b.machine.wakes().unwrap());
    b.write(effects);
    assert!((0..3).all(|n| b.row(1, n).state == State::Expired));
    assert!(b.machine.is_empty());
    // Alice's is the mailbox's to report; Bob's may never have come there.
    assert_eq!(b.gaps.keys().collect::<Vec<_>>(), [&(device(2), 1)]);
    let effects = b.machine.given_up(device(1), 1, SkipReason::Expired, NOW);
    b.write(effects);
    assert_eq!(b.gaps.len(), 2, "the gap is explained after the end, too");
}

#[test]
fn a_mailbox_that_forgot_a_device_gets_everything_again() {
    let mut b = Bench::default();
    b.publish(kept(event(1), &[("alice", Some(1))]));
    let work = b.seal();
    b.deposit(&work[0], Outcome::Kept);
    b.publish(kept(event(2), &[("alice", Some(1))]));
    let work = b.seal();
    let effects = b.deposit(&work[0], Outcome::UnknownDevice);
    assert_eq!(effects.admit, [device(1)]);
    let (again, _) = b.machine.take(b.machine.wakes().unwrap(), 10);
    assert_eq!(again.iter().map(|w| w.sequence).collect::<Vec<_>>(), [1, 2]);
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        devices: Vec<u8>,
        any: bool,
        collapse: bool,
    },
    Seal(usize),
    Deposit {
        which: usize,
        outcome: u8,
    },
    Ack {
        device: u8,
        code: u8,
    },
    /// The connection is lost after the mailbox kept so many of the deposits on their way, unheard.
    Lose(usize),
    Restart,
    Skips,
    Gone(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let devices = prop::collection::vec(1..4u8, 1..3);
    prop_oneof![
        4 => (devices, any::<bool>(), any::<bool>())
            .prop_map(|(devices, any, collapse)| Step::Publish { devices, any, collapse }),
        5 => (1..8usize).prop_map(Step::Seal),
        8 => (0..8usize, 0..8u8).prop_map(|(which, outcome)| Step::Deposit { which, outcome }),
        4 => (1..4u8, 0..6u8).prop_map(|(device, code)| Step::Ack { device, code }),
        1 => (0..4usize).prop_map(Step::Lose),
        1 => Just(Step::Restart),
        2 => Just(Step::Skips),
        1 => (1..4u8).prop_map(Step::Gone),
    ]
}

/// A mailbox as the protocol says it behaves, and what a device would see of it.
#[derive(Default)]
struct Mailbox {
    highest: BTreeMap<DeviceHandle, u64>,
    seen: BTreeMap<DeviceHandle, BTreeSet<u64>>,
    queue: BTreeMap<DeviceHandle, BTreeSet<u64>>,
}

impl Mailbox {
    fn keep(&mut self, d: DeviceHandle, sequence: u64) {
        let known = self.seen.entry(d).or_default();
        let highest = self.highest.entry(d).or_default();
        assert!(
            known.contains(&sequence) || sequence > *highest,
            "{sequence} after {highest}"
        );
        *highest = (*highest).max(sequence);
        if known.insert(sequence) {
            self.queue.entry(d).or_default().insert(sequence);
        }
    }

    fn skip(&mut self, gap: &Gap) {
        self.seen.entry(gap.device).or_default().insert(gap.from);
        self.queue.entry(gap.device).or_default().remove(&gap.from);
    }
}

/// One run: the machine, a mailbox, and deposits on their way between.
struct Run {
    bench: Bench,
    mailbox: Mailbox,
    moving: Vec<Work>,
    now: UnixTime,
    published: u8,
    gone: BTreeSet<u8>,
    unheard: bool,
}

impl Run {
    fn step(&mut self, step: Step) {
        self.now.0 += 2;
        match step {
            Step::Publish {
                devices,
                any,
                collapse,
            } => self.publish(&devices, any, collapse),
            Step::Seal(limit) => self.seal(limit),
            Step::Deposit { which, outcome } if !self.moving.is_empty() => {
                // The mailbox answers for each device in the order of its deposits.
                let picked = self.moving[which % self.moving.len()].device;
                let first = self.moving.iter().position(|w| w.device == picked).unwrap();
                let work = self.moving.remove(first);
                self.answer(&work, outcome);
            }
            Step::Deposit { .. } => {}
            Step::Ack { device: d, code } => self.ack(device(d), code),
            Step::Lose(arrived) => {
                self.unheard |= arrived > 0;
                for work in self.moving.drain(..).take(arrived) {
                    self.mailbox.keep(work.device, work.sequence);
                }
                self.bench.machine.disconnected();
            }
            // What was refused while a later number arrived unheard is known as long as the machine lives, and not on disk.
            Step::Restart if self.unheard => {}
            Step::Restart => {
                self.moving.clear();
                self.bench.restart();
            }
            Step::Skips => {
                for gap in self.bench.machine.take_gaps(100) {
                    self.mailbox.skip(&gap);
                    let effects = self.bench.machine.skipped(gap.device, gap.from, &Outcome::Kept);
                    self.bench.write(effects);
                }
            }
            Step::Gone(d) => {
                let others: Vec<_> = (1..4)
                    .filter(|o| *o != d && !self.gone.contains(o))
                    .map(device)
                    .collect();
                if !others.is_empty() && self.gone.insert(d) {
                    let effects = self.bench.machine.gone(device(d), Some(&others), self.now);
                    self.bench.write(effects);
                    self.moving.retain(|w| w.device != device(d));
                }
            }
        }
    }

    fn publish(&mut self, devices: &[u8], any: bool, collapse: bool) {
        self.published += 1;
        let mut e = event(self.published);
        e.expires = UnixTime(1_000_000);
        e.ack = if any { AckPolicy::Any } else { AckPolicy::Each };
        e.collapse = collapse.then(|| "k".into());
        let devices: BTreeSet<_> = devices.iter().filter(|d| !self.gone.contains(d)).collect();
        let rows: Vec<_> = devices.into_iter().map(|d| ("alice", Some(*d))).collect();
        self.bench.publish(kept(e, &rows));
    }

    fn seal(&mut self, limit: usize) {
        let (work, effects) = self.bench.machine.take(self.now, limit);
        self.bench.write(effects);
        for w in work {
            let machine = &mut self.bench.machine;
            let (wanted, effects) = machine.sealed(&w, Hash([0; 32]), "text", false, self.now);
            self.bench.write(effects);
            self.moving.extend(wanted.then_some(w));
        }
    }

    fn answer(&mut self, work: &Work, outcome: u8) {
        let outcome = match outcome {
            0 => Outcome::Busy,
            1 => Outcome::Full,
            _ => Outcome::Kept,
        };
        if outcome == Outcome::Kept {
            self.mailbox.keep(work.device, work.sequence);
        }
        let effects = self
            .bench
            .machine
            .deposited(work.device, work.sequence, &outcome, self.now);
        self.bench.write(effects);
    }

    fn ack(&mut self, d: DeviceHandle, code: u8) {
        let Some(sequence) = self.mailbox.queue.get_mut(&d).and_then(BTreeSet::pop_first) else {
            return;
        };
        let code = match code {
            0 => AckCode::CannotDecrypt,
            1 => AckCode::NotDelivered,
            2 => AckCode::Opened,
            _ => AckCode::Delivered,
        };
        let effects = self.bench.machine.acknowledged(d, sequence, &ack(code), self.now);
        self.bench.write(effects);
    }

    /// Everything goes well from now on.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.step(Step::Lose(0));
            self.step(Step::Seal(100));
            for work in std::mem::take(&mut self.moving) {
                self.answer(&work, 9);
            }
            self.step(Step::Skips);
            for d in 1..4 {
                self.ack(device(d), 9);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_number_is_explained_and_every_row_ends(steps in prop::collection::vec(step(), 1..80)) {
        all_ends(steps);
    }
}

/// After these steps, and when all goes well then, every row is final and every number is explained.
fn all_ends(steps: Vec<Step>) {
    let mut run = Run {
        bench: Bench::default(),
        mailbox: Mailbox::default(),
        moving: Vec::new(),
        now: NOW,
        published: 0,
        gone: BTreeSet::new(),
        unheard: false,
    };
    for s in steps {
        run.step(s);
    }
    run.settle();
    for kept in run.bench.disk.values() {
        for row in &kept.rows {
            assert!(row.state.is_final(), "{row:?}");
        }
    }
    assert!(run.bench.machine.is_empty());
    for (d, seen) in &run.mailbox.seen {
        if run.gone.contains(&d.0[0]) {
            continue;
        }
        let all: BTreeSet<u64> = (1..=seen.last().copied().unwrap_or(0)).collect();
        assert_eq!(seen, &all, "a gap that nobody explains");
    }
}

/// An answer of another device ends a row whose envelope is on its way, while a lower number is to go again: it waits for what
/// becomes of the higher one.
#[test]
fn a_number_withdrawn_on_its_way_is_waited_for() {
    let publish = |device, any, collapse| Step::Publish {
        devices: vec![device],
        any,
        collapse,
    };
    let deposit = |which, outcome| Step::Deposit { which, outcome };
    let before = vec![
        publish(2, true, false),
        Step::Gone(2),
        publish(1, false, false),
        publish(1, false, true),
        publish(1, false, true),
        Step::Seal(3),
        deposit(0, 0),
        deposit(0, 2),
        Step::Seal(1),
        deposit(1, 2),
        Step::Lose(0),
        Step::Seal(2),
        deposit(0, 0),
        Step::Ack { device: 3, code: 2 },
        Step::Seal(1),
    ];
    for then in [
        vec![deposit(0, 2), deposit(0, 2)],
        vec![Step::Lose(1), Step::Seal(3), deposit(0, 2)],
    ] {
        all_ends(before.iter().cloned().chain(then).collect());
    }
}
