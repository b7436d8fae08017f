//! Heartbeats: authenticated datagrams on a thread of their own.
//!
//! Each says what its sender last heard of the other side, so that a way that loses everything in one direction is known at
//! both ends. A datagram counts once and only if it is newer than all before. Whoever holds datagrams back can make a peer
//! seem alive for as long as it held them; [`Heart::confirmed`] cannot be deceived so: it tells when a beat of ours was sent
//! that the peer has since heard.

mod datagram;
mod pulse;

pub use datagram::HeartKeys;
pub use pulse::{Gap, HeartEvent, HeartStats, Rhythm};

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use super::{Life, LinkError, Moment};
use crate::urgent;
use datagram::Tag;
use pulse::{Pulse, Verdict};

/// Datagrams that are read before beats have their turn again.
const READS: usize = 512;

/// Told of every [`HeartEvent`], in the thread that all beats come from: must not block.
pub type HeartNotify = Box<dyn Fn(HeartEvent) + Send + Sync>;

/// Where a peer's heartbeats go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartPeer {
    /// There.
    At(SocketAddr),
    /// To the port of this address that its own beats come from; ours begin with the first of those.
    Behind(IpAddr),
    /// As [`Self::Behind`], and this is the port.
    Found(SocketAddr),
}

impl HeartPeer {
    fn address(self) -> Option<SocketAddr> {
        match self {
            HeartPeer::At(address) | HeartPeer::Found(address) => Some(address),
            HeartPeer::Behind(_) => None,
        }
    }

    /// Follows the peer to another port, not to another host: whoever overhears a beat and sends it on faster from elsewhere
    /// must not draw ours to itself.
    fn came_from(&mut self, from: SocketAddr) {
        let known = match self {
            HeartPeer::At(_) => return,
            HeartPeer::Behind(ip) => *ip,
            HeartPeer::Found(address) => address.ip(),
        };
        if known.to_canonical() == from.ip().to_canonical() {
            *self = HeartPeer::Found(from);
        }
    }
}

/// The heartbeats of a host with all its peers, over one socket and on one thread.
pub struct Hearts {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The heartbeats of one channel. Dropped, they stop.
pub struct Heart {
    shared: Arc<Shared>,
    session: Arc<Session>,
}

struct Shared {
    socket: UdpSocket,
    sessions: Mutex<HashMap<Tag, Arc<Session>>>,
    wake: OwnedFd,
    stop: AtomicBool,
}

struct Session {
    pulse: Mutex<Pulse>,
    peer: Mutex<HeartPeer>,
    life: Life,
    notify: HeartNotify,
}

impl Hearts {
    /// Begins to serve this socket, on which no other may receive.
    pub fn start(socket: UdpSocket) -> Result<Self, LinkError> {
        let setup = |source| LinkError::Setup {
            what: "heartbeats",
            source,
        };
        socket.set_nonblocking(true).map_err(setup)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| setup(e.into()))?;
        let shared = Arc::new(Shared {
            socket,
            sessions: Mutex::default(),
            wake,
            stop: AtomicBool::new(false),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("heartbeats".into())
            .spawn(move || {
                urgent::this_thread();
                own.run();
            })
            .map_err(setup)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Where the socket is bound: the port that the peer is to send to.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// Begins to beat for a channel and to listen to its peer.
    pub fn begin(
        &self,
        keys: HeartKeys,
        peer: HeartPeer,
        life: Life,
        rhythm: Rhythm,
        notify: HeartNotify,
    ) -> Heart {
        let pulse = Pulse::new(keys, rhythm, Moment::now());
        let tag = pulse.tag();
        let session = Arc::new(Session {
            pulse: Mutex::new(pulse),
            peer: Mutex::new(peer),
            life,
            notify,
        });
        lock(&self.shared.sessions).insert(tag, session.clone());
        self.shared.wake();
        Heart {
            shared: self.shared.clone(),
            session,
        }
    }
}

impl Drop for Hearts {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which the panic hook has told.
            let _ = thread.join();
        }
    }
}

impl Heart {
    /// How long the peer has been silent, by time in which this process ran; as it was when this was last looked into, which
    /// is with every beat.
    pub fn silent_for(&self) -> Duration {
        self.session.pulse().silence()
    }

    /// When a datagram last came, or any byte on the channel.
    pub fn last_heard(&self) -> Option<Moment> {
        self.session.pulse().heard().max(self.session.life.last())
    }

    /// When that beat of ours was sent which is the latest that the peer says it has heard. Since then it has been alive, and
    /// up to then our way to it was open: falling behind while [`Self::silent_for`] is short, it means that the peer does not
    /// hear us.
    pub fn confirmed(&self) -> Option<Moment> {
        self.session.pulse().confirmed()
    }

    /// What the peer last told with [`Self::tell`].
    pub fn peer_status(&self) -> Option<u16> {
        self.session.pulse().peer_status()
    }

    /// Tells the peer this at once, and with every further beat.
    pub fn tell(&self, status: u16) {
        self.session.pulse().tell(status, Moment::now());
        self.shared.wake();
    }

    /// The last time in which this process did not run for [`Rhythm::frozen_after`] or longer, even if its end has not been
    /// noticed anywhere else yet.
    pub fn own_gap(&self) -> Option<Gap> {
        // The lock first: the moment must not be older than the last look.
        let pulse = self.session.pulse();
        pulse.gap(Moment::now())
    }

    /// Counts, for people.
    pub fn stats(&self) -> HeartStats {
        self.session.pulse().stats()
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        let tag = self.session.pulse().tag();
        lock(&self.shared.sessions).remove(&tag);
    }
}

impl Session {
    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        lock(&self.pulse)
    }

    fn tell(&self, events: Vec<HeartEvent>) {
        for event in events {
            (self.notify)(event);
        }
    }
}

impl Shared {
    fn run(&self) {
        while !self.stop.load(SeqCst) {
            self.receive();
            let sessions: Vec<_> = lock(&self.sessions).values().cloned().collect();
            let next = sessions.iter().map(|s| self.turn(s)).min();
            if let Err(error) = self.sleep(next) {
                tracing::error!(%error, "heartbeats end: cannot wait for their socket");
                return;
            }
        }
    }

    /// Beats if it is time to; says when it is next.
    fn turn(&self, session: &Session) -> Moment {
        let (mut events, now) = (Vec::new(), Moment::now());
        let mut pulse = session.pulse();
        pulse.tick(now, session.life.last(), &mut events);
        if let Some(beat) = pulse.beat(now) {
            // A datagram that cannot be sent is as good as one that is lost.
            let sent = lock(&session.peer)
                .address()
                .map(|to| self.socket.send_to(&beat, to));
            pulse.sent(sent.is_some_and(|s| s.is_ok()));
        }
        let next = pulse.next_at();
        drop(pulse);
        session.tell(events);
        next
    }

    /// Takes in what has come.
    fn receive(&self) {
        let mut buffer = [0; 256];
        for _ in 0..READS {
            let (n, from) = match self.socket.recv_from(&mut buffer) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // What a socket reports here is the fate of an earlier datagram.
                Err(_) => continue,
            };
            let datagram = &buffer[..n];
            let found = datagram::tag(datagram).and_then(|tag| lock(&self.sessions).get(&tag).cloned());
            let Some(session) = found else {
                continue;
            };
            let mut events = Vec::new();
            let verdict = session.pulse().receive(datagram, Moment::now(), &mut events);
            if verdict == Verdict::Fresh {
                lock(&session.peer).came_from(from);
            }
            session.tell(events);
        }
    }

    fn sleep(&self, until: Option<Moment>) -> Result<(), Errno> {
        let timeout = until.map(|at| {
            let left = at.since(Moment::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds = [
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::new(&self.socket, PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Err(e) if e != Errno::INTR => return Err(e),
            _ => {}
        }
        if !fds[0].revents().is_empty() {
            // Empty already if several calls came together.
            let _ = rustix::io::read(self.wake.as_fd(), &mut [0; 8]);
        }
        Ok(())
    }

    fn wake(&self) {
        // Fails only where the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Hearts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hearts")
    }
}

impl std::fmt::Debug for Heart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heart").field("stats", &self.stats()).finish()
    }
}

#[cfg(test)]
mod tests;
