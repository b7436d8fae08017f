use std::thread;

use super::*;

const CAPACITY: usize = 1 << 20;

fn ring(capacity: usize, threshold: Threshold) -> (Writer<u32>, Reader<u32>, Monitor<u32>, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let (writer, reader, monitor) = channel(capacity, threshold, bell.clone());
    (writer, reader, monitor, bell)
}

fn fill(writer: &mut Writer<u32>, byte: u8) {
    let mut slot = writer.slot().unwrap();
    let (bytes, filled) = slot.parts();
    bytes.fill(byte);
    *filled = bytes.len();
    writer.push(slot);
}

fn first(item: Option<Item<u32>>) -> Option<u8> {
    match item {
        Some(Item::Frames(slot)) => Some(slot.frames()[0]),
        Some(Item::Mark(mark)) => Some(mark as u8),
        None => None,
    }
}

#[test]
fn nothing_is_taken_before_the_threshold_and_everything_after_the_end() {
    let (mut writer, mut reader, monitor, _bell) = ring(CAPACITY, Threshold::Fixed(0.5));
    let half = monitor.stats().capacity as usize / 2 / writer.slot_bytes();
    writer.begin(CAPACITY);
    for i in 0..half {
        assert!(reader.take().is_none(), "before slot {i}");
        fill(&mut writer, i as u8);
    }
    fill(&mut writer, half as u8);
    assert_eq!(first(reader.take()), Some(0));

    // Another copy: it ends below the threshold.
    let (mut writer, mut reader, monitor, _bell) = ring(CAPACITY, Threshold::Fixed(0.5));
    writer.begin(CAPACITY);
    fill(&mut writer, 7);
    assert!(reader.take().is_none());
    let copied = writer.finish();
    monitor.mark(9).unwrap();
    assert_eq!(first(reader.take()), Some(7));
    assert_eq!(first(reader.take()), Some(9));
    assert!(reader.take().is_none());
    assert_eq!(
        (copied.waits, copied.first_taken, copied.sent_meanwhile),
        (0, None, 0)
    );
}

#[test]
fn what_is_left_of_one_copy_needs_no_threshold_in_the_next() {
    let (mut writer, mut reader, monitor, _bell) = ring(CAPACITY, Threshold::Fixed(0.9));
    writer.begin(CAPACITY);
    fill(&mut writer, 1);
    writer.finish();
    monitor.mark(2).unwrap();
    writer.begin(CAPACITY);
    fill(&mut writer, 3);
    assert_eq!(first(reader.take()), Some(1));
    assert_eq!(first(reader.take()), Some(2));
    assert!(reader.take().is_none());
    writer.finish();
    assert_eq!(first(reader.take()), Some(3));
}

#[test]
fn slots_go_round_in_one_order() {
    let (mut writer, mut reader, monitor, _bell) = ring(CAPACITY, Threshold::Fixed(0.0));
    let slots = monitor.stats().capacity as usize / writer.slot_bytes();
    writer.begin(CAPACITY);
    let mut seen = Vec::new();
    for i in 0..3 * slots {
        fill(&mut writer, i as u8);
        let Some(Item::Frames(slot)) = reader.take() else {
            panic!("slot {i} was not there")
        };
        seen.push(slot.frames().as_ptr());
        reader.give_back(slot, Duration::ZERO, Duration::ZERO);
    }
    assert_eq!(seen[..slots], seen[slots..2 * slots]);
    assert_eq!(seen[..slots], seen[2 * slots..]);
}

#[test]
fn a_full_ring_makes_the_copier_wait_and_wakes_the_sender_whatever_the_threshold() {
    let (mut writer, mut reader, monitor, bell) = ring(CAPACITY, Threshold::Fixed(1.0));
    let slots = monitor.stats().capacity as usize / writer.slot_bytes();
    let sender = thread::spawn(move || {
        let mut taken = 0;
        while taken < 4 * slots {
            let seen = bell.seen();
            match reader.take() {
                Some(Item::Frames(slot)) => {
                    taken += 1;
                    reader.give_back(slot, Duration::ZERO, Duration::ZERO);
                }
                Some(Item::Mark(_)) => {}
                None => bell.wait(seen),
            }
        }
    });
    writer.begin(4 * CAPACITY);
    for i in 0..4 * slots {
        let mut slot = writer.slot().unwrap();
        // Only half full: the threshold in bytes is never reached.
        *slot.parts().1 = slot.room() / 2;
        writer.push(slot);
        assert!(monitor.stats().used <= monitor.stats().capacity, "slot {i}");
    }
    let copied = writer.finish();
    sender.join().unwrap();
    assert!(copied.waits > 0);
    assert!(copied.first_taken.is_some_and(|first| first < copied.took));
    assert!(copied.sent_meanwhile > 0);
    assert_eq!(monitor.stats().used, 0);
    assert_eq!(monitor.stats().waits, copied.waits);
}

#[test]
fn breaking_ends_the_wait() {
    let (mut writer, _reader, monitor, _bell) = ring(CAPACITY, Threshold::Adaptive);
    let slots = monitor.stats().capacity / writer.slot_bytes() as u64;
    let monitor = Arc::new(monitor);
    let breaker = monitor.clone();
    let copier = thread::spawn(move || {
        writer.begin(CAPACITY);
        loop {
            match writer.slot() {
                Ok(mut slot) => {
                    *slot.parts().1 = 1;
                    writer.push(slot);
                }
                Err(RingBroken) => return writer.finish(),
            }
        }
    });
    // Every slot is filled, with one byte: the copier waits, or is about to.
    let full = || breaker.stats().used >= slots;
    hawser_testkit::wait::for_condition(Duration::from_secs(30), "the ring to fill", full).unwrap();
    monitor.break_now();
    let copied = copier.join().unwrap();
    assert!(copied.waits <= 1);
    assert!(monitor.mark(1).is_err());
}

#[test]
fn a_ring_is_made_of_two_slots_at_least() {
    let (writer, _reader, monitor, _bell) = ring(0, Threshold::Adaptive);
    assert_eq!(monitor.stats().capacity as usize, 2 * writer.slot_bytes());
}
