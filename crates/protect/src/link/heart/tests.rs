use std::{
    net::Ipv4Addr,
    sync::{
        atomic::AtomicBool,
        mpsc::{self, Receiver},
    },
    thread,
};

use hawser_testkit::{
    Host,
    wait::{SOON, for_condition},
};

use super::*;
use crate::link::tests::Wired;

/// Slow enough for a busy machine.
const RHYTHM: Rhythm = Rhythm {
    every: Duration::from_millis(50),
    silent_after: Duration::from_millis(1000),
    frozen_after: Duration::from_secs(5),
};

struct End {
    heart: Heart,
    events: Receiver<HeartEvent>,
    _hearts: Hearts,
}

impl End {
    fn next(&self) -> HeartEvent {
        self.events.recv_timeout(SOON).unwrap()
    }

    fn quiet(&self) {
        assert_eq!(self.events.try_recv(), Err(mpsc::TryRecvError::Empty));
    }

    /// Waits until this many beats of the peer have come.
    fn hears(&self, more: u64) {
        let all = self.heart.stats().received + more;
        for_condition(SOON, "beats", || self.heart.stats().received >= all).unwrap();
    }
}

fn socket(host: &Host) -> UdpSocket {
    host.enter(|| UdpSocket::bind(host.at(0))).unwrap().unwrap()
}

fn begin(socket: UdpSocket, keys: HeartKeys, peer: HeartPeer) -> End {
    let hearts = Hearts::start(socket).unwrap();
    let (told, events) = mpsc::channel();
    let notify = move |e| told.send(e).unwrap_or_default();
    let heart = hearts.begin(keys, peer, Life::new(), RHYTHM, Box::new(notify));
    End {
        heart,
        events,
        _hearts: hearts,
    }
}

/// One knows where two is; two learns where one is.
fn pair(one: &Host, two: &Host) -> (End, End) {
    let (first, second) = (socket(one), socket(two));
    let (one_keys, two_keys) = HeartKeys::pair(1);
    let to = second.local_addr().unwrap();
    (
        begin(first, one_keys, HeartPeer::At(to)),
        begin(second, two_keys, HeartPeer::Behind(one.address())),
    )
}

fn here() -> Host {
    Host::on_loopback("here", Ipv4Addr::LOCALHOST)
}

#[test]
fn two_hear_each_other_and_what_they_tell() {
    let (one, two) = pair(&here(), &here());
    one.hears(3);
    two.hears(3);
    for end in [&one, &two] {
        for_condition(SOON, "a confirmation", || end.heart.confirmed().is_some()).unwrap();
        assert!(end.heart.last_heard().is_some());
        assert!(end.heart.stats().round_trip.unwrap() < SOON);
        end.quiet();
    }
    two.heart.tell(3);
    assert_eq!(one.next(), HeartEvent::Status(3));
    assert_eq!(one.heart.peer_status(), Some(3));
    // Its end is silence.
    drop(two);
    assert_eq!(one.next(), HeartEvent::Silent);
    assert!(one.heart.silent_for() >= RHYTHM.silent_after);
}

#[test]
fn one_socket_serves_many_peers() {
    let shared = Hearts::start(socket(&here())).unwrap();
    let at = shared.local().unwrap();
    let mut ends = Vec::new();
    for seed in 10..15 {
        let (one, two) = HeartKeys::pair(seed);
        let end = begin(socket(&here()), one, HeartPeer::At(at));
        let peer = HeartPeer::Behind(at.ip());
        let heart = shared.begin(two, peer, Life::new(), RHYTHM, Box::new(|_| ()));
        ends.push((end, heart));
    }
    for (end, heart) in &ends {
        end.hears(3);
        assert!(heart.stats().received > 0);
        assert_eq!((heart.stats().forged, heart.stats().stale), (0, 0));
    }
}

#[test]
fn silence_on_both_ways_is_noticed_and_so_is_its_end() {
    let Some(wired) = Wired::build() else { return };
    let (one, two) = pair(&wired.one, &wired.two);
    one.hears(2);
    two.hears(2);
    wired.deafen(&wired.one);
    wired.deafen(&wired.two);
    assert_eq!([one.next(), two.next()], [HeartEvent::Silent; 2]);
    wired.mend();
    assert_eq!([one.next(), two.next()], [HeartEvent::Heard; 2]);
}

#[test]
fn a_loss_in_one_direction_is_known_to_the_one_who_is_not_heard() {
    let Some(wired) = Wired::build() else { return };
    let (one, two) = pair(&wired.one, &wired.two);
    for_condition(SOON, "a confirmation", || one.heart.confirmed().is_some()).unwrap();
    // What two sends still comes.
    wired.deafen(&wired.two);
    assert_eq!(two.next(), HeartEvent::Silent);
    // What two said before may still wait to be read.
    one.hears(5);
    let confirmed = one.heart.confirmed().unwrap();
    one.hears(5);
    assert_eq!(
        one.heart.confirmed(),
        Some(confirmed),
        "nothing is confirmed any more"
    );
    assert!(confirmed.elapsed() > RHYTHM.silent_after);
    one.quiet();
    wired.mend();
    assert_eq!(two.next(), HeartEvent::Heard);
    for_condition(SOON, "a confirmation", || one.heart.confirmed() > Some(confirmed)).unwrap();
}

/// Stands between two ends, and can be told to hold everything back, keeping it.
struct Between {
    at: SocketAddr,
    socket: UdpSocket,
    holding: Arc<AtomicBool>,
    kept: Receiver<Vec<u8>>,
    to: SocketAddr,
}

impl Between {
    fn new(to: SocketAddr) -> Self {
        let socket = socket(&here());
        let holding = Arc::new(AtomicBool::new(false));
        let (keep, kept) = mpsc::channel();
        let (own, held) = (socket.try_clone().unwrap(), holding.clone());
        own.set_read_timeout(Some(SOON)).unwrap();
        thread::spawn(move || {
            let (mut buffer, mut first) = ([0; 256], None);
            while let Ok((n, from)) = own.recv_from(&mut buffer) {
                let on = if from == to { first } else { Some(to) };
                if from != to {
                    first = Some(from);
                }
                let keeps = from != to && keep.send(buffer[..n].to_vec()).is_ok();
                if let Some(on) = on
                    && !held.load(SeqCst)
                {
                    let _ = own.send_to(&buffer[..n], on);
                }
                if from != to && !keeps {
                    return;
                }
            }
        });
        Self {
            at: socket.local_addr().unwrap(),
            socket,
            holding,
            kept,
            to,
        }
    }

    fn inject(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).unwrap();
    }
}

#[test]
fn forged_and_replayed_datagrams_keep_nobody_alive() {
    let (first, second) = (socket(&here()), socket(&here()));
    let (one_keys, two_keys) = HeartKeys::pair(1);
    let between = Between::new(second.local_addr().unwrap());
    let two = begin(second, two_keys, HeartPeer::Behind(here().address()));
    let one = begin(first, one_keys, HeartPeer::At(between.at));
    two.hears(5);
    one.hears(5);
    between.holding.store(true, SeqCst);
    // Everything that passed, once more and changed, for as long as it takes to be found silent.
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let silent = loop {
        if let Ok(event) = two.events.try_recv() {
            break event;
        }
        // What was held back from now on is new to two, and is not given to it.
        if seen.is_empty() {
            seen.extend(between.kept.try_iter().take(5));
        }
        for datagram in &seen {
            between.inject(datagram);
            let mut changed = datagram.clone();
            changed[16] = 0xff;
            between.inject(&changed);
            between.inject(&datagram[..20]);
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(silent, HeartEvent::Silent);
    let stats = two.heart.stats();
    assert!(stats.stale > 10 && stats.forged > 10, "{stats:?}");
    between.holding.store(false, SeqCst);
    assert_eq!(two.next(), HeartEvent::Heard);
}

#[test]
fn beats_are_drawn_to_no_other_host() {
    let (first, second) = (socket(&here()), socket(&here()));
    let (one_keys, two_keys) = HeartKeys::pair(1);
    let to = second.local_addr().unwrap();
    let two = begin(second, two_keys, HeartPeer::Behind(here().address()));
    // A genuine beat, sent on by another host before its own way has brought it.
    let mut pulse = Pulse::new(one_keys, RHYTHM, Moment::now());
    let thief = socket(&Host::on_loopback("thief", Ipv4Addr::new(127, 0, 0, 9)));
    thief.send_to(&pulse.beat(Moment::now()).unwrap(), to).unwrap();
    for_condition(SOON, "the beat", || two.heart.stats().received == 1).unwrap();
    first.set_read_timeout(Some(SOON)).unwrap();
    pulse.tell(1, Moment::now());
    first.send_to(&pulse.beat(Moment::now()).unwrap(), to).unwrap();
    assert!(
        first.recv_from(&mut [0; 256]).is_ok(),
        "they go to where the peer is"
    );
    thief.set_nonblocking(true).unwrap();
    assert!(thief.recv_from(&mut [0; 256]).is_err());
}
