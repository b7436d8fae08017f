//! The standby's end against a peer that is faulty or hostile, and against loss: errors, no panic, no memory on credit.

use hawser_proto::replication::{Extent, Head, MAX_BODY, PREAMBLE, Run};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn pages(epoch: u64, first: u32, count: u32) -> Vec<u8> {
    let run = Run {
        block: 0,
        first,
        count,
    };
    let mut frame = Head::Pages {
        mode: Mode::Checkpoint,
        epoch,
        run,
    }
    .encode()
    .to_vec();
    frame.resize(frame.len() + count as usize * PAGE, (first as u8).wrapping_add(1));
    frame
}

fn zero(epoch: u64, first: u32, count: u32) -> Vec<u8> {
    let run = Run {
        block: 0,
        first,
        count,
    };
    Head::Zero {
        mode: Mode::Checkpoint,
        epoch,
        run,
    }
    .encode()
    .to_vec()
}

fn barrier(epoch: u64) -> Vec<u8> {
    Head::Barrier { epoch }.encode().to_vec()
}

fn end(epoch: u64, pages: u32, zero_pages: u32, of: &[u8]) -> Vec<u8> {
    let digest = xxh3_64(of);
    Head::End {
        epoch,
        pages,
        zero_pages,
        state: 0,
        digest,
    }
    .encode()
    .to_vec()
}

fn write(disk: u16, offset: u64, length: u64) -> Vec<u8> {
    let mut frame = Head::Write(Extent { disk, offset, length }).encode().to_vec();
    frame.resize(frame.len() + length as usize, 7);
    frame
}

fn inbound(frames: &[Vec<u8>], limits: Limits) -> Inbound {
    let bytes = [PREAMBLE.to_vec(), frames.concat()].concat();
    let mut inbound = Inbound::new(Box::new(io::Cursor::new(bytes)), limits);
    inbound.expect(Ram::new(&[512]).layout(), vec![1 << 20]);
    inbound
}

/// What the frames end in.
fn refused(frames: &[Vec<u8>]) -> PipeError {
    refused_within(frames, Limits::default())
}

fn refused_within(frames: &[Vec<u8>], limits: Limits) -> PipeError {
    let mut inbound = inbound(frames, limits);
    let mut standby = Standby::new(&[512]);
    loop {
        match inbound.next(&mut standby) {
            Ok(_) => {}
            Err(e) => {
                assert!(matches!(inbound.next(&mut standby), Err(PipeError::Closed)));
                return e;
            }
        }
    }
}

#[test]
fn an_epoch_is_taken_when_it_is_what_was_sent() {
    let page = pages(1, 3, 2);
    assert!(matches!(
        refused(&[barrier(1), page.clone(), end(1, 2, 0, &page)]),
        PipeError::Closed
    ));
    let altered = [
        vec![barrier(1), page.clone(), end(1, 1, 0, &page)],
        vec![barrier(1), page.clone(), end(1, 2, 1, &page)],
        vec![barrier(1), pages(1, 3, 1), end(1, 1, 0, &page)],
        vec![barrier(1), zero(1, 3, 2), end(1, 0, 2, &[])],
    ];
    for frames in altered {
        let e = refused(&frames);
        assert!(matches!(e, PipeError::Altered { epoch: 1, .. }), "{e}");
    }
}

#[test]
fn frames_out_of_their_order_are_refused() {
    let sync = |epoch| {
        let run = Run {
            block: 0,
            first: 0,
            count: 1,
        };
        Head::Zero {
            mode: Mode::Sync,
            epoch,
            run,
        }
        .encode()
        .to_vec()
    };
    let whole = [barrier(5), end(5, 0, 0, &[])].concat();
    let cases = [
        // An end before its barrier, or not of the oldest one.
        vec![end(1, 0, 0, &[])],
        vec![barrier(1), barrier(2), end(2, 0, 0, &[])],
        vec![zero(1, 0, 1), end(1, 0, 1, &zero(1, 0, 1))],
        // Pages of another epoch than the one that is gathered, or of one that has ended.
        vec![zero(1, 0, 1), zero(2, 0, 1)],
        vec![whole.clone(), zero(5, 0, 1)],
        vec![whole.clone(), end(5, 0, 0, &[])],
        // Barriers that go back, or never end.
        vec![barrier(2), barrier(1)],
        vec![whole.clone(), barrier(5)],
        (1..100).map(barrier).collect(),
        // Synchronisation after the first staged page.
        vec![whole, sync(0)],
        vec![zero(1, 0, 1), sync(0)],
    ];
    for frames in cases {
        let e = refused(&frames);
        assert!(matches!(e, PipeError::Order { .. }), "{e}");
    }
}

#[test]
fn what_the_guest_does_not_have_is_refused() {
    let cases = [
        pages(1, 511, 2),
        zero(1, 0, 513),
        zero(1, u32::MAX, 1),
        write(0, (1 << 20) - 5, 6),
        write(1, 0, 1),
        Head::Discard(Extent {
            disk: 0,
            offset: 0,
            length: 1 << 21,
        })
        .encode()
        .to_vec(),
        Head::Zeroes(Extent {
            disk: u16::MAX,
            offset: 0,
            length: 1,
        })
        .encode()
        .to_vec(),
    ];
    for frame in cases {
        let e = refused(&[frame]);
        assert!(matches!(e, PipeError::Outside(_)), "{e}");
    }
}

#[test]
fn before_the_guest_is_known_only_messages_are_taken() {
    let hello = [Head::Control { length: 5 }.encode().to_vec(), b"hello".to_vec()].concat();
    for frame in [zero(1, 0, 1), write(0, 0, 1)] {
        let bytes = [PREAMBLE.to_vec(), hello.clone(), frame].concat();
        let mut inbound = Inbound::new(Box::new(io::Cursor::new(bytes)), Limits::default());
        let mut standby = Standby::new(&[]);
        assert!(matches!(inbound.next(&mut standby), Ok(Incoming::Control(m)) if m == b"hello"));
        assert!(matches!(inbound.next(&mut standby), Err(PipeError::Outside(_))));
    }
}

#[test]
fn limits_are_kept() {
    // The same pages again and again.
    let frames: Vec<_> = (0..3).map(|_| zero(1, 0, 512)).collect();
    assert!(matches!(
        refused(&frames),
        PipeError::TooMuch {
            what: "pages",
            limit: 1024
        }
    ));
    // State without end.
    let mut state = Head::State {
        epoch: 1,
        length: MAX_BODY,
    }
    .encode()
    .to_vec();
    state.resize(state.len() + MAX_BODY as usize, 0);
    let frames = vec![state; MAX_STATE / MAX_BODY as usize + 1];
    assert!(matches!(
        refused(&frames),
        PipeError::TooMuch {
            what: "bytes of device state",
            ..
        }
    ));
    // More pages than there is memory for.
    let limits = Limits {
        staged: 1 << 20,
        ..Limits::default()
    };
    let frames = [pages(1, 0, 256), pages(1, 256, 1)];
    assert!(matches!(
        refused_within(&frames, limits),
        PipeError::TooMuch {
            what: "bytes of pages",
            ..
        }
    ));
}

#[test]
fn pages_beyond_the_memory_are_spilled_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        staged: 1 << 20,
        spill_dir: Some(dir.path().into()),
        spill: 1 << 20,
    };
    let one = [
        pages(1, 0, 200),
        pages(1, 200, 200),
        zero(1, 100, 8),
        pages(1, 500, 1),
    ];
    let two = [pages(2, 0, 256), pages(2, 256, 256)];
    let three = [pages(3, 0, 256), pages(3, 256, 256), pages(3, 0, 1)];
    let frames = [
        vec![barrier(1)],
        one.to_vec(),
        vec![end(1, 401, 8, &one.concat()), barrier(2)],
        two.to_vec(),
        vec![end(2, 512, 0, &two.concat()), barrier(3)],
        three.to_vec(),
    ]
    .concat();
    let mut inbound = inbound(&frames, limits);
    let mut standby = Standby::new(&[512]);
    let (_, _, staged) = inbound.epoch(&mut standby);
    assert_eq!(staged.spilled(), 145 * PAGE as u64);
    staged.apply(standby.ram.as_ref()).unwrap();
    let bytes = &standby.ram.bytes()[0];
    let page = |n: usize| &bytes[n * PAGE..(n + 1) * PAGE];
    let filled = |n: usize, with: u8| page(n).iter().all(|b| *b == with);
    assert!(filled(0, 1) && filled(99, 1) && filled(100, 0) && filled(107, 0) && filled(108, 1));
    assert!(filled(200, 201) && filled(399, 201) && filled(400, 0) && filled(500, 245));
    // Its room is free again for the second; the third is beyond both.
    let (_, _, staged) = inbound.epoch(&mut standby);
    assert_eq!(staged.spilled(), 1 << 20);
    drop(staged);
    assert!(matches!(
        inbound.next(&mut standby),
        Err(PipeError::TooMuch { .. })
    ));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_channel_cut_anywhere_is_an_error() {
    let page = pages(1, 3, 1);
    let frames = [barrier(1), page.clone(), write(0, 0, 40), end(1, 1, 0, &page)];
    let bytes = [PREAMBLE.to_vec(), frames.concat()].concat();
    for cut in (0..200).chain(bytes.len() - 200..bytes.len()) {
        let mut inbound = Inbound::new(
            Box::new(io::Cursor::new(bytes[..cut].to_vec())),
            Limits::default(),
        );
        inbound.expect(Ram::new(&[512]).layout(), vec![1 << 20]);
        match inbound.next(&mut Standby::new(&[512])) {
            Err(PipeError::Closed | PipeError::Read(_)) => {}
            Err(e) => panic!("cut at {cut}: {e}"),
            Ok(_) => panic!("an epoch that was cut at {cut} was taken"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn altered_bytes_never_become_other_pages(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4)
    ) {
        let page = [pages(1, 3, 1), zero(1, 9, 2)].concat();
        let frames = [barrier(1), page.clone(), end(1, 1, 2, &page)];
        let right = [PREAMBLE.to_vec(), frames.concat()].concat();
        let mut bytes = right.clone();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let same = bytes == right;
        let mut inbound = Inbound::new(Box::new(io::Cursor::new(bytes)), Limits::default());
        inbound.expect(Ram::new(&[512]).layout(), vec![1 << 20]);
        let mut standby = Standby::new(&[512]);
        while let Ok(incoming) = inbound.next(&mut standby) {
            let whole = matches!(incoming, Incoming::Complete { .. });
            prop_assert!(same || !whole);
        }
    }

    #[test]
    fn any_frames_of_a_peer_are_survived(
        heads in prop::collection::vec((1u8..10, any::<[bool; 31]>(), any::<[u8; 31]>()), 0..20),
        bodies in prop::collection::vec(any::<u8>(), 0..5000)
    ) {
        let mut bytes = PREAMBLE.to_vec();
        for (kind, kept, rest) in heads {
            bytes.push(kind);
            bytes.extend(rest.iter().zip(kept).map(|(b, kept)| b * u8::from(kept)));
            bytes.extend(&bodies);
        }
        let limits = Limits { staged: 4 << 20, ..Limits::default() };
        let mut inbound = Inbound::new(Box::new(io::Cursor::new(bytes)), limits);
        inbound.expect(Ram::new(&[512]).layout(), vec![1 << 20]);
        let mut standby = Standby::new(&[512]);
        while inbound.next(&mut standby).is_ok() {}
    }

    #[test]
    fn any_runs_of_any_pages_arrive(
        dirty in prop::collection::vec((0u16..2, 0u32..300, 1u32..80, any::<bool>()), 1..30),
        ring in 0usize..300_000,
        share in 0.0f64..1.0,
    ) {
        let sizes = [380, 380];
        let active = Ram::new(&sizes);
        let mut standby = Standby::new(&sizes);
        standby.ram.dirty(run(0, 0, 380), 77);
        standby.ram.dirty(run(1, 0, 380), 78);
        let threshold = crate::ring::Threshold::Fixed(share);
        let (out, mut inbound) = ends(
            Options { ring: Some(ring), threshold, ..Options::default() },
            Limits { staged: 64 << 20, ..Limits::default() },
        );
        inbound.expect(active.layout(), Vec::new());
        let mut runs = Vec::new();
        for (block, first, count, zeros) in dirty {
            let run = run(block, first, count);
            if zeros { active.clear(run) } else { active.dirty(run, 3) }
            runs.push(run);
        }
        runs.sort();
        runs.dedup_by(|b, a| {
            let touch = a.block == b.block && b.first <= a.first + a.count;
            if touch { a.count = a.count.max(b.first + b.count - a.first) }
            touch
        });
        let total: u64 = runs.iter().map(|r| u64::from(r.count)).sum();
        let copied = receiving(
            &out,
            || {
                out.begin(1).unwrap();
                let copied = out.copy(1, &runs, active.clone(), Mode::Checkpoint).unwrap();
                out.end(1, vec![5; 70_000]).unwrap();
                copied
            },
            || {
                let (_, state, staged) = inbound.epoch(&mut standby);
                assert_eq!(state, vec![5; 70_000]);
                staged.apply(standby.ram.as_ref()).unwrap();
            },
        );
        prop_assert_eq!(copied.pages + copied.zero_pages, total);
        let (from, to) = (active.bytes(), standby.ram.bytes());
        for run in runs {
            let block = usize::from(run.block);
            prop_assert!(from[block][range(run)] == to[block][range(run)], "{:?}", run);
        }
    }
}
