use std::{
    io::{ErrorKind, Read, Write},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hawser_testkit::wait::{SOON, for_condition};
use proptest::prelude::*;
use socket2::SockRef;

use super::*;

/// QEMU's ends of a device's sockets.
struct Device {
    capture: UnixStream,
    release: UnixStream,
    got: Vec<u8>,
}

impl Device {
    fn send(&mut self, bytes: &[u8]) {
        self.capture.write_all(bytes).unwrap();
    }

    /// Takes what has left so far.
    fn hear(&mut self) -> &[u8] {
        let mut buffer = [0; 4096];
        loop {
            match self.release.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.got.extend(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        &self.got
    }

    /// Waits until all of this has left, and nothing else.
    fn hears(&mut self, all: &[u8]) {
        for_condition(SOON, "all frames that may leave", || {
            self.hear().len() >= all.len()
        })
        .unwrap();
        assert!(self.hear() == all);
    }
}

fn device(name: &str) -> (Wire, Device) {
    let (capture, qemu_capture) = UnixStream::pair().unwrap();
    let (release, qemu_release) = UnixStream::pair().unwrap();
    SockRef::from(&release).set_send_buffer_size(8192).unwrap();
    qemu_release.set_nonblocking(true).unwrap();
    let wire = Wire {
        name: name.into(),
        capture,
        release,
        vnet_header: false,
    };
    let device = Device {
        capture: qemu_capture,
        release: qemu_release,
        got: Vec::new(),
    };
    (wire, device)
}

fn one(limits: Limits) -> (Output, Device, mpsc::Receiver<Signal>) {
    let (wire, device) = device("net0");
    let (told, signals) = mpsc::channel();
    let notify = move |s| told.send(s).unwrap_or_default();
    let output = Output::start(vec![wire], limits, Box::new(notify)).unwrap();
    (output, device, signals)
}

fn frame(length: usize, fill: u8) -> Vec<u8> {
    let mut out = u32::try_from(length).unwrap().to_be_bytes().to_vec();
    out.resize(4 + length, fill);
    out
}

fn next(signals: &mpsc::Receiver<Signal>) -> Signal {
    signals.recv_timeout(SOON).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    /// Frames of these lengths, to one of two devices, in pieces of this size.
    Send(usize, Vec<usize>, usize),
    Boundary,
    Release(u64),
    Hear,
}

fn step() -> impl Strategy<Value = Step> {
    let lengths = proptest::collection::vec(prop_oneof![0usize..100, 1000usize..1600, Just(MAX_FRAME)], 1..6);
    prop_oneof![
        4 => (0..2usize, lengths, 1usize..5000).prop_map(|(d, l, p)| Step::Send(d, l, p)),
        3 => Just(Step::Boundary),
        2 => (0u64..4).prop_map(Step::Release),
        2 => Just(Step::Hear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn boundaries_are_exact_and_nothing_leaves_before_its_epoch(
        steps in proptest::collection::vec(step(), 1..60),
        open: bool,
    ) {
        let (wires, mut devices): (Vec<_>, Vec<_>) = ["net0", "net1"].map(device).into_iter().unzip();
        let output = Output::start(wires, Limits::default(), Box::new(|_| ())).unwrap();
        let mut sent = [Vec::new(), Vec::new()];
        let mut frames = 0;
        // Of each device, where the line of each epoch is.
        let mut lines: Vec<[usize; 2]> = Vec::new();
        let (mut marked, mut released) = ([0, 0], [0, 0]);
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send(d, lengths, piece) => {
                    frames += lengths.len() as u64;
                    let bytes: Vec<u8> = lengths.iter().flat_map(|n| frame(*n, i as u8)).collect();
                    bytes.chunks(piece).for_each(|piece| devices[d].send(piece));
                    sent[d].extend(bytes);
                }
                Step::Boundary => {
                    let now = [sent[0].len(), sent[1].len()];
                    let made = output.boundary(lines.len() as u64).unwrap();
                    let bytes = (now[0] + now[1] - marked[0] - marked[1]) as u64;
                    prop_assert_eq!(made, Boundary { frames, bytes });
                    lines.push(now);
                    marked = now;
                    frames = 0;
                    prop_assert_eq!(output.wish(), Wish::None);
                }
                Step::Release(back) => {
                    let Some(epoch) = (lines.len() as u64).checked_sub(1 + back) else { continue };
                    output.release(epoch);
                    for (d, r) in released.iter_mut().enumerate() {
                        *r = lines[epoch as usize][d].max(*r);
                    }
                }
                Step::Hear => {}
            }
            for d in 0..2 {
                prop_assert!(sent[d][..released[d]].starts_with(devices[d].hear()));
            }
        }
        if open {
            output.open_gate();
            released = [sent[0].len(), sent[1].len()];
        }
        for d in 0..2 {
            devices[d].hears(&sent[d][..released[d]]);
        }
        prop_assert_eq!(output.dropped(), Dropped::default());
    }
}

#[test]
fn a_release_socket_that_is_full_does_not_keep_frames_from_being_read() {
    let (output, mut device, _signals) = one(Limits::default());
    let bytes: Vec<u8> = (0..2000).flat_map(|i| frame(1500, i as u8)).collect();
    device.send(&bytes[..bytes.len() / 2]);
    output.boundary(1).unwrap();
    output.release(1);
    // Nobody reads what was released; QEMU's main loop would block here if capturing waited for that.
    device.send(&bytes[bytes.len() / 2..]);
    output.boundary(2).unwrap();
    assert_eq!(output.held().frames, 1000);
    output.release(2);
    device.hears(&bytes);
}

#[test]
fn the_newest_are_dropped_at_the_hard_limit_and_counted() {
    let limits = Limits {
        soft: 5000,
        hard: 10_000,
    };
    let (output, mut device, signals) = one(limits);
    let frames: Vec<_> = (0..30).map(|i| frame(996, i)).collect();
    device.send(&frames[..20].concat());
    assert_eq!([next(&signals), next(&signals)], [Signal::Output, Signal::Soon]);
    assert_eq!(output.wait(Wish::Soon, Instant::now() + SOON), Wish::Soon);
    let made = output.boundary(1).unwrap();
    assert_eq!((made.frames, made.bytes), (10, 10_000));
    let dropped = output.dropped();
    assert_eq!((dropped.frames, dropped.bytes), (10, 10_000));
    assert_eq!(output.wish(), Wish::None);
    output.release(1);
    device.hears(&frames[..10].concat());
    // There is room again.
    device.send(&frames[20..].concat());
    assert_eq!(output.boundary(2).unwrap().frames, 10);
    output.release(2);
    device.hears(&[&frames[..10], &frames[20..]].concat().concat());
    assert_eq!(output.dropped().frames, 10);
}

#[test]
fn one_device_at_its_limit_takes_nothing_from_another() {
    let (wires, mut devices): (Vec<_>, Vec<_>) = ["net0", "net1"].map(device).into_iter().unzip();
    let limits = Limits {
        soft: 500,
        hard: 1000,
    };
    let output = Output::start(wires, limits, Box::new(|_| ())).unwrap();
    devices[0].send(&frame(900, 0).repeat(5));
    devices[1].send(&frame(900, 1));
    output.boundary(1).unwrap();
    output.release(1);
    devices[1].hears(&frame(900, 1));
    let lost: Vec<_> = output.ports().iter().map(|p| p.dropped.frames).collect();
    assert_eq!(lost, [4, 0]);
}

#[test]
fn a_gate_that_opens_lets_what_was_held_go_first() {
    let (output, mut device, _signals) = one(Limits::default());
    let mut writing = device.capture.try_clone().unwrap();
    let total = 20_000u32;
    let writer = thread::spawn(move || {
        for i in 0..total {
            let number = [4u32.to_be_bytes(), i.to_be_bytes()].concat();
            writing.write_all(&number).unwrap();
        }
    });
    let numbers: Vec<u8> = (0..total)
        .flat_map(|i| [4u32.to_be_bytes(), i.to_be_bytes()].concat())
        .collect();
    for_condition(SOON, "some frames", || output.held().frames > 1000).unwrap();
    assert!(device.hear().is_empty());
    // In the midst of it all.
    output.open_gate();
    for_condition(SOON, "all frames", || device.hear().len() == numbers.len()).unwrap();
    assert!(device.hear() == numbers, "in order, each once");
    writer.join().unwrap();
    assert_eq!(output.wish(), Wish::None);
    assert_eq!(output.held().frames, 0);
}

#[test]
fn releases_from_several_threads_keep_the_order() {
    let (output, mut device, _signals) = one(Limits::default());
    let all: Vec<u8> = (0..400).flat_map(|i| frame(700, i as u8)).collect();
    for (epoch, bytes) in all.chunks(704 * 4).enumerate() {
        device.send(bytes);
        output.boundary(epoch as u64).unwrap();
    }
    thread::scope(|s| {
        for t in 0..4 {
            let output = &output;
            s.spawn(move || (0..25).for_each(|i| assert!(output.release(i * 4 + t).frames % 4 == 0)));
        }
    });
    device.hears(&all);
}

#[test]
fn a_muted_machine_is_not_heard_again() {
    let (output, mut device, _signals) = one(Limits::default());
    device.send(&frame(1000, 1).repeat(100));
    output.boundary(1).unwrap();
    device.send(&frame(1000, 2));
    output.release(1);
    output.mute();
    let heard = device.hear().len();
    output.release(1);
    output.open_gate();
    // More than a socket holds: it is still read.
    device.send(&frame(1000, 3).repeat(1000));
    output.boundary(2).unwrap();
    output.release(2);
    assert_eq!(device.hear().len(), heard);
    assert_eq!(output.held(), Held::default());
    drop(output);
    assert_eq!(device.hear().len(), heard);
}

#[test]
fn a_frame_that_is_torn_at_the_end_never_leaves() {
    let (output, mut device, signals) = one(Limits::default());
    device.send(&frame(100, 1));
    device.send(&frame(100, 2)[..50]);
    drop(std::mem::replace(
        &mut device.capture,
        UnixStream::pair().unwrap().0,
    ));
    assert_eq!([next(&signals), next(&signals)], [Signal::Output, Signal::Ended]);
    assert_eq!(output.wait(Wish::Output, Instant::now() + SOON), Wish::Ended);
    let ended = Ended::Closed {
        name: "net0".into(),
        torn: 50,
    };
    assert_eq!(output.ended(), Some(ended));
    assert_eq!(output.boundary(1).unwrap().frames, 1);
    output.release(1);
    device.hears(&frame(100, 1));
    output.open_gate();
    device.hears(&frame(100, 1));
}

#[test]
fn a_stream_that_is_none_of_frames_is_read_on_and_nothing_of_it_leaves() {
    let (output, mut device, signals) = one(Limits::default());
    device.send(&frame(100, 1));
    device.send(&[0xff; 1 << 20]);
    assert_eq!([next(&signals), next(&signals)], [Signal::Output, Signal::Ended]);
    assert!(output.ended().unwrap().to_string().contains("vnet_hdr_support"));
    output.open_gate();
    device.send(&[0; 1 << 20]);
    device.hears(&frame(100, 1));
}

#[test]
fn a_device_that_reads_no_more_takes_nothing_from_another_and_fills_no_memory() {
    let (wires, mut devices): (Vec<_>, Vec<_>) = ["net0", "net1"].map(device).into_iter().unzip();
    let output = Output::start(wires, Limits::default(), Box::new(|_| ())).unwrap();
    devices[0].release = UnixStream::pair().unwrap().0;
    output.open_gate();
    for _ in 0..10 {
        devices[0].send(&frame(60_000, 1).repeat(100));
        devices[1].send(&frame(60, 2));
    }
    devices[1].hears(&frame(60, 2).repeat(10));
    assert!(matches!(output.ended(), Some(Ended::Failed { .. })));
    assert_eq!(output.dropped().frames, 0, "what nobody takes is not kept");
}

#[test]
fn a_machine_that_was_not_stopped_is_told_so() {
    let (wire, mut device) = device("net0");
    let port = port::Port::new(wire, Limits::default());
    device.send(&frame(996, 1).repeat(50));
    let mut ended = false;
    let running = port.boundary(1, 40_000, &mut ended);
    assert!(matches!(running, Err(NetError::Running { .. })));
    assert_eq!(port.boundary(1, 40_000, &mut ended).unwrap().frames, 50);
    assert!(!ended);
}

#[test]
fn a_wait_ends_with_its_time() {
    let (output, _device, _signals) = one(Limits::default());
    let until = Instant::now() + Duration::from_millis(30);
    assert_eq!(output.wait(Wish::Output, until), Wish::None);
    assert!(Instant::now() >= until);
}
