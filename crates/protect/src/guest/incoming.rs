//! The standby's QEMU: started with `-incoming defer -S`, its RAM filled from outside, then given a device state to go on from.

use std::{
    io::{self, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use serde_json::{Value, json};

use super::{
    RunState,
    error::GuestError,
    leftovers::PREFIX,
    qemu::{Qemu, machine_of, run_state},
    qmp::{Qmp, Timeouts, wait_ready},
    ramblocks,
    state::compose,
};
use crate::{memory::Layout, sys::Process};

/// From this version on, a state that does not load leaves QEMU alive to say why.
const SAYS_WHY: [u64; 3] = [9, 1, 0];

const ENDED: &str = "QEMU ended, and its standard error says why";

/// A QEMU that waits for a guest. It takes one state only, good or bad; a trial uses it up.
#[derive(Debug)]
pub struct Incoming {
    qmp: Qmp,
    process: Process,
    version: [u64; 3],
    machine: String,
}

impl Incoming {
    /// Connects to a QEMU started with `-incoming defer -S`, and prepares it.
    pub fn attach(socket: &Path, timeouts: Timeouts) -> Result<Self, GuestError> {
        let mut qmp = Qmp::connect(socket, timeouts)?;
        let version = qmp
            .version()
            .ok_or_else(|| GuestError::protocol("the greeting", "no version"))?;
        let found = run_state(&mut qmp)?;
        if found != RunState::Incoming {
            return Err(GuestError::Unfit {
                what: format!("the standby's QEMU does not wait for a guest, it is {found:?}"),
                advice: "start it with `-incoming defer -S`, anew for each attempt".into(),
            });
        }
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        qmp.execute("migrate-set-capabilities", events)?;
        let machine = machine_of(&mut qmp)?;
        let process =
            Process::open(qmp.pid()).map_err(|e| GuestError::system("taking hold of QEMU's process", e))?;
        Ok(Self {
            qmp,
            process,
            version,
            machine,
        })
    }

    /// Its RAM blocks, to be written from outside before [`Self::load`].
    pub fn layout(&mut self) -> Result<Layout, GuestError> {
        ramblocks::locate(
            &ramblocks::parse(&self.qmp.hmp("info ramblock")?)?,
            self.qmp.pid(),
        )
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Version of the program: major, minor, micro.
    pub fn version(&self) -> [u64; 3] {
        self.version
    }

    /// Its machine type, which must be that of the guest.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The connection itself, for queries.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Loads what [`super::Guest::device_state`] gave on the other host, where the machine type was `machine`. Afterwards the guest stands,
    /// ready to go on, and has emitted nothing. An error leaves this QEMU useless.
    pub fn load(&mut self, state: &[u8], machine: &str, within: Duration) -> Result<(), GuestError> {
        let deadline = Instant::now() + within;
        if machine != self.machine {
            let reason = format!(
                "the guest's machine type is {machine}, this one's {}",
                self.machine
            );
            return Err(GuestError::NotLoaded { reason });
        }
        let stream = compose(state, machine)?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| GuestError::system("making a socket pair", e))?;
        let name = format!("{PREFIX}incoming");
        self.qmp
            .execute_with_fd("getfd", json!({ "fdname": name }), theirs.as_fd())?;
        let mut arguments = json!({ "uri": format!("fd:{name}") });
        if self.version >= SAYS_WHY {
            arguments["exit-on-error"] = json!(false);
        }
        self.qmp.execute_within("migrate-incoming", arguments, within)?;
        drop(theirs);
        let sent = send_all(ours, &stream, deadline);
        // A state that is refused half-way breaks the pipe; the reason comes with the event.
        match (self.outcome(deadline, within), sent) {
            (Ok(()), Ok(())) => self.standing(),
            (Ok(()), Err(e)) => Err(GuestError::system("writing the device state", e)),
            (Err(e), _) => Err(e),
        }
    }

    /// Lets the guest run here.
    pub fn resume(&mut self) -> Result<(), GuestError> {
        let within = self.qmp.timeouts().checkpoint;
        self.qmp.execute_within("cont", Value::Null, within).map(drop)
    }

    /// Ends its process (SIGKILL), and returns when that is gone.
    pub fn kill(&self) -> Result<(), GuestError> {
        self.process
            .kill()
            .map_err(|e| GuestError::system("killing the standby's QEMU", e))
    }

    /// The running guest, from now on like any other.
    pub fn into_guest(self) -> Result<Qemu, GuestError> {
        Qemu::over(self.qmp)
    }

    fn outcome(&mut self, deadline: Instant, within: Duration) -> Result<(), GuestError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = self.qmp.wait_event("migrate-incoming", left, |event| {
            event.name == "MIGRATION" && matches!(event.text("status"), "completed" | "failed")
        });
        match ended {
            Ok(event) if event.text("status") == "completed" => Ok(()),
            Ok(_) => Err(GuestError::NotLoaded {
                reason: self.reason(),
            }),
            Err(GuestError::Gone { .. }) => Err(GuestError::NotLoaded { reason: ENDED.into() }),
            Err(GuestError::Hung { what, .. }) => Err(GuestError::Hung { what, within }),
            Err(other) => Err(other),
        }
    }

    /// Why a state did not load. Older versions end before they can be asked.
    fn reason(&mut self) -> String {
        let said = self.qmp.execute("query-migrate", Value::Null).unwrap_or_default();
        said["error-desc"].as_str().unwrap_or(ENDED).to_owned()
    }

    fn standing(&mut self) -> Result<(), GuestError> {
        match run_state(&mut self.qmp)? {
            RunState::Incoming => Err(GuestError::protocol(
                "query-status",
                "a loaded state, but still inmigrate",
            )),
            RunState::Running => Err(GuestError::Unfit {
                what: "the standby's QEMU ran the guest at once".into(),
                advice: "start it with `-S`".into(),
            }),
            _ => Ok(()),
        }
    }
}

fn send_all(mut socket: UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !wait_ready(socket.as_fd(), PollFlags::OUT, Some(deadline))? && Instant::now() >= deadline
                {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    socket.shutdown(Shutdown::Write)
}
