//! All network devices of a machine: the thread that serves them, and the handle that epochs are drawn with.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering::SeqCst},
    thread::JoinHandle,
    time::Instant,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};

use super::{
    Boundary, Dropped, Ended, Held, Limits, NetError, PortStatus, Wire,
    hold::Pushed,
    port::{Port, lock},
};
use crate::urgent;

/// More bytes than a socket holds: a machine that sends this much does not stand still.
const STANDING: usize = 256 << 20;

/// How much an epoch is wanted for the sake of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Nothing came since the last boundary.
    #[default]
    None,
    /// Frames wait.
    Output,
    /// So many wait that the soft limit is reached.
    Soon,
    /// A device came to its end, as it does when QEMU dies: see [`Output::ended`].
    Ended,
}

/// What is told at once, from the thread that saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The first frame since the last boundary came.
    Output,
    /// The soft limit was reached, for the first time since the last boundary.
    Soon,
    /// A device came to its end, as it does when QEMU dies: see [`Output::ended`].
    Ended,
}

/// Told of every [`Signal`]. Must not block.
pub type Notify = Box<dyn Fn(Signal) + Send + Sync>;

/// Holds the network output of a machine. Dropped, it ends its thread and closes the sockets: frames that wait never leave.
///
/// Every frame that comes is kept until [`Self::release`] of the epoch before whose boundary it came, or
/// [`Self::open_gate`]. What comes between the last boundary of a dead host and its death never leaves. No call waits for
/// QEMU to read.
pub struct Output {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    ports: Vec<Port>,
    wish: Mutex<Wish>,
    wished: Condvar,
    notify: Notify,
    wake: OwnedFd,
    stop: AtomicBool,
}

impl Output {
    /// Begins to hold what comes from these devices.
    pub fn start(wires: Vec<Wire>, limits: Limits, notify: Notify) -> Result<Self, NetError> {
        let start = |e: io::Error| NetError::Start(e);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| start(e.into()))?;
        let shared = Arc::new(Shared {
            ports: wires.into_iter().map(|w| Port::new(w, limits)).collect(),
            wish: Mutex::new(Wish::None),
            wished: Condvar::new(),
            notify,
            wake,
            stop: AtomicBool::new(false),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("net-output".into())
            .spawn(move || {
                urgent::this_thread();
                own.run();
            })
            .map_err(start)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Draws the line of an epoch behind all that the machine has sent, and says what came since the line before. To be
    /// called while the machine stands still. Epochs go up; one that failed is used up.
    pub fn boundary(&self, epoch: u64) -> Result<Boundary, NetError> {
        let mut ended = false;
        let made = self
            .shared
            .ports
            .iter()
            .try_fold(Boundary::default(), |mut all, port| {
                let one = port.boundary(epoch, STANDING, &mut ended)?;
                all.frames += one.frames;
                all.bytes += one.bytes;
                Ok(all)
            });
        self.shared.look_again();
        if ended {
            self.shared.raise(Signal::Ended);
        }
        made
    }

    /// The epoch is committed: lets go all frames up to its line, and says what those are. They leave in the calling thread
    /// as far as the socket takes them, the rest as soon as it does.
    pub fn release(&self, epoch: u64) -> Boundary {
        let mut all = Boundary::default();
        for port in &self.shared.ports {
            let one = port.hold().release(epoch);
            all.frames += one.frames;
            all.bytes += one.bytes;
        }
        self.shared.write();
        all
    }

    /// The machine runs alone: what is held leaves now, then everything as it comes. Without effect once mute.
    pub fn open_gate(&self) {
        for port in &self.shared.ports {
            port.hold().open();
        }
        self.shared.write();
        self.shared.look_again();
    }

    /// The machine must not be heard again: after this not one byte leaves, and what comes is read and thrown away. Final.
    pub fn mute(&self) {
        for port in &self.shared.ports {
            port.mute();
        }
        self.shared.look_again();
    }

    /// What waits for its epoch, over all devices.
    pub fn held(&self) -> Held {
        self.shared.ports.iter().fold(Held::default(), |mut all, port| {
            let one = port.hold().held();
            all.frames += one.frames;
            all.bytes += one.bytes;
            all.since = [all.since, one.since].into_iter().flatten().min();
            all
        })
    }

    /// What was lost at the hard limit, over all devices.
    pub fn dropped(&self) -> Dropped {
        self.shared
            .ports
            .iter()
            .fold(Dropped::default(), |mut all, port| {
                let one = port.hold().dropped();
                all.frames += one.frames;
                all.bytes += one.bytes;
                all
            })
    }

    /// Each device.
    pub fn ports(&self) -> Vec<PortStatus> {
        self.shared.ports.iter().map(Port::status).collect()
    }

    /// Why a device moves nothing more, if one does not.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ports.iter().find_map(Port::ended)
    }

    /// How much an epoch is wanted now.
    pub fn wish(&self) -> Wish {
        *lock(&self.shared.wish)
    }

    /// Waits until an epoch is wanted this much, or until then; says how much it is.
    pub fn wait(&self, least: Wish, until: Instant) -> Wish {
        let mut wish = lock(&self.shared.wish);
        while *wish < least {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wish = match self.shared.wished.wait_timeout(wish, left) {
                Ok((wish, _)) => wish,
                Err(poisoned) => PoisonError::into_inner(poisoned).0,
            };
        }
        *wish
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and then nobody reads any more: that is for the panic hook to tell.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("ports", &self.ports()).finish()
    }
}

impl Shared {
    /// The thread: reads whatever comes, writes where there was no room before.
    fn run(&self) {
        while !self.stop.load(SeqCst) {
            match self.ready() {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "network output is not served any more: cannot wait for its sockets");
                    self.raise(Signal::Ended);
                    return;
                }
            }
            for port in &self.ports {
                port.read_turn(|pushed, ended| self.tell(pushed, ended));
                port.write_turn();
            }
        }
    }

    /// Waits until a socket can be read, or one that was full be written, or somebody calls.
    fn ready(&self) -> Result<(), Errno> {
        let mut fds = Vec::with_capacity(1 + 2 * self.ports.len());
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        for port in &self.ports {
            let of = |fd, flags| PollFd::from_borrowed_fd(fd, flags);
            fds.extend(port.readable().map(|fd| of(fd, PollFlags::IN)));
            fds.extend(port.writable().map(|fd| of(fd, PollFlags::OUT)));
        }
        poll(&mut fds, None)?;
        if !fds[0].revents().is_empty() {
            // Empty already if several calls came together.
            let _ = rustix::io::read(self.wake.as_fd(), &mut [0; 8]);
        }
        Ok(())
    }

    /// Writes in the calling thread, and leaves what finds no room to the other.
    fn write(&self) {
        let mut stuck = false;
        for port in &self.ports {
            stuck |= port.write_turn();
        }
        if stuck {
            self.wake();
        }
    }

    fn wake(&self) {
        // Fails only where the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn tell(&self, pushed: Pushed, ended: bool) {
        let signals = [
            (pushed.first, Signal::Output),
            (pushed.soft, Signal::Soon),
            (ended, Signal::Ended),
        ];
        for (_, signal) in signals.into_iter().filter(|(so, _)| *so) {
            self.raise(signal);
        }
    }

    fn raise(&self, signal: Signal) {
        let level = match signal {
            Signal::Output => Wish::Output,
            Signal::Soon => Wish::Soon,
            Signal::Ended => Wish::Ended,
        };
        let mut wish = lock(&self.wish);
        *wish = level.max(*wish);
        self.wished.notify_all();
        drop(wish);
        (self.notify)(signal);
    }

    /// Works out anew what is wanted; whatever comes meanwhile waits for the lock and raises it after.
    fn look_again(&self) {
        let mut wish = lock(&self.wish);
        if *wish == Wish::Ended {
            return;
        }
        *wish = Wish::None;
        for port in &self.ports {
            let level = match port.hold().unmarked() {
                (_, true) => Wish::Soon,
                (true, false) => Wish::Output,
                (false, false) => Wish::None,
            };
            *wish = level.max(*wish);
        }
    }
}
