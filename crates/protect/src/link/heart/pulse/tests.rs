use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const RHYTHM: Rhythm = Rhythm {
    every: Duration::from_millis(20),
    silent_after: Duration::from_millis(100),
    frozen_after: Duration::from_millis(150),
};
const START: Moment = Moment(1_000_000_000);

fn at(ms: u32) -> Moment {
    START.plus(MS * ms)
}

fn pair() -> (Pulse, Pulse) {
    let (one, two) = HeartKeys::pair(3);
    (Pulse::new(one, RHYTHM, START), Pulse::new(two, RHYTHM, START))
}

/// Ticks at this moment, and says what happened.
fn tick(pulse: &mut Pulse, ms: u32) -> Vec<HeartEvent> {
    let mut events = Vec::new();
    pulse.tick(at(ms), None, &mut events);
    events
}

/// The beat of one, which must be due, goes to the other, which ticks then.
fn pass(from: &mut Pulse, to: &mut Pulse, ms: u32) -> Vec<HeartEvent> {
    let beat = from.beat(at(ms)).expect("a beat is due");
    let mut events = Vec::new();
    assert_eq!(to.receive(&beat, at(ms), &mut events), Verdict::Fresh);
    to.tick(at(ms), None, &mut events);
    events
}

#[test]
fn silence_is_told_once_when_it_is_long_enough_and_so_is_its_end() {
    let (mut one, mut two) = pair();
    for ms in (0..200).step_by(20) {
        assert_eq!(pass(&mut one, &mut two, ms), []);
    }
    assert_eq!(tick(&mut two, 200), []);
    two.beat(at(200));
    two.beat(at(220));
    assert_eq!(tick(&mut two, 220), []);
    assert_eq!(tick(&mut two, 250), []);
    two.beat(at(250));
    assert_eq!(tick(&mut two, 270), []);
    two.beat(at(270));
    assert_eq!(
        two.next_at(),
        at(280),
        "judged at the very moment, not at the next beat"
    );
    assert_eq!(tick(&mut two, 280), [HeartEvent::Silent]);
    assert_eq!(tick(&mut two, 300), []);
    assert_eq!(two.silence(), 120 * MS);
    assert_eq!(pass(&mut one, &mut two, 310), [HeartEvent::Heard]);
    assert_eq!(two.silence(), Duration::ZERO);
}

#[test]
fn a_peer_that_never_speaks_is_silent_too() {
    let (_, mut two) = pair();
    for ms in (20..100).step_by(20) {
        assert_eq!(tick(&mut two, ms), []);
    }
    assert_eq!(tick(&mut two, 100), [HeartEvent::Silent]);
    assert_eq!(two.heard(), None);
}

#[test]
fn any_byte_counts_as_life() {
    let (_, mut two) = pair();
    for ms in (20..1000).step_by(20) {
        let mut events = Vec::new();
        two.tick(at(ms), Some(at(ms - 5)), &mut events);
        assert_eq!(events, []);
        assert_eq!(two.silence(), 5 * MS);
    }
}

#[test]
fn who_was_frozen_accuses_nobody() {
    let (mut one, mut two) = pair();
    pass(&mut one, &mut two, 0);
    assert_eq!(tick(&mut two, 80), [], "nearly silent");
    // A second later. What came meanwhile is read first.
    let gap = Gap {
        from: at(80),
        length: 1000 * MS,
    };
    assert_eq!(two.gap(at(100)), None);
    assert_eq!(two.gap(at(1080)), Some(gap), "before anybody else has noticed");
    assert_eq!(tick(&mut two, 1080), [HeartEvent::Frozen(gap)]);
    assert_eq!(
        two.silence(),
        Duration::ZERO,
        "nothing came, and nothing could be heard"
    );
    assert_eq!(two.gap(at(1081)), Some(gap), "and it stays known");
    for ms in (1100..1180).step_by(20) {
        assert_eq!(tick(&mut two, ms), []);
    }
    assert_eq!(tick(&mut two, 1180), [HeartEvent::Silent], "now it is");
    assert_eq!(two.stats().gaps, 1);
}

#[test]
fn time_in_which_we_hardly_ran_proves_little() {
    let (_, mut two) = pair();
    // 120 ms between two looks: at most two beats' worth of silence each.
    assert_eq!(tick(&mut two, 120), []);
    assert_eq!(two.silence(), 40 * MS);
    assert_eq!(tick(&mut two, 240), []);
    assert_eq!(tick(&mut two, 360), [HeartEvent::Silent], "but it adds up");
}

#[test]
fn what_came_twice_or_late_is_not_listened_to() {
    let (mut one, mut two) = pair();
    let beats: Vec<_> = (0..3).map(|i| one.beat(at(20 * i)).unwrap()).collect();
    let mut events = Vec::new();
    let mut receive = |beat: &[u8], ms| two.receive(beat, at(ms), &mut events);
    assert_eq!(receive(&beats[1], 50), Verdict::Fresh);
    assert_eq!(receive(&beats[1], 90), Verdict::Stale, "once more");
    assert_eq!(receive(&beats[0], 95), Verdict::Stale, "older");
    let own = two.beat(at(95)).unwrap();
    assert_eq!(
        two.receive(&own, at(95), &mut events),
        Verdict::Forged,
        "sent back"
    );
    let mut changed = beats[2];
    changed[20] ^= 1;
    assert_eq!(two.receive(&changed, at(95), &mut events), Verdict::Forged);
    assert_eq!(two.heard(), Some(at(50)));
    assert_eq!(two.receive(&beats[2], at(96), &mut events), Verdict::Fresh);
    let stats = two.stats();
    assert_eq!((stats.received, stats.stale, stats.forged), (2, 2, 2));
    assert_eq!(events, []);
}

#[test]
fn a_one_way_loss_is_known_at_both_ends() {
    let (mut one, mut two) = pair();
    let mut last = 0;
    for ms in (0..100).step_by(20) {
        pass(&mut one, &mut two, ms);
        pass(&mut two, &mut one, ms);
        last = ms;
    }
    assert_eq!(one.confirmed(), Some(at(last)));
    assert_eq!(one.stats().round_trip, Some(Duration::ZERO));
    for ms in (100..300).step_by(20) {
        // Our beats are lost from here on, the other's are not.
        one.beat(at(ms)).unwrap();
        pass(&mut two, &mut one, ms);
    }
    assert_eq!(one.silence(), Duration::ZERO);
    assert_eq!(one.confirmed(), Some(at(last)), "the other hears nothing since");
}

#[test]
fn the_round_trip_leaves_out_the_time_at_the_other_end() {
    let (mut one, mut two) = pair();
    let mut events = Vec::new();
    let beat = one.beat(at(0)).unwrap();
    two.receive(&beat, at(2), &mut events);
    let beat = two.beat(at(17)).unwrap();
    one.receive(&beat, at(20), &mut events);
    assert_eq!(one.stats().round_trip, Some(5 * MS));
}

#[test]
fn a_status_is_told_at_once_and_once() {
    let (mut one, mut two) = pair();
    assert_eq!(pass(&mut one, &mut two, 0), []);
    assert_eq!(two.peer_status(), Some(0));
    assert_eq!(one.beat(at(5)), None);
    one.tell(7, at(5));
    assert_eq!(pass(&mut one, &mut two, 5), [HeartEvent::Status(7)]);
    assert_eq!(pass(&mut one, &mut two, 25), []);
    assert_eq!(two.peer_status(), Some(7));
}

#[test]
fn beats_that_were_missed_are_not_made_up_for() {
    let (mut one, _) = pair();
    assert!(one.beat(at(0)).is_some());
    assert!(one.beat(at(19)).is_none());
    assert!(one.beat(at(21)).is_some(), "one millisecond late");
    assert!(one.beat(at(40)).is_some(), "and back in step");
    assert!(one.beat(at(500)).is_some());
    assert!(one.beat(at(510)).is_none());
    assert_eq!(one.stats().latest, 440 * MS);
}

proptest! {
    /// A network that loses, doubles and reorders.
    #[test]
    fn on_a_bad_network_each_beat_counts_once_and_nothing_is_confirmed_that_was_not_heard(
        fates in proptest::collection::vec((0usize..4, 0u32..120, any::<bool>()), 1..200),
    ) {
        let (mut one, mut two) = pair();
        // When due, for whom, what, and when it was sent.
        let mut travelling: Vec<(u32, bool, [u8; LENGTH], u32)> = Vec::new();
        let mut latest = [None::<u32>; 2];
        for (i, (copies, delay, back)) in fates.into_iter().enumerate() {
            let ms = 10 * i as u32;
            let sender = if back { &mut two } else { &mut one };
            if let Some(beat) = sender.beat(at(ms)) {
                travelling.extend((0..copies as u32).map(|c| (ms + delay * (c + 1), !back, beat, ms)));
            }
            travelling.sort_by_key(|(due, ..)| *due);
            let due = travelling.partition_point(|(due, ..)| *due <= ms);
            for (_, to_two, beat, sent) in travelling.drain(..due).collect::<Vec<_>>() {
                let to = if to_two { &mut two } else { &mut one };
                let heard = &mut latest[usize::from(to_two)];
                let fresh = heard.is_none_or(|h| sent > h);
                let verdict = to.receive(&beat, at(ms), &mut Vec::new());
                prop_assert_eq!(verdict, if fresh { Verdict::Fresh } else { Verdict::Stale });
                *heard = (*heard).max(Some(sent));
            }
            prop_assert!(one.confirmed() <= latest[1].map(at), "two heard it");
            prop_assert!(two.confirmed() <= latest[0].map(at), "one heard it");
        }
    }
}
