//! A blocking QMP client with a deadline on everything. It reads on its caller's thread: a checkpoint is three round trips, and
//! each hop to another thread would lengthen the guest's pause. QEMU buffers what is not read, so nothing waits for us. Follows
//! QEMU's `docs/interop/qmp-spec`.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg},
};
use serde_json::{Value, json};

use super::{
    error::GuestError,
    wire::{self, Event, Inbox, Message, Reply},
};

/// How long QEMU may take to answer before it counts as hung.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Connecting, greeting and capabilities.
    pub connect: Duration,
    /// Commands outside a checkpoint.
    pub command: Duration,
    /// Each command of a checkpoint: stop, state, continue. The guest may stand still that long.
    pub checkpoint: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            command: Duration::from_secs(10),
            checkpoint: Duration::from_secs(2),
        }
    }
}

/// Events kept for a caller who does not collect them; the oldest unimportant ones go first.
const MAX_EVENTS: usize = 4096;
/// Bytes taken from the socket at once.
const CHUNK: usize = 64 << 10;

/// A command on its way. Give it to [`Qmp::receive`].
#[derive(Debug)]
#[must_use = "a command whose reply nobody takes is not finished"]
pub struct Ticket {
    id: u64,
    command: String,
}

/// A connection to a QEMU's monitor. One thread uses it.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    inbox: Inbox,
    events: VecDeque<Event>,
    replies: Vec<Reply>,
    waiting: Vec<u64>,
    next: u64,
    closed: bool,
    /// When anything last came.
    heard: Instant,
    out_of_band: bool,
    greeting: Value,
    pid: u32,
    timeouts: Timeouts,
}

impl Qmp {
    /// Connects, reads the greeting and negotiates, with out-of-band execution where QEMU offers it.
    pub fn connect(path: &Path, timeouts: Timeouts) -> Result<Self, GuestError> {
        let failed = |source| GuestError::Connect {
            path: path.into(),
            source,
        };
        let socket = UnixStream::connect(path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).map_err(|e| failed(e.into()))?;
        let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
        let mut qmp = Self {
            socket,
            inbox: Inbox::default(),
            events: VecDeque::new(),
            replies: Vec::new(),
            waiting: Vec::new(),
            next: 1,
            closed: false,
            heard: Instant::now(),
            out_of_band: false,
            greeting: Value::Null,
            pid,
            timeouts,
        };
        qmp.greet(path)?;
        Ok(qmp)
    }

    /// Runs a command, within the ordinary time.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, GuestError> {
        self.execute_within(command, arguments, self.timeouts.command)
    }

    /// Runs a command. [`GuestError::Hung`] when the reply is not there in time; it is dropped if it comes later.
    pub fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        within: Duration,
    ) -> Result<Value, GuestError> {
        let ticket = self.send(command, arguments)?;
        self.receive(ticket, within)
    }

    /// Runs a command that takes a file descriptor, as `getfd` and `add-fd` do.
    pub fn execute_with_fd(
        &mut self,
        command: &str,
        arguments: Value,
        fd: BorrowedFd<'_>,
    ) -> Result<Value, GuestError> {
        let ticket = self.dispatch("execute", command, arguments, Some(fd))?;
        self.receive(ticket, self.timeouts.command)
    }

    /// Runs a line of the human monitor. Its text is no stable interface: parse with care.
    pub fn hmp(&mut self, line: &str) -> Result<String, GuestError> {
        match self.execute("human-monitor-command", json!({ "command-line": line }))? {
            Value::String(text) => Ok(text),
            other => Err(GuestError::protocol(line, other)),
        }
    }

    /// Runs a command past QEMU's main loop, so also while that hangs. Only `yank` and few others can be run so.
    pub fn out_of_band(
        &mut self,
        command: &str,
        arguments: Value,
        within: Duration,
    ) -> Result<Value, GuestError> {
        if !self.out_of_band {
            return Err(GuestError::protocol(
                "the greeting",
                "no out-of-band execution offered",
            ));
        }
        let ticket = self.dispatch("exec-oob", command, arguments, None)?;
        self.receive(ticket, within)
    }

    /// Sends a command and does not wait. Commands are run in the order sent.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<Ticket, GuestError> {
        self.dispatch("execute", command, arguments, None)
    }

    /// Waits for the reply to a command sent before. What came behind the reply is not looked at yet, so that the events
    /// collected next are exactly those from before it.
    pub fn receive(&mut self, ticket: Ticket, within: Duration) -> Result<Value, GuestError> {
        match self.reply(&ticket, within)? {
            Some(outcome) => outcome,
            None => Err(self.give_up(ticket, within)),
        }
    }

    /// Waits no longer for a reply that did not come in time. It is dropped if it comes later.
    pub(super) fn give_up(&mut self, ticket: Ticket, within: Duration) -> GuestError {
        self.forget(&ticket);
        GuestError::Hung {
            what: ticket.command,
            within,
        }
    }

    /// Sends, past QEMU's main loop, a command that does nothing. None where QEMU offers no such way.
    pub(super) fn ask_for_life(&mut self) -> Result<Option<Ticket>, GuestError> {
        if !self.out_of_band {
            return Ok(None);
        }
        self.dispatch("exec-oob", "yank", json!({ "instances": [] }), None)
            .map(Some)
    }

    /// Whether that was answered by now, in whatever words. It is waited for no longer.
    pub(super) fn has_answered(&mut self, probe: Option<Ticket>) -> bool {
        probe.is_some_and(|ticket| {
            self.forget(&ticket);
            let before = self.replies.len();
            self.replies.retain(|r| r.id != ticket.id);
            self.replies.len() < before
        })
    }

    /// When anything last came from QEMU.
    pub(super) fn last_answer(&self) -> Instant {
        self.heard
    }

    /// [`Self::receive`], but a late reply is no error: `None`, and the same ticket can be waited for again.
    pub fn reply(
        &mut self,
        ticket: &Ticket,
        within: Duration,
    ) -> Result<Option<Result<Value, GuestError>>, GuestError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(at) = self.replies.iter().position(|r| r.id == ticket.id) {
                let reply = self.replies.swap_remove(at);
                return Ok(Some(reply.outcome.map_err(|e| e.of(&ticket.command))));
            }
            if self.next_message()? {
                continue;
            }
            if self.closed {
                return Err(GuestError::Gone {
                    what: ticket.command.clone(),
                });
            }
            if !self.fill(Some(deadline))? && Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Events that came so far, without waiting. After the connection ended, those that came before its end.
    pub fn events(&mut self) -> Result<Vec<Event>, GuestError> {
        while self.next_message()? || self.fill(None)? {}
        Ok(self.events.drain(..).collect())
    }

    /// Events that came before the last reply received, without a look at the socket.
    pub(super) fn seen(&mut self) -> std::collections::vec_deque::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// Waits for an event that `wanted` accepts, and takes it out; others stay.
    pub fn wait_event(
        &mut self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event, GuestError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(event) = self
                .events
                .iter()
                .position(&wanted)
                .and_then(|at| self.events.remove(at))
            {
                return Ok(event);
            }
            if self.next_message()? {
                continue;
            }
            if self.closed {
                return Err(GuestError::Gone { what: what.into() });
            }
            if !self.fill(Some(deadline))? && Instant::now() >= deadline {
                return Err(GuestError::Hung {
                    what: what.into(),
                    within,
                });
            }
        }
    }

    /// Whether QEMU closed the connection. Events from before may still be there.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// QEMU's process, as the kernel knows the listener's: by `SO_PEERCRED`.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// QEMU's version from its greeting: major, minor, micro.
    pub fn version(&self) -> Option<[u64; 3]> {
        let version = &self.greeting["QMP"]["version"]["qemu"];
        Some([
            version["major"].as_u64()?,
            version["minor"].as_u64()?,
            version["micro"].as_u64()?,
        ])
    }

    /// The times allowed.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn greet(&mut self, path: &Path) -> Result<(), GuestError> {
        let within = self.timeouts.connect;
        let deadline = Instant::now() + within;
        while self.greeting.is_null() {
            if self.next_message()? {
                continue;
            }
            if self.closed {
                return Err(GuestError::Gone {
                    what: "greeting".into(),
                });
            }
            if !self.fill(Some(deadline))? && Instant::now() >= deadline {
                return Err(match occupied(path) {
                    true => GuestError::Occupied { path: path.into() },
                    false => GuestError::Hung {
                        what: "greeting".into(),
                        within,
                    },
                });
            }
        }
        let offers = self.greeting["QMP"]["capabilities"].as_array();
        self.out_of_band = offers.is_some_and(|all| all.iter().any(|c| c == "oob"));
        let enable = if self.out_of_band {
            json!({ "enable": ["oob"] })
        } else {
            json!({})
        };
        self.execute_within("qmp_capabilities", enable, within).map(drop)
    }

    fn dispatch(
        &mut self,
        how: &str,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Ticket, GuestError> {
        let id = self.next;
        self.next += 1;
        let ticket = Ticket {
            id,
            command: command.into(),
        };
        if self.closed {
            return Err(GuestError::Gone { what: ticket.command });
        }
        let mut request = json!({ how: command, "id": id });
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            request["arguments"] = arguments;
        }
        self.write(request.to_string().as_bytes(), fd, command)?;
        self.waiting.push(id);
        Ok(ticket)
    }

    fn write(
        &mut self,
        mut bytes: &[u8],
        mut fd: Option<BorrowedFd<'_>>,
        command: &str,
    ) -> Result<(), GuestError> {
        let within = self.timeouts.command;
        let deadline = Instant::now() + within;
        while !bytes.is_empty() {
            match send_part(&self.socket, bytes, fd) {
                Ok(sent) => {
                    bytes = bytes.get(sent..).unwrap_or_default();
                    fd = None;
                }
                Err(Errno::AGAIN) => {
                    if !self.ready(PollFlags::OUT, Some(deadline))? && Instant::now() >= deadline {
                        return Err(GuestError::Hung {
                            what: command.into(),
                            within,
                        });
                    }
                }
                Err(Errno::INTR) => {}
                // What QEMU said before it went is still to be read.
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(GuestError::Gone { what: command.into() }),
                Err(e) => return Err(GuestError::system("writing to QMP", e)),
            }
        }
        Ok(())
    }

    fn forget(&mut self, ticket: &Ticket) {
        self.waiting.retain(|id| *id != ticket.id);
    }

    /// Takes one message from what was read. False when there is no whole one.
    fn next_message(&mut self) -> Result<bool, GuestError> {
        match self.inbox.next()? {
            None => return Ok(false),
            Some(Message::Greeting(greeting)) => self.greeting = greeting,
            Some(Message::Event(event)) => self.keep(event),
            Some(Message::Reply(reply)) => {
                if let Some(at) = self.waiting.iter().position(|id| *id == reply.id) {
                    self.waiting.swap_remove(at);
                    self.replies.push(reply);
                }
            }
        }
        Ok(true)
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            let victim = self
                .events
                .iter()
                .position(|e| !wire::matters(&e.name))
                .unwrap_or(0);
            self.events.remove(victim);
        }
        self.events.push_back(event);
    }

    /// Reads what is there, waiting for it until the deadline. False when nothing came.
    fn fill(&mut self, deadline: Option<Instant>) -> Result<bool, GuestError> {
        let mut chunk = [0; CHUNK];
        loop {
            if self.closed {
                return Ok(false);
            }
            match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => self.closed = true,
                Ok((_, n)) => {
                    self.heard = Instant::now();
                    self.inbox.extend(chunk.get(..n).unwrap_or_default());
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if deadline.is_none() || !self.ready(PollFlags::IN, deadline)? {
                        return Ok(false);
                    }
                }
                Err(e) => return Err(GuestError::system("reading from QMP", e)),
            }
        }
    }

    fn ready(&self, what: PollFlags, deadline: Option<Instant>) -> Result<bool, GuestError> {
        wait_ready(self.socket.as_fd(), what, deadline).map_err(|e| GuestError::system("waiting for QMP", e))
    }
}

impl AsFd for Qmp {
    /// Readable when events, or the end of the connection, wait to be collected.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until a descriptor is ready. False at the deadline, and now and then before it.
pub(super) fn wait_ready(fd: BorrowedFd<'_>, what: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    let limit = left.map(|l| Timespec {
        tv_sec: l.as_secs() as i64,
        tv_nsec: i64::from(l.subsec_nanos()),
    });
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], limit.as_ref()) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn send_part(socket: &UnixStream, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<usize> {
    let Some(fd) = fd else {
        return send(socket, bytes, SendFlags::NOSIGNAL);
    };
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    rights.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        socket,
        &[io::IoSlice::new(bytes)],
        &mut rights,
        SendFlags::NOSIGNAL,
    )
}

/// Whether QEMU has accepted somebody on this socket: one of the connections at its path is not in the backlog (inode 0).
fn occupied(path: &Path) -> bool {
    let full: PathBuf = path.canonicalize().unwrap_or_else(|_| path.into());
    let Ok(table) = std::fs::read_to_string("/proc/net/unix") else {
        return false;
    };
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(state), Some(inode), Some(name)) = (fields.get(5), fields.get(6), fields.get(7)) else {
            return false;
        };
        *state == "03" && *inode != "0" && (Path::new(name) == path || Path::new(name) == full)
    })
}
