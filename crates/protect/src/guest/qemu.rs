//! The driver for stock QEMU: suspending, saving and continuing, and what happened meanwhile. What it hot-adds is in `filters` and
//! `mirror`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Guest, GuestEvent, RunState, Suspension,
    error::GuestError,
    filters::Added,
    leftovers::JOB,
    qmp::{Qmp, Ticket, Timeouts},
    ramblocks,
    state::devices,
    statefile::StateFile,
    wire::Event,
};
use crate::{memory::Layout, sys::Process};

/// How often blocks of memory are looked for that QEMU lists and that are not found.
const LAYOUT_TRIES: u32 = 3;
/// How often devices and RAM blocks are compared with what they were, by [`Guest::events`].
const INVENTORY_EVERY: Duration = Duration::from_secs(1);

/// A running QEMU, through its QMP socket. Continues the VM when dropped, if it had stopped it.
#[derive(Debug)]
pub struct Qemu {
    pub(super) qmp: Qmp,
    process: Process,
    version: [u64; 3],
    name: String,
    machine: String,
    uuid: [u8; 16],
    /// We stopped it, and nothing else has a reason to keep it so.
    held: bool,
    /// Somebody else continued it while we held it.
    disturbed: bool,
    happened: Vec<GuestEvent>,
    pub(super) state: Option<StateFile>,
    saving: Option<Ticket>,
    /// Digest of the devices in the last state.
    devices: Option<u64>,
    inventory: Inventory,
    /// Mirrors started here: job, and target's node.
    pub(super) mirrors: Vec<(String, String)>,
    /// Filters added here.
    pub(super) outputs: Vec<Added>,
}

/// What a standby must have alike, and when it was last compared.
#[derive(Debug)]
struct Inventory {
    known: Option<(Vec<Value>, Vec<ramblocks::Line>)>,
    at: Instant,
    suspect: bool,
}

/// Which of the next STOP and RESUME events is our own doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    Nothing,
    Stop,
    Resume,
}

impl Qemu {
    /// Connects to a running QEMU. Changes nothing in it.
    pub fn attach(socket: &Path, timeouts: Timeouts) -> Result<Self, GuestError> {
        Self::over(Qmp::connect(socket, timeouts)?)
    }

    pub(super) fn over(mut qmp: Qmp) -> Result<Self, GuestError> {
        let version = qmp
            .version()
            .ok_or_else(|| GuestError::protocol("the greeting", "no version"))?;
        let name = qmp.execute("query-name", json!({}))?["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let machine = machine_of(&mut qmp)?;
        let uuid = qmp.execute("query-uuid", json!({}))?;
        let uuid = uuid["UUID"].as_str().and_then(|u| uuid::Uuid::try_parse(u).ok());
        let uuid = uuid.ok_or_else(|| GuestError::protocol("query-uuid", "no UUID"))?;
        let process =
            Process::open(qmp.pid()).map_err(|e| GuestError::system("taking hold of QEMU's process", e))?;
        Ok(Self {
            process,
            version,
            name,
            machine,
            uuid: uuid.into_bytes(),
            held: false,
            disturbed: false,
            happened: Vec::new(),
            state: None,
            saving: None,
            devices: None,
            inventory: Inventory {
                known: None,
                at: Instant::now(),
                suspect: false,
            },
            mirrors: Vec::new(),
            outputs: Vec::new(),
            qmp,
        })
    }

    /// Version of the running program: major, minor, micro.
    pub fn version(&self) -> [u64; 3] {
        self.version
    }

    /// The name given by `-name`, empty without.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The versioned machine type, as in `pc-q35-7.2`; aliases are resolved.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The UUID given by `-uuid`. Without one, no VM can be told from another across hosts: unfit.
    pub fn uuid(&self) -> Result<[u8; 16], GuestError> {
        if self.uuid == [0; 16] {
            return Err(GuestError::Unfit {
                what: "the VM has no UUID".into(),
                advice: "start it with `-uuid` and a UUID of its own (`uuidgen` makes one)".into(),
            });
        }
        Ok(self.uuid)
    }

    /// The connection itself, for queries. Whoever stops or continues the VM through it confuses the driver.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// What it is doing now.
    pub fn run_state(&mut self) -> Result<RunState, GuestError> {
        run_state(&mut self.qmp)
    }

    /// Whether QEMU closed the connection: it exited.
    pub fn is_gone(&self) -> bool {
        self.qmp.is_closed()
    }

    /// When it last said anything.
    pub fn last_answer(&self) -> Instant {
        self.qmp.last_answer()
    }

    /// Waits for a command of a checkpoint. If it takes too long while a mirror is on, that is cut off: a target that does not
    /// answer holds up everything, and a guest without its mirror is better than none. Half-way, it is asked past its main loop
    /// whether it lives: a QEMU that does not answer that either is not waited for twice.
    fn receive(&mut self, ticket: Ticket) -> Result<Value, GuestError> {
        let within = self.qmp.timeouts().checkpoint;
        if self.mirrors.is_empty() {
            return self.qmp.receive(ticket, within);
        }
        if let Some(outcome) = self.qmp.reply(&ticket, within / 2)? {
            return outcome;
        }
        let probe = self.qmp.ask_for_life()?;
        let outcome = self.qmp.reply(&ticket, within / 2)?;
        let lives = self.qmp.has_answered(probe);
        match outcome {
            Some(outcome) => outcome,
            None if lives => {
                self.yank_mirrors(within)?;
                self.qmp.receive(ticket, within)
            }
            None => Err(self.qmp.give_up(ticket, within)),
        }
    }

    /// Takes note of events. Their order against STOP and RESUME tells whose these are.
    fn note(&mut self, events: Vec<Event>, mut ours: Ours) {
        for event in events {
            match event.name.as_str() {
                "STOP" if ours == Ours::Stop => {
                    ours = Ours::Nothing;
                    self.held = true;
                }
                "RESUME" if ours == Ours::Resume => ours = Ours::Nothing,
                "RESUME" => {
                    self.disturbed |= self.held;
                    self.held = false;
                    self.happened.push(GuestEvent::Resumed);
                }
                _ => {
                    let (happened, stops) = translate(&event);
                    if stops {
                        self.held = false;
                        ours = Ours::Nothing;
                    }
                    self.inventory.suspect |= changes_devices(&event.name);
                    self.happened.extend(happened);
                }
            }
        }
    }

    /// The file for states, given to QEMU at the first use.
    fn state_file(&mut self) -> Result<&mut StateFile, GuestError> {
        let file = match self.state.take() {
            Some(file) => file,
            None => StateFile::give_to(&mut self.qmp)?,
        };
        Ok(self.state.insert(file))
    }

    /// Takes a suspension that an agent before us left for our own.
    pub(super) fn adopt(&mut self) -> Result<(), GuestError> {
        self.state_file()?.mark(true)?;
        self.held = true;
        Ok(())
    }

    fn note_waiting(&mut self) -> Result<(), GuestError> {
        let events = self.qmp.events()?;
        self.note(events, Ours::Nothing);
        Ok(())
    }

    fn note_seen(&mut self, ours: Ours) {
        let events = self.qmp.seen().collect();
        self.note(events, ours);
    }

    fn take_inventory(&mut self) -> Result<(), GuestError> {
        let mut devices = Vec::new();
        for path in ["/machine/peripheral", "/machine/peripheral-anon"] {
            devices.push(self.qmp.execute("qom-list", json!({ "path": path }))?);
        }
        let now = (devices, ramblocks::parse(&self.qmp.hmp("info ramblock")?)?);
        if self.inventory.known.as_ref().is_some_and(|known| *known != now) {
            self.happened.push(GuestEvent::DevicesChanged);
        }
        self.inventory = Inventory {
            known: Some(now),
            at: Instant::now(),
            suspect: false,
        };
        Ok(())
    }
}

impl Guest for Qemu {
    fn suspend(&mut self) -> Result<Suspension, GuestError> {
        self.note_waiting()?;
        if self.held {
            return Ok(Suspension {
                stopped_by_us: true,
                found: RunState::Running,
            });
        }
        self.disturbed = false;
        // Before it stands: who dies in between must be found out.
        self.state_file()?.mark(true)?;
        let stop = self.qmp.send("stop", Value::Null)?;
        self.receive(stop)?;
        self.note_seen(Ours::Stop);
        if self.held {
            return Ok(Suspension {
                stopped_by_us: true,
                found: RunState::Running,
            });
        }
        self.state_file()?.mark(false)?;
        match self.run_state()? {
            RunState::Running => Err(GuestError::Disturbed),
            found => Ok(Suspension {
                stopped_by_us: false,
                found,
            }),
        }
    }

    fn resume(&mut self) -> Result<bool, GuestError> {
        self.note_waiting()?;
        if let (false, Some(file)) = (self.held, &self.state) {
            file.mark(false)?;
        }
        if std::mem::take(&mut self.disturbed) {
            return Err(GuestError::Disturbed);
        }
        if !std::mem::take(&mut self.held) {
            return Ok(false);
        }
        let cont = self.qmp.send("cont", Value::Null)?;
        self.receive(cont)?;
        self.note_seen(Ours::Resume);
        self.state_file()?.mark(false)?;
        Ok(true)
    }

    fn begin_device_state(&mut self) -> Result<(), GuestError> {
        let path = self.state_file()?.rewind()?;
        self.saving = Some(self.qmp.send(
            "xen-save-devices-state",
            json!({ "filename": path, "live": false }),
        )?);
        Ok(())
    }

    fn device_state(&mut self, into: &mut Vec<u8>) -> Result<(), GuestError> {
        if self.saving.is_none() {
            self.begin_device_state()?;
        }
        if let Some(saving) = self.saving.take() {
            self.receive(saving)?;
        }
        if let Some(file) = &mut self.state {
            file.read(into)?;
        }
        let devices = devices(into);
        self.inventory.suspect |= self
            .devices
            .replace(devices)
            .is_some_and(|before| before != devices);
        Ok(())
    }

    fn layout(&mut self) -> Result<Layout, GuestError> {
        // Firmware that starts resizes blocks, perhaps between the list and the search.
        let mut left = LAYOUT_TRIES;
        loop {
            left -= 1;
            let lines = ramblocks::parse(&self.qmp.hmp("info ramblock")?)?;
            match ramblocks::locate(&lines, self.qmp.pid()) {
                Err(GuestError::Unfit { .. }) if left > 0 => {}
                found => return found,
            }
        }
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn events(&mut self) -> Result<Vec<GuestEvent>, GuestError> {
        self.note_waiting()?;
        let due = self.inventory.suspect
            || self.inventory.known.is_none()
            || self.inventory.at.elapsed() > INVENTORY_EVERY;
        if due && !self.is_gone() {
            match self.take_inventory() {
                // What was said before the end is worth more than that it ended.
                Err(GuestError::Gone { .. }) => self.note_waiting()?,
                other => other?,
            }
        }
        Ok(std::mem::take(&mut self.happened))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // A failure here has nobody to tell; the agent that follows finds what is left. One that hangs is not asked twice.
        if self.resume().is_ok()
            && let Some(file) = self.state.take()
        {
            let _ = file.take_back(&mut self.qmp);
        }
    }
}

/// The versioned machine type.
pub(super) fn machine_of(qmp: &mut Qmp) -> Result<String, GuestError> {
    let found = qmp.execute("qom-get", json!({ "path": "/machine", "property": "type" }))?;
    let name = found.as_str().unwrap_or_default();
    Ok(name.strip_suffix("-machine").unwrap_or(name).to_owned())
}

pub(super) fn run_state(qmp: &mut Qmp) -> Result<RunState, GuestError> {
    let status = qmp.execute("query-status", Value::Null)?;
    Ok(RunState::parse(status["status"].as_str().unwrap_or_default()))
}

/// What an event means, and whether it is a reason for the VM to stand still.
fn translate(event: &Event) -> (Option<GuestEvent>, bool) {
    let by_guest = event.data["guest"].as_bool().unwrap_or(false);
    match event.name.as_str() {
        "STOP" => (Some(GuestEvent::Stopped), false),
        "SHUTDOWN" => (
            Some(GuestEvent::Shutdown {
                by_guest,
                reason: event.text("reason").into(),
            }),
            true,
        ),
        "RESET" => (Some(GuestEvent::Reset { by_guest }), false),
        "BLOCK_IO_ERROR" if event.text("action") == "stop" => {
            let disk = match event.text("device") {
                "" => event.text("node-name"),
                device => device,
            };
            (Some(GuestEvent::DiskFailed { disk: disk.into() }), true)
        }
        "GUEST_PANICKED" => (Some(GuestEvent::Panicked), event.text("action") == "pause"),
        "WATCHDOG" => (None, event.text("action") == "pause"),
        "BLOCK_JOB_READY" | "BLOCK_JOB_COMPLETED" if !event.text("device").starts_with(JOB) => (None, false),
        "BLOCK_JOB_READY" => (
            Some(GuestEvent::MirrorReady {
                job: event.text("device").into(),
            }),
            false,
        ),
        "BLOCK_JOB_COMPLETED" => {
            let reason = match event.text("error") {
                "" => "it was told to complete",
                error => error,
            };
            (
                Some(GuestEvent::MirrorFailed {
                    job: event.text("device").into(),
                    reason: reason.into(),
                }),
                false,
            )
        }
        _ => (None, false),
    }
}

fn changes_devices(event: &str) -> bool {
    matches!(event, "DEVICE_DELETED" | "MEMORY_DEVICE_SIZE_CHANGE" | "RESET")
}
