//! The order rules of the one channel, under threads that do not wait for each other.

use std::sync::{
    RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;

const SOON: Duration = Duration::from_secs(60);

/// Bytes of a write that say which it is.
fn numbered(number: u64) -> Vec<u8> {
    let mut data = number.to_le_bytes().to_vec();
    data.resize(8 + (number % 5) as usize * 1000, 0);
    data
}

#[test]
fn every_write_before_the_stop_is_before_the_barrier_and_every_later_one_behind_it() {
    const EPOCHS: u64 = 60;
    const WRITERS: usize = 3;
    let ram = Ram::new(&[64]);
    let (out, mut inbound) = ends(
        Options {
            ring: Some(0),
            disk_queue: Some(20_000),
            ..Options::default()
        },
        Limits::default(),
    );
    inbound.expect(ram.layout(), vec![1 << 40; WRITERS]);
    let mut standby = Standby::new(&[64]);
    // Held by writers for each write, and by the epoch while the machine stands still.
    let running = RwLock::new(());
    let done = AtomicBool::new(false);
    let written: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let at_barrier = Mutex::new(Vec::new());

    std::thread::scope(|scope| {
        let _guard = Guard(&out);
        for (disk, written) in written.iter().enumerate() {
            let (out, running, done) = (&out, &running, &done);
            scope.spawn(move || {
                let sink = out.disks();
                while !done.load(Ordering::SeqCst) {
                    let _runs = running.read().unwrap();
                    let number = written.load(Ordering::SeqCst);
                    if sink.write(disk as u16, number * 8192, &numbered(number)).is_err() {
                        return;
                    }
                    written.store(number + 1, Ordering::SeqCst);
                }
            });
        }
        let (out, running, done, written, at_barrier, ram) =
            (&out, &running, &done, &written, &at_barrier, &ram);
        scope.spawn(move || {
            for epoch in 1..=EPOCHS {
                let stopped = running.write().unwrap();
                let counts: Vec<u64> = written.iter().map(|n| n.load(Ordering::SeqCst)).collect();
                at_barrier.lock().unwrap().push(counts);
                out.begin(epoch).unwrap();
                ram.dirty(run(0, 0, 64), epoch);
                out.copy(epoch, &[run(0, 0, 64)], ram.clone(), Mode::Checkpoint)
                    .unwrap();
                drop(stopped);
                out.end(epoch, vec![0; 10]).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        for expected in 1..=EPOCHS {
            let (epoch, _, staged) = inbound.epoch(&mut standby);
            assert_eq!((epoch, staged.pages()), (expected, 64));
            // The end is behind its barrier.
            assert!(standby.told.contains(&Told::Barrier(epoch)));
        }
        out.break_now("the test is over");
    });

    let at_barrier = at_barrier.into_inner().unwrap();
    let mut seen = vec![0; WRITERS];
    let mut barriers = 0;
    for told in &standby.told {
        match told {
            Told::Write(disk, offset, data) => {
                let next = &mut seen[usize::from(*disk)];
                assert_eq!((*offset, data), (*next * 8192, &numbered(*next)));
                *next += 1;
            }
            Told::Barrier(epoch) => {
                barriers += 1;
                assert_eq!(*epoch, barriers);
                assert_eq!(seen, at_barrier[barriers as usize - 1]);
            }
            other => panic!("nobody sent {other:?}"),
        }
    }
    assert_eq!(barriers, EPOCHS);
    assert!(seen.iter().all(|n| *n > 0));
}

#[test]
fn zeroes_and_discards_stay_among_the_writes() {
    let (out, mut inbound) = ends(Options::default(), Limits::default());
    inbound.expect(Layout::default(), vec![1 << 30, 1 << 30]);
    let mut standby = Standby::new(&[]);
    let disks = out.disks();
    disks.write(0, 5, b"first").unwrap();
    disks.zeroes(1, 0, 1 << 30).unwrap();
    disks.discard(0, 4096, 8192).unwrap();
    disks.zeroes(0, 0, 0).unwrap();
    disks.write(1, 1, b"last").unwrap();
    out.begin(4).unwrap();
    out.end(4, Vec::new()).unwrap();
    let (epoch, state, staged) = inbound.epoch(&mut standby);
    assert_eq!(
        (epoch, state.len(), staged.pages(), staged.zero_pages()),
        (4, 0, 0, 0)
    );
    let expected = [
        Told::Write(0, 5, b"first".to_vec()),
        Told::Zeroes(1, 0, 1 << 30),
        Told::Discard(0, 4096, 8192),
        Told::Write(1, 1, b"last".to_vec()),
        Told::Barrier(4),
    ];
    assert_eq!(standby.told, expected);
}

#[test]
fn what_is_copied_after_a_message_comes_after_it() {
    let ram = Ram::new(&[1]);
    let (out, mut inbound) = ends(Options::default(), Limits::default());
    let mut standby = Standby::new(&[1]);
    // More than one turn of the sender is in front of the message.
    receiving(
        &out,
        || {
            for i in 0..1000 {
                out.disks().write(0, i * 4096, &[1; 4096]).unwrap();
            }
            out.control(b"layout").unwrap();
            out.copy(0, &[run(0, 0, 1)], ram.clone(), Mode::Sync).unwrap();
            assert!(out.flush(SOON));
        },
        || {
            inbound.expect(Layout::default(), vec![1 << 30]);
            assert!(matches!(inbound.next(&mut standby), Ok(Incoming::Control(m)) if m == b"layout"));
        },
    );
    assert_eq!(standby.told.len(), 1000);
}

#[test]
fn calls_out_of_order_are_refused() {
    let ram = Ram::new(&[4]);
    let out = Outbound::start(Box::new(io::sink()), Options::default()).unwrap();
    let order = |outcome: Result<(), OutboundError>| {
        assert!(matches!(outcome, Err(OutboundError::Order(_))), "{outcome:?}");
    };
    let copy = |epoch, mode| out.copy(epoch, &[run(0, 0, 4)], ram.clone(), mode).map(drop);
    order(out.end(1, Vec::new()));
    order(copy(1, Mode::Checkpoint));
    copy(0, Mode::Sync).unwrap();
    out.begin(3).unwrap();
    order(out.begin(4));
    order(copy(2, Mode::Checkpoint));
    order(copy(0, Mode::Sync));
    order(out.end(2, Vec::new()));
    copy(3, Mode::Checkpoint).unwrap();
    copy(3, Mode::Checkpoint).unwrap();
    assert!(matches!(
        out.end(3, vec![0; MAX_STATE + 1]),
        Err(OutboundError::TooLarge { .. })
    ));
    out.end(3, Vec::new()).unwrap();
    order(out.end(3, Vec::new()));
    order(out.begin(3));
    assert!(matches!(
        out.control(&vec![0; MAX_CONTROL + 1]),
        Err(OutboundError::TooLarge { .. })
    ));
    assert!(out.flush(SOON));
    assert_eq!(out.broken(), None);
}
