//! A process that is named by a pidfd, so that a reused number is never taken for it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// A process of this host. Clones are the same process. Its pidfd ([`AsFd`]) becomes readable when the process has died.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of a running process.
    pub fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or_else(|| io::Error::from(rustix::io::Errno::SRCH))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())?;
        Ok(Self(Arc::new(Inner { pid, pidfd })))
    }

    /// The process number.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether it has not died. A process that is a zombie has died.
    pub fn is_alive(&self) -> bool {
        !matches!(self.dies_within(Duration::ZERO), Ok(true))
    }

    /// Waits for its death, so long at most; whether it is dead then.
    pub fn dies_within(&self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.0.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Kills it (SIGKILL), and returns when it is gone. One that is dead already is no error; one that does not die within ten
    /// seconds (stuck in the kernel, on a dead disk) is.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e.into()),
        }
        if self.dies_within(DEATH)? {
            return Ok(());
        }
        let what = format!(
            "process {} was killed but is not gone after {DEATH:?}",
            self.pid()
        );
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

/// Tearing down a guest's memory takes time: about 0.2 s for each 10 GiB.
const DEATH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn death_is_seen_once_and_for_all() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.is_alive());
        process.kill().unwrap();
        assert!(!process.is_alive(), "a zombie counts as dead");
        child.wait().unwrap();
        assert!(!process.clone().is_alive());
        process.kill().unwrap();
        assert!(Process::open(0).is_err());
    }
}
