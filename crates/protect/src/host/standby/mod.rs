//! The standby's side of a machine: it plans, starts a twin, rehearses, fills it epoch by epoch, and takes over.
//!
//! One thread a session reads the channel; a second one watches the clock. A take-over loads the last whole epoch first and asks
//! the register then: a state that does not load cannot take the machine from the host where it runs.

mod plan;
mod replica;
mod session;
mod twin;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use hawser_proto::{
    NodeName,
    arbiter::{Award, VmId},
    protection::{EpochState, Offer, OfferedBlock, ToActive, ToStandby},
};
use tokio::runtime::Handle;

pub(crate) use session::Session;
use session::{Made, Parts, Pending, Waiting};

use super::{HostConfig, Identity, messages, taps::Tap};
use crate::{
    arbiter::Arbiter,
    epoch::standby::{Event, Standby},
    guest::Timeouts,
    link::{Channel, HeartPeer, Hearts, Writer},
    memory::Layout,
    pipe::{Inbound, Incoming, Limits, PipeError},
    vm::{Facts, HostFacts, QemuFacts, ReplicaFacts, Severity, StandbyFacts},
};
use plan::Places;
use replica::{Disks, Filling, Nothing};
use twin::Twin;

/// What a session needs of its host.
pub(super) struct Surroundings {
    pub(super) config: HostConfig,
    pub(super) own: Identity,
    pub(super) arbiter: Arc<dyn Arbiter>,
    pub(super) hearts: Arc<Hearts>,
    pub(super) runtime: Handle,
    /// Whether this host has to do with a machine already.
    pub(super) knows: Box<dyn Fn(VmId) -> bool + Send + Sync>,
    /// Told of each session that begins.
    pub(super) begun: Box<dyn Fn(Arc<Session>) + Send + Sync>,
    /// Machines whose twins are being made ready.
    pub(super) preparing: Arc<Mutex<BTreeSet<VmId>>>,
}

/// The right to prepare a machine's twin, which one session has at a time.
struct Reserved(Arc<Mutex<BTreeSet<VmId>>>, VmId);

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.1);
    }
}

impl Surroundings {
    fn reserve(&self, vm: VmId) -> Result<Reserved, String> {
        let new = self
            .preparing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(vm);
        let reserved = Reserved(self.preparing.clone(), vm);
        if !new {
            // The other session's reservation stays.
            std::mem::forget(reserved);
        } else if !(self.knows)(vm) {
            return Ok(reserved);
        }
        Err("this host has to do with this machine already: see `hawser protect status` there".into())
    }
}

/// Serves a channel that another host opened, until it ends. Blocks.
pub(super) fn serve(around: &Surroundings, channel: Channel) {
    let peer = channel.peer.clone();
    let Channel {
        reader,
        mut writer,
        aborter,
        life,
        heart,
        address,
        proved,
        ..
    } = channel;
    let mut inbound = Inbound::new(
        Box::new(reader),
        Limits {
            spill_dir: Some(around.config.images.clone()),
            ..Limits::default()
        },
    );
    let (offer, twin_line) = match agree(around, &mut inbound, &mut writer) {
        Ok(agreed) => agreed,
        Err(why) => {
            tracing::info!(host = %peer, %why, "an offered machine was not taken");
            let _ = messages::write(&mut writer, &ToActive::Refused(why));
            return;
        }
    };
    let detect = std::time::Duration::from_millis(offer.detect.into());
    // Before anything that takes its time: the active host listens already.
    let beat = around.hearts.begin(
        heart,
        HeartPeer::Behind(address.ip()),
        life,
        super::rhythm(detect),
        Box::new(|_| {}),
    );
    let theirs = around.runtime.block_on(theirs(around, offer.machine, &peer.name));
    let _reserved = match theirs.and_then(|()| around.reserve(offer.machine)) {
        Ok(reserved) => reserved,
        Err(why) => {
            let _ = messages::write(&mut writer, &ToActive::Refused(why));
            return;
        }
    };
    let prepared = match prepare(around, &offer, &twin_line) {
        Ok(prepared) => prepared,
        Err(why) => {
            tracing::warn!(host = %peer, machine = %offer.name, %why, "the machine's twin cannot wait here");
            let _ = messages::write(&mut writer, &ToActive::Refused(why));
            return;
        }
    };
    let (rehearsal, waiting, disks) = prepared;
    let session = Session::new(
        Parts {
            vm: offer.machine,
            name: offer.name.clone(),
            machine_type: offer.machine_type.clone(),
            peer: peer.name.clone(),
            proved,
            disks: disks.clone(),
            writer,
            aborter,
            arbiter: around.arbiter.clone(),
            runtime: around.runtime.clone(),
            machine: Standby::new(
                around.own.name(),
                peer.name.clone(),
                offer.session,
                detect,
                Instant::now(),
            ),
        },
        waiting,
    );
    (around.begun)(session.clone());
    let _ = session.heart.set(beat);
    let watched = session.clone();
    let watch = thread::Builder::new().name("standby-watch".into());
    if let Err(e) = watch.spawn(move || watched.watch()) {
        rehearsal.twin.kill();
        return session.event(Event::Failed(format!("no thread can be started: {e}")));
    }
    let why = receive(around, &session, &mut inbound, rehearsal, disks);
    session.event(Event::LinkDown(why));
}

/// Up to the user's consent: the offer, and the plan for it.
fn agree(
    around: &Surroundings,
    inbound: &mut Inbound,
    writer: &mut Writer,
) -> Result<(Offer, crate::vm::Derived), String> {
    let ToStandby::Offer(offer) = control(inbound)? else {
        return Err("the other host did not begin with an offer".into());
    };
    plan::check(&offer)?;
    let register = around.arbiter.identity();
    if !register.is_empty() && !offer.register.is_empty() && register != offer.register {
        return Err(format!(
            "the two hosts ask different registers ({} there, {register} here): name the same hub with host.register on both",
            offer.register
        ));
    }
    let places = Places::new(&around.config, &offer);
    let derived = plan::derive(&offer, &places, false)?;
    let plan = plan::plan(&around.own.name(), &derived);
    messages::write(writer, &ToActive::Planned(plan)).map_err(|e| e.to_string())?;
    match control(inbound)? {
        ToStandby::Begin => Ok((*offer, derived)),
        _ => Err("the other host went on without consent".into()),
    }
}

/// The register must say that the machine is the other host's: what is here of it may be overwritten then, and only then.
async fn theirs(around: &Surroundings, machine: VmId, host: &NodeName) -> Result<(), String> {
    let record = around
        .arbiter
        .read(machine)
        .await
        .map_err(|e| format!("on the standby: {e}"))?;
    match record.map(|r| r.award) {
        Some(Award::Alone { host: runs }) if runs == *host => Ok(()),
        Some(award) => Err(format!(
            "the register says {award}: the machine is not {host}'s to offer"
        )),
        None => Err("the register does not know the machine".into()),
    }
}

/// The next message, before anything else may come.
fn control(inbound: &mut Inbound) -> Result<ToStandby, String> {
    match inbound.next(&mut Nothing).map_err(|e| e.to_string())? {
        Incoming::Control(bytes) => messages::decode(&bytes).map_err(|e| e.to_string()),
        Incoming::Complete { .. } => Err("an epoch came before the machine's twin waits".into()),
    }
}

/// The QEMU that loads the trial epoch, and what the twin is started with once that went well.
struct Rehearsal {
    twin: Twin,
    taps: Vec<Tap>,
    places: Places,
    line: crate::vm::CommandLine,
    /// Of the disks, in bytes.
    sizes: Vec<u64>,
}

/// Disks, taps, and a QEMU for rehearsal that waits.
fn prepare(
    around: &Surroundings,
    offer: &Offer,
    derived: &crate::vm::Derived,
) -> Result<(Rehearsal, Waiting, Arc<Disks>), String> {
    let places = Places::new(&around.config, offer);
    for directory in [&places.twin, &places.rehearsal] {
        if UnixStream::connect(Places::qmp(directory)).is_ok() {
            return Err(format!(
                "a QEMU of this machine is alive on the standby (its QMP socket is in {}): end it, or protect the machine from there",
                directory.display()
            ));
        }
        let _ = fs::remove_dir_all(directory);
        make(directory)?;
    }
    make(&around.config.images)?;
    fs::set_permissions(&around.config.images, fs::Permissions::from_mode(0o700))
        .map_err(|e| format!("{} cannot be made private: {e}", around.config.images.display()))?;
    let mut waiting = Waiting {
        made: Made {
            replicas: places.replicas.iter().flatten().cloned().collect(),
            directory: Some(around.config.run.join(offer.machine.to_string())),
        },
        ..Waiting::default()
    };
    waiting.made.start_anew();
    let disks = Disks::open(offer, &places, &around.config.images).map_err(|e| e.to_string())?;
    let mut taps = Vec::new();
    for (twin, rehearsal, bridge) in &places.taps {
        waiting
            .taps
            .push(Tap::make(twin, bridge.as_deref()).map_err(|e| e.to_string())?);
        taps.push(Tap::make(rehearsal, None).map_err(|e| e.to_string())?);
    }
    let line = plan::derive(offer, &places, true)?.command_line;
    let mut twin = start(around, &line, &places.rehearsal)?;
    if let Err(why) = judge(around, offer, &mut twin, &places) {
        twin.kill();
        return Err(why);
    }
    let rehearsal = Rehearsal {
        twin,
        taps,
        places,
        line: derived.command_line.clone(),
        sizes: offer.disks.iter().map(|d| d.size).collect(),
    };
    Ok((rehearsal, waiting, Arc::new(disks)))
}

/// Whether the two machines and hosts fit each other, as far as can be told without loading anything.
fn judge(around: &Surroundings, offer: &Offer, twin: &mut Twin, places: &Places) -> Result<(), String> {
    let mut facts: Facts =
        serde_json::from_str(&offer.facts).map_err(|e| format!("the offer cannot be read: {e}"))?;
    let said = QemuFacts::gather(|command, arguments| twin.incoming.qmp().execute(command, arguments));
    let named = |file: &str| {
        facts
            .qemu
            .disks
            .iter()
            .find(|d| d.file == file)
            .map(|d| d.name.clone())
    };
    let replicas = offer.disks.iter().zip(&places.replicas);
    facts.standby = Some(StandbyFacts {
        host: HostFacts::gather(&around.config.run),
        qemu: Some(said.map_err(|e| e.to_string())?),
        replicas: replicas
            .filter_map(|(disk, path)| Some(ReplicaFacts::gather(&named(&disk.file)?, path.as_deref()?)))
            .collect(),
    });
    let refused: Vec<String> = crate::vm::preflight(&facts)
        .iter()
        .filter(|f| f.severity == Severity::Refuse)
        .map(ToString::to_string)
        .collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(refused.join("\n"))
    }
}

fn make(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|e| format!("{} cannot be made: {e}", directory.display()))
}

fn start(around: &Surroundings, line: &crate::vm::CommandLine, directory: &Path) -> Result<Twin, String> {
    let timeouts = Timeouts {
        checkpoint: around.config.qmp_timeout,
        ..Timeouts::default()
    };
    Twin::start(line, &Places::qmp(directory), &Places::log(directory), timeouts).map_err(|e| e.to_string())
}

/// Reads until the channel ends; returns why it did.
fn receive(
    around: &Surroundings,
    session: &Arc<Session>,
    inbound: &mut Inbound,
    rehearsal: Rehearsal,
    disks: Arc<Disks>,
) -> String {
    let blocks = offered(&rehearsal.twin.layout);
    inbound.expect(rehearsal.twin.layout.clone(), rehearsal.sizes.clone());
    if let Err(e) = session.send(&ToActive::Ready(blocks)) {
        return e.to_string();
    }
    // What its firmware left in memory goes: the active host sends every page that is not a hole there.
    if let Err(e) = clear(&rehearsal.twin) {
        return e.to_string();
    }
    let mut filling = Filling {
        memory: rehearsal.twin.memory.clone(),
        disks,
    };
    let mut rehearsal = Some(rehearsal);
    loop {
        let (epoch, state, staged) = match inbound.next(&mut filling) {
            Ok(Incoming::Complete { epoch, state, staged }) => (epoch, state, staged),
            Ok(Incoming::Control(bytes)) => {
                match messages::decode(&bytes) {
                    Ok(ToStandby::GuestDied) => session.event(Event::GuestDied),
                    Ok(ToStandby::Ended) => session.event(Event::Ended),
                    Ok(_) => {}
                    Err(e) => return e.to_string(),
                }
                continue;
            }
            Err(e @ (PipeError::Closed | PipeError::Read(_))) => return e.to_string(),
            Err(e) => {
                // The active host can say so where its user looks.
                let _ = session.send(&ToActive::Refused(e.to_string()));
                return e.to_string();
            }
        };
        let state: EpochState = match messages::decode(&state) {
            Ok(state) => state,
            Err(e) => return e.to_string(),
        };
        match rehearsal.take() {
            None => session.complete(Pending { epoch, staged, state }),
            Some(trial) => match rehearse(around, session, trial, epoch, staged, &state) {
                Ok(memory) => filling.memory = memory,
                Err(why) => {
                    session.event(Event::Failed(why.clone()));
                    return why;
                }
            },
        }
    }
}

/// The first epoch is for trial: all memory goes into the twin that will wait, then the rehearsal loads the state and is ended.
fn rehearse(
    around: &Surroundings,
    session: &Arc<Session>,
    rehearsal: Rehearsal,
    epoch: u64,
    staged: crate::pipe::Staged,
    state: &EpochState,
) -> Result<Arc<crate::sys::Memory>, String> {
    session.set_phase("trial");
    let mut trial = rehearsal.twin;
    let outcome = (|| {
        staged.apply(&*trial.memory).map_err(|e| e.to_string())?;
        session.disks.commit(epoch).map_err(|e| e.to_string())?;
        let twin = start(around, &rehearsal.line, &rehearsal.places.twin)?;
        if !twin.layout.fits(&trial.layout) {
            twin.kill();
            return Err("two QEMUs with one command line have different RAM blocks".to_string());
        }
        trial.copy_memory_to(&twin).map_err(|e| e.to_string())?;
        let began = Instant::now();
        let loaded = trial.load(&state.devices, &session.machine_type);
        loaded.map_err(|e| format!("the machine's state cannot be loaded by the QEMU of this host: {e}"))?;
        Ok((twin, began.elapsed()))
    })();
    trial.kill();
    drop(rehearsal.taps);
    let (twin, took) = outcome?;
    let memory = twin.memory.clone();
    session
        .waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .twin = Some(twin);
    session.set_phase("synchronising");
    session
        .send(&ToActive::Tried(took.as_micros() as u64))
        .map_err(|e| e.to_string())?;
    Ok(memory)
}

fn clear(twin: &Twin) -> Result<(), crate::sys::MemoryError> {
    twin.memory
        .populated()?
        .into_iter()
        .try_for_each(|run| twin.memory.zero(run))
}

fn offered(layout: &Layout) -> Vec<OfferedBlock> {
    let block = |b: &crate::memory::Block| OfferedBlock {
        name: b.name.clone(),
        size: b.size,
    };
    layout.blocks().iter().map(block).collect()
}
