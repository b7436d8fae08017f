//! Making system calls inside another process, for what the kernel only does there: a userfaultfd belongs to the memory of the
//! process that makes it.
//!
//! One thread of the process is stopped (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`; ptrace(2)), its registers are pointed at a system call
//! instruction, and afterwards it has exactly the registers it had; its floating point and vector registers, its signal mask and
//! its signal handlers are never touched. Three things make that hold for a thread in any state:
//!
//! - All registers are set at *event stops*, which lie before the place where the kernel decides whether an interrupted system
//!   call starts again. It decides by the registers it finds then: ours say that there is none, the thread's own, put back at such
//!   a stop, start its `futex` or `ppoll` again.
//! - Calls are followed by their entry and exit stops. A single step would end in a SIGTRAP, and QEMU's threads block that: the
//!   kernel would unblock it for good.
//! - A signal that comes in between is delivered to the thread with its own registers; its first instruction in the handler is
//!   then the state from which the work goes on.
//!
//! Killing the agent with SIGKILL within these few 100 microseconds leaves the thread with wrong registers, which QEMU does not
//! survive. It happens once per protected guest.

#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    ptr, thread,
    time::{Duration, Instant},
};

use libc::{c_int, user_regs_struct};
use nix::{
    sys::ptrace::{self, Options},
    unistd::Pid,
};
use rustix::process::{ForeignRawFd, PidfdGetfdFlags, pidfd_getfd};

use super::{Process, maps};

/// Why nothing could be done inside a process.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// It died, perhaps meanwhile.
    #[error("the process has died")]
    Gone,
    /// Another program traces it, or the caller may not.
    #[error("cannot trace it: {0}; does a debugger or strace trace it, and has the agent CAP_SYS_PTRACE?")]
    Refused(io::Error),
    /// No thread of it could be stopped at a good place in time.
    #[error(
        "none of its threads could be stopped within {STOP:?}: it may hang in the kernel, on a dead disk for example"
    )]
    Stuck,
    /// It is not a 64-bit process, or has no system call instruction.
    #[error("it is not an x86-64 process as expected")]
    Odd,
    /// The call was made, and this is what the kernel answered in there.
    #[error("inside the process the kernel said to {call}: {source}")]
    Call {
        /// Its name.
        call: &'static str,
        /// The answer.
        source: io::Error,
    },
}

impl InjectError {
    fn from_trace(error: nix::Error) -> Self {
        match error {
            nix::Error::ESRCH => Self::Gone,
            other => Self::Refused(other.into()),
        }
    }
}

type Result<T> = std::result::Result<T, InjectError>;

/// Makes a userfaultfd inside the process and brings it here. In there it is closed again before the process goes on, so that it
/// ends with us. The process stands still in one thread only, for a few 100 microseconds.
pub(super) fn userfaultfd(process: &Process) -> Result<OwnedFd> {
    let make = || in_some_thread(process, |thread| bring_userfaultfd(process, thread));
    on_own_thread(make)
}

/// A tracer is a thread, not a process. On a thread of its own nothing stays traced, whatever happens: its end lets go.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("inject".into());
        let thread = thread.spawn_scoped(scope, work).map_err(InjectError::Refused)?;
        thread.join().unwrap_or(Err(InjectError::Stuck))
    })
}

fn bring_userfaultfd(process: &Process, thread: &mut Borrowed) -> Result<OwnedFd> {
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    let make = libc::SYS_userfaultfd as u64;
    let made = match thread.call(make, flags)? {
        // An unprivileged QEMU may have one for its own faults only. Asynchronous write protection needs no more.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => thread.call(make, flags | UFFD_USER_MODE_ONLY)?,
        other => other,
    };
    let named = |call| move |source| InjectError::Call { call, source };
    let there = made.map_err(named("userfaultfd"))?;
    let here = pidfd_getfd(process, there as ForeignRawFd, PidfdGetfdFlags::empty());
    thread
        .call(libc::SYS_close as u64, there)?
        .map_err(named("close"))?;
    here.map_err(|e| InjectError::Refused(e.into()))
}

/// Finds a thread to work in: rather one that waits in a system call than one that computes, and the main thread last, because
/// whoever started the process as a child could see its stops.
fn in_some_thread<T>(process: &Process, mut work: impl FnMut(&mut Borrowed) -> Result<T>) -> Result<T> {
    let end = Instant::now() + STOP;
    let tools = Tools::find(process)?;
    let mut stuck = Vec::new();
    while Instant::now() < end {
        for tid in threads(process)? {
            if stuck.contains(&tid) {
                continue;
            }
            match Borrowed::stop(&tools, tid) {
                Ok(Some(mut thread)) => {
                    let done = work(&mut thread);
                    thread.put_back()?;
                    thread.let_go()?;
                    return done;
                }
                Ok(None) | Err(InjectError::Gone) => {}
                Err(InjectError::Stuck) => stuck.push(tid),
                Err(e) => return Err(e),
            }
        }
        if !process.is_alive() {
            return Err(InjectError::Gone);
        }
        thread::sleep(GLANCE);
    }
    Err(InjectError::Stuck)
}

/// The process's threads, the best for us first.
fn threads(process: &Process) -> Result<Vec<Pid>> {
    let pid = process.pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| InjectError::Gone)?;
    let tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let mut ranked: Vec<(u8, i32)> = tids
        .map(|tid: i32| {
            let call = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
            let waits = call.starts_with(|c: char| c.is_ascii_digit());
            (2 * u8::from(tid as u32 == pid) + u8::from(!waits), tid)
        })
        .collect();
    ranked.sort_unstable();
    Ok(ranked.into_iter().map(|(_, tid)| Pid::from_raw(tid)).collect())
}

/// What is needed to work in any thread of a process.
struct Tools {
    memory: File,
    /// Address of a system call instruction.
    entry: u64,
}

impl Tools {
    fn find(process: &Process) -> Result<Self> {
        let memory = File::open(format!("/proc/{}/mem", process.pid())).map_err(InjectError::Refused)?;
        let mut mappings = maps::of(process).map_err(InjectError::Refused)?;
        // The vDSO has one for the clocks that it cannot read itself; the C library has many.
        mappings.retain(|m| m.executable && m.name != "[vsyscall]");
        mappings.sort_by_key(|m| m.name != "[vdso]");
        let entry = mappings.iter().find_map(|m| {
            let mut code = vec![0; (m.end - m.start).min(CODE) as usize];
            memory.read_exact_at(&mut code, m.start).ok()?;
            let at = code.windows(2).position(|two| two == SYSCALL)?;
            Some(m.start + at as u64)
        });
        let entry = entry.ok_or(InjectError::Odd)?;
        Ok(Self { memory, entry })
    }
}

/// A thread of another process, at an event stop, with its own registers kept for it.
pub(super) struct Borrowed {
    tid: Pid,
    entry: u64,
    own: user_regs_struct,
}

impl Borrowed {
    /// Stops a thread. None: it is within a restartable sequence, and goes on as it was. `Stuck`: it did not stop in time; it stays
    /// traced until our own thread ends.
    fn stop(tools: &Tools, tid: Pid) -> Result<Option<Self>> {
        let end = Instant::now() + STOP_ONE;
        ptrace::seize(tid, Options::PTRACE_O_TRACESYSGOOD).map_err(InjectError::from_trace)?;
        ptrace::interrupt(tid).map_err(InjectError::from_trace)?;
        loop {
            match stopped(tid, Some(end))? {
                Stop::Event => break,
                other => other.pass_on(tid)?,
            }
        }
        let own = ptrace::getregs(tid).map_err(InjectError::from_trace)?;
        if own.cs != USER_CS {
            return Err(InjectError::Odd);
        }
        if in_sequence(tools, tid, &own) {
            ptrace::detach(tid, None).map_err(InjectError::from_trace)?;
            return Ok(None);
        }
        Ok(Some(Self {
            tid,
            entry: tools.entry,
            own,
        }))
    }

    /// Makes a system call of one argument in the thread. The inner result is the kernel's answer in there. From here on the thread
    /// is waited for as long as it takes: it cannot be left like this.
    fn call(&mut self, number: u64, argument: u64) -> Result<io::Result<u64>> {
        let tid = self.tid;
        self.point_at(number, argument)?;
        loop {
            match stopped(tid, None)? {
                Stop::Call => break,
                Stop::Event => resume(tid, libc::PTRACE_SYSCALL, 0)?,
                Stop::Signal(signal) => {
                    self.deliver(signal)?;
                    self.point_at(number, argument)?;
                }
            }
        }
        // It stands at the entry of our call.
        resume(tid, libc::PTRACE_SYSCALL, 0)?;
        while !matches!(stopped(tid, None)?, Stop::Call) {
            resume(tid, libc::PTRACE_SYSCALL, 0)?;
        }
        let answer = ptrace::getregs(tid).map_err(InjectError::from_trace)?.rax as i64;
        // From the exit of the call to an event stop, which comes before any signal.
        ptrace::interrupt(tid).map_err(InjectError::from_trace)?;
        resume(tid, libc::PTRACE_CONT, 0)?;
        self.to_event_stop()?;
        Ok(match answer {
            -4095..=-1 => Err(io::Error::from_raw_os_error(-answer as i32)),
            fine => Ok(fine as u64),
        })
    }

    /// Gives the thread its registers back.
    fn put_back(&self) -> Result<()> {
        ptrace::setregs(self.tid, self.own).map_err(InjectError::from_trace)
    }

    /// Lets the thread go on.
    fn let_go(self) -> Result<()> {
        ptrace::detach(self.tid, None).map_err(InjectError::from_trace)
    }

    fn point_at(&self, number: u64, argument: u64) -> Result<()> {
        let registers = user_regs_struct {
            rip: self.entry,
            rax: number,
            rdi: argument,
            orig_rax: u64::MAX, // not in a system call: none to start again
            ..self.own
        };
        ptrace::setregs(self.tid, registers).map_err(InjectError::from_trace)?;
        resume(self.tid, libc::PTRACE_SYSCALL, 0)
    }

    /// Lets the thread have a signal as if we were not there, and catches it before its next instruction.
    fn deliver(&mut self, signal: c_int) -> Result<()> {
        self.put_back()?;
        ptrace::interrupt(self.tid).map_err(InjectError::from_trace)?;
        resume(self.tid, libc::PTRACE_CONT, signal)?;
        self.to_event_stop()?;
        self.own = ptrace::getregs(self.tid).map_err(InjectError::from_trace)?;
        Ok(())
    }

    fn to_event_stop(&self) -> Result<()> {
        loop {
            match stopped(self.tid, None)? {
                Stop::Event => return Ok(()),
                other => other.pass_on(self.tid)?,
            }
        }
    }
}

/// Whether a thread that computes may be within a restartable sequence (rseq): the kernel would not see it left and come back to,
/// and not restart it. Within a system call there is none.
fn in_sequence(tools: &Tools, tid: Pid, registers: &user_regs_struct) -> bool {
    if registers.orig_rax as i64 >= 0 {
        return false;
    }
    let mut area = [0_u64; 3];
    // SAFETY: the kernel writes at most the given 24 bytes.
    let got = unsafe {
        libc::ptrace(
            GET_RSEQ,
            tid.as_raw(),
            size_of_val(&area),
            ptr::from_mut(&mut area),
        )
    };
    let mut sequence = [0; 8];
    got > 0
        && area[0] != 0
        && tools
            .memory
            .read_exact_at(&mut sequence, area[0] + 8)
            .is_ok_and(|()| sequence != [0; 8])
}

/// Where a traced thread stands.
enum Stop {
    /// Before the return to its program, with nothing to deliver.
    Event,
    /// At the entry or the exit of a system call.
    Call,
    /// Before the delivery of a signal.
    Signal(c_int),
}

impl Stop {
    /// Lets the thread go on from a stop that we did not ask for, as if we were not there.
    fn pass_on(self, tid: Pid) -> Result<()> {
        let signal = if let Self::Signal(signal) = self {
            signal
        } else {
            0
        };
        resume(tid, libc::PTRACE_CONT, signal)
    }
}

/// Waits for a traced thread to stop. Without an end for as long as it lives.
fn stopped(tid: Pid, end: Option<Instant>) -> Result<Stop> {
    let mut status = 0;
    let flags = libc::__WALL | if end.is_some() { libc::WNOHANG } else { 0 };
    loop {
        // SAFETY: `status` is a valid place for the answer. (nix's waitpid loses real-time signals.)
        match unsafe { libc::waitpid(tid.as_raw(), &mut status, flags) } {
            0 if end.is_some_and(|end| Instant::now() >= end) => return Err(InjectError::Stuck),
            0 => thread::sleep(GLANCE),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(InjectError::Gone),
            _ if !libc::WIFSTOPPED(status) => return Err(InjectError::Gone),
            _ => break,
        }
    }
    let signal = libc::WSTOPSIG(status);
    Ok(match (status >> 16, signal) {
        (0, CALL_STOP) => Stop::Call,
        (0, signal) => Stop::Signal(signal),
        _ => Stop::Event,
    })
}

/// Lets a stopped thread go on, with a signal or with none (0). (nix's functions know no real-time signals.)
fn resume(tid: Pid, how: libc::c_uint, signal: c_int) -> Result<()> {
    // SAFETY: these requests read no memory of ours; the signal goes by value.
    let done = unsafe { libc::ptrace(how, tid.as_raw(), 0_usize, signal as usize) };
    if done == 0 {
        Ok(())
    } else {
        Err(InjectError::from_trace(nix::Error::last()))
    }
}

/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// As much of each mapping's code is searched for it.
const CODE: u64 = 4 << 20;

/// Code segment of 64-bit programs.
const USER_CS: u64 = 0x33;

/// Stop at a system call, with `PTRACE_O_TRACESYSGOOD`.
const CALL_STOP: c_int = libc::SIGTRAP | 0x80;

/// `PTRACE_GET_RSEQ_CONFIGURATION`.
const GET_RSEQ: libc::c_uint = 0x420f;

const UFFD_USER_MODE_ONLY: u64 = 1;

/// So long may it take to stop some thread.
const STOP: Duration = Duration::from_secs(2);

/// So long may it take to stop the first one that is tried; one that hangs in the kernel is given up.
const STOP_ONE: Duration = Duration::from_millis(200);

/// Between looks at a thread that is about to stop.
const GLANCE: Duration = Duration::from_micros(20);

#[cfg(test)]
mod tests;
