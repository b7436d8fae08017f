//! One network device: reads its frames, writes those that may leave, and never does one for the other's sake.

use std::{
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{
    NetError, Wire,
    frames::{Cutter, TooLong},
    hold::{Boundary, Dropped, Held, Hold, Limits, Pushed},
};

/// Bytes that one turn writes, so that reading has its turn too.
const TURN: usize = 512 * 1024;
/// Reads in one turn of the thread, so that no device keeps it from the others.
const READS: usize = 16;

/// Why no more frames come from a device, or go to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// QEMU closed the socket, as it does when it dies or the redirector is removed.
    #[error(
        "QEMU closed the socket of network device {name} ({torn} bytes of an unfinished frame were thrown away)"
    )]
    Closed {
        /// The device.
        name: String,
        /// Bytes of a frame that never became whole.
        torn: usize,
    },
    /// What came is no stream of frames. It is read on and thrown away, so that the machine does not block.
    #[error(
        "network device {name} announces a frame of {length} bytes, more than the {} that QEMU makes: is vnet_hdr_support set as this host expects?",
        super::MAX_FRAME
    )]
    Malformed {
        /// The device.
        name: String,
        /// The length that was announced.
        length: u32,
    },
    /// A socket failed.
    #[error("a socket of network device {name} failed: {detail}")]
    Failed {
        /// The device.
        name: String,
        /// What the system says.
        detail: String,
    },
}

/// The state of one network device, for people.
#[derive(Debug, Clone)]
pub struct PortStatus {
    /// The id of its netdev.
    pub name: String,
    /// Frames that wait.
    pub held: Held,
    /// Frames lost at the hard limit.
    pub dropped: Dropped,
    /// Frames let go since the beginning.
    pub passed: u64,
    /// Why nothing more moves, if so.
    pub ended: Option<Ended>,
}

/// The reading side.
struct Intake {
    cutter: Cutter,
    state: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Frames,
    /// Only to keep the other side from blocking.
    Rubbish,
    Over,
}

/// The writing side: at most one segment on its way.
struct Outlet {
    bytes: Vec<u8>,
    at: usize,
    open: bool,
}

/// What a read brought.
struct Taken {
    bytes: usize,
    /// The socket may have more.
    more: bool,
    pushed: Pushed,
    /// The stream came to its end just now.
    ended: bool,
}

/// Lock order: intake or outlet, then hold, then ended.
pub(super) struct Port {
    name: String,
    capture: UnixStream,
    release: UnixStream,
    intake: Mutex<Intake>,
    outlet: Mutex<Outlet>,
    hold: Mutex<Hold>,
    ended: Mutex<Option<Ended>>,
    /// Somebody wants to write while another does.
    again: AtomicBool,
    /// Bytes may leave and the socket was full.
    stuck: AtomicBool,
    /// The capture socket is worth reading.
    reading: AtomicBool,
}

impl Port {
    pub(super) fn new(wire: Wire, limits: Limits) -> Self {
        Self {
            name: wire.name,
            capture: wire.capture,
            release: wire.release,
            intake: Mutex::new(Intake {
                cutter: Cutter::new(wire.vnet_header),
                state: Reading::Frames,
            }),
            outlet: Mutex::new(Outlet {
                bytes: Vec::new(),
                at: 0,
                open: true,
            }),
            hold: Mutex::new(Hold::new(limits)),
            ended: Mutex::new(None),
            again: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            reading: AtomicBool::new(true),
        }
    }

    pub(super) fn hold(&self) -> MutexGuard<'_, Hold> {
        lock(&self.hold)
    }

    /// What to wait for until there is something to read; none once it came to its end.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.reading.load(SeqCst).then(|| self.capture.as_fd())
    }

    /// What to wait for until there is room to write; none while nothing waits for that.
    pub(super) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.stuck.load(SeqCst).then(|| self.release.as_fd())
    }

    /// Reads what is there, at most a turn's worth; tells of each read.
    pub(super) fn read_turn(&self, mut tell: impl FnMut(Pushed, bool)) {
        for _ in 0..READS {
            let taken = self.read(&mut lock(&self.intake));
            tell(taken.pushed, taken.ended);
            if !taken.more {
                return;
            }
        }
    }

    /// Reads until nothing is there, and draws the line of an epoch before anybody else can read. Who has more than this
    /// many bytes to read still sends. Says whether the stream came to its end.
    pub(super) fn boundary(&self, epoch: u64, most: usize, ended: &mut bool) -> Result<Boundary, NetError> {
        let mut intake = lock(&self.intake);
        let mut read = 0;
        loop {
            let taken = self.read(&mut intake);
            *ended |= taken.ended;
            if !taken.more {
                return self.hold().mark(epoch);
            }
            read += taken.bytes;
            if read > most {
                let name = self.name.clone();
                return Err(NetError::Running { name });
            }
        }
    }

    fn read(&self, intake: &mut Intake) -> Taken {
        let mut taken = Taken {
            bytes: 0,
            more: false,
            pushed: Pushed::default(),
            ended: false,
        };
        if intake.state == Reading::Over {
            return taken;
        }
        match recv(&self.capture, intake.cutter.space(), RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                let torn = intake.cutter.torn();
                let name = self.name.clone();
                taken.ended = self.over(intake, Ended::Closed { name, torn });
            }
            Ok((_, n)) => {
                intake.cutter.filled(n);
                // Also after a short read: only the socket's own word that it is empty makes a boundary exact.
                taken.more = true;
                taken.bytes = n;
                self.sort(intake, &mut taken);
            }
            Err(Errno::INTR) => taken.more = true,
            Err(Errno::AGAIN) => {}
            Err(e) => {
                let ended = self.failed(e);
                taken.ended = self.over(intake, ended);
            }
        }
        taken
    }

    /// Moves whole frames into the hold.
    fn sort(&self, intake: &mut Intake, taken: &mut Taken) {
        if intake.state == Reading::Rubbish {
            intake.cutter.clear();
            return;
        }
        let now = Instant::now();
        let mut hold = self.hold();
        loop {
            match intake.cutter.next() {
                Ok(Some(frame)) => {
                    let pushed = hold.push(frame, now);
                    taken.pushed.first |= pushed.first;
                    taken.pushed.soft |= pushed.soft;
                }
                Ok(None) => return,
                Err(TooLong(length)) => {
                    let name = self.name.clone();
                    taken.ended = self.set_ended(Ended::Malformed { name, length });
                    intake.state = Reading::Rubbish;
                    intake.cutter.clear();
                    return;
                }
            }
        }
    }

    fn over(&self, intake: &mut Intake, why: Ended) -> bool {
        intake.state = Reading::Over;
        intake.cutter.clear();
        self.reading.store(false, SeqCst);
        self.set_ended(why)
    }

    /// The first reason stays; says whether this is it.
    fn set_ended(&self, why: Ended) -> bool {
        let mut ended = lock(&self.ended);
        let first = ended.is_none();
        ended.get_or_insert(why);
        first
    }

    fn failed(&self, e: Errno) -> Ended {
        Ended::Failed {
            name: self.name.clone(),
            detail: e.to_string(),
        }
    }

    /// Writes what may leave, at most a turn's worth and never waiting. Whoever comes while another writes leaves the work
    /// to that one. True if bytes stay behind for which the socket has no room now.
    pub(super) fn write_turn(&self) -> bool {
        self.again.store(true, SeqCst);
        while self.again.load(SeqCst) {
            let mut outlet = match self.outlet.try_lock() {
                Ok(outlet) => outlet,
                Err(TryLockError::Poisoned(p)) => p.into_inner(),
                // It looks at `again` once more after it has let go of the lock.
                Err(TryLockError::WouldBlock) => break,
            };
            self.again.store(false, SeqCst);
            let stuck = self.write(&mut outlet);
            self.stuck.store(stuck, SeqCst);
        }
        self.stuck.load(SeqCst)
    }

    /// True if bytes stay behind.
    fn write(&self, outlet: &mut Outlet) -> bool {
        let mut turn = 0;
        loop {
            if outlet.at == outlet.bytes.len() && !self.refill(outlet) {
                return false;
            }
            if turn >= TURN {
                return true;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.release, &outlet.bytes[outlet.at..], flags) {
                Ok(n) => {
                    outlet.at += n;
                    turn += n;
                    self.hold().sent(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(e) => {
                    self.hold().sent(outlet.bytes.len() - outlet.at);
                    outlet.open = false;
                    outlet.at = outlet.bytes.len();
                    self.set_ended(self.failed(e));
                }
            }
        }
    }

    /// Takes the next segment; one that nobody can read any more is thrown away.
    fn refill(&self, outlet: &mut Outlet) -> bool {
        let mut hold = self.hold();
        hold.recycle(std::mem::take(&mut outlet.bytes));
        outlet.at = 0;
        while let Some(next) = hold.take() {
            if outlet.open {
                outlet.bytes = next;
                return true;
            }
            hold.sent(next.len());
        }
        false
    }

    /// After this not one more byte leaves.
    pub(super) fn mute(&self) {
        let mut outlet = lock(&self.outlet);
        outlet.open = false;
        outlet.bytes.clear();
        outlet.at = 0;
        self.hold().mute();
        self.stuck.store(false, SeqCst);
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        lock(&self.ended).clone()
    }

    pub(super) fn status(&self) -> PortStatus {
        let hold = self.hold();
        PortStatus {
            name: self.name.clone(),
            held: hold.held(),
            dropped: hold.dropped(),
            passed: hold.passed(),
            ended: self.ended(),
        }
    }
}

/// Nothing here is left half done by a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
