//! What a former agent left behind: machines that stand mute with its filters, and waiting QEMUs. The register says what
//! becomes of them.

use std::{fs, os::unix::net::UnixStream, path::Path, sync::Arc};

use hawser_proto::{
    NodeName,
    arbiter::{Award, VmId},
};

use super::HostConfig;
use crate::{
    arbiter::{Arbiter, ArbiterError},
    guest::{Guest as _, Output, Qemu, RunState, Timeouts},
};

/// The file in a session's directory that names the machine's QMP socket.
pub(super) const QMP: &str = "qmp-socket";

/// In the line about a machine that could not be settled.
pub(super) const UNSETTLED: &str = "not settled";

/// Settles everything that is left of machines other than those that `known` tells of. What cannot be settled stays as it is.
/// Returns a line about each machine.
pub(super) async fn leftovers(
    config: &HostConfig,
    arbiter: &Arc<dyn Arbiter>,
    own: &NodeName,
    known: impl Fn(VmId) -> bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(entries) = fs::read_dir(&config.run) else {
        return lines;
    };
    for entry in entries.flatten() {
        let Ok(vm) = entry.file_name().to_string_lossy().parse::<VmId>() else {
            continue;
        };
        if known(vm) {
            continue;
        }
        match machine(config, &**arbiter, own, vm, &entry.path()).await {
            Ok(Some(done)) => {
                tracing::warn!(machine = %vm, done, "what a former agent left behind is settled");
                lines.push(format!("{vm}: {done}"));
            }
            Ok(None) => {}
            Err(why) => {
                tracing::warn!(machine = %vm, %why, "what a former agent left behind is not settled yet; it is tried again");
                lines.push(format!("{vm}: {UNSETTLED}: {why}"));
            }
        }
    }
    lines
}

async fn machine(
    config: &HostConfig,
    arbiter: &dyn Arbiter,
    own: &NodeName,
    vm: VmId,
    directory: &Path,
) -> Result<Option<&'static str>, String> {
    let active = fs::read_to_string(directory.join("active").join(QMP)).ok();
    let twin = directory.join("twin").join("qmp");
    if active.is_none() && !twin.exists() {
        return Ok(None);
    }
    let record = arbiter.read(vm).await.map_err(|e| e.to_string())?;
    let alone = Award::Alone { host: own.clone() };
    let mine = match &record {
        Some(r) if matches!(&r.award, Award::Protected { active, .. } if active == own) => {
            match arbiter.change(vm, r.term, alone).await {
                Ok(_) => true,
                Err(ArbiterError::Lost(_) | ArbiterError::Denied(_)) => false,
                Err(e) => return Err(e.to_string()),
            }
        }
        Some(r) => r.award == alone,
        None => false,
    };
    let mut done = None;
    if let Some(socket) = active {
        done = settle_active(config, Path::new(socket.trim()), mine)?;
        let _ = fs::remove_dir_all(directory.join("active"));
    }
    if twin.exists() {
        done = settle_twin(config, &twin, mine)?.or(done);
    }
    Ok(done)
}

fn attach(config: &HostConfig, socket: &Path) -> Result<Option<Qemu>, String> {
    let timeouts = Timeouts {
        checkpoint: config.qmp_timeout,
        ..Timeouts::default()
    };
    if UnixStream::connect(socket).is_err() {
        return Ok(None);
    }
    Qemu::attach(socket, timeouts)
        .map(Some)
        .map_err(|e| e.to_string())
}

fn settle_active(config: &HostConfig, socket: &Path, mine: bool) -> Result<Option<&'static str>, String> {
    let Some(mut qemu) = attach(config, socket)? else {
        return Ok(None);
    };
    if mine {
        let freed = qemu.clean_up(Output::Freed).and_then(|()| qemu.resume());
        freed.map_err(|e| e.to_string())?;
        return Ok(Some("goes on here, unprotected"));
    }
    qemu.process().kill().map_err(|e| e.to_string())?;
    Ok(Some(
        "is destroyed here: the register says that it is another host's",
    ))
}

/// A restarted agent never takes over; but what the register gave to this host before runs.
fn settle_twin(config: &HostConfig, socket: &Path, mine: bool) -> Result<Option<&'static str>, String> {
    let Some(mut qemu) = attach(config, socket)? else {
        let _ = fs::remove_file(socket);
        return Ok(None);
    };
    if mine {
        if qemu.run_state().map_err(|e| e.to_string())? == RunState::Paused {
            qemu.qmp()
                .execute("cont", serde_json::json!({}))
                .map_err(|e| e.to_string())?;
            return Ok(Some("was taken over by this host, and runs now"));
        }
        return Ok(None);
    }
    qemu.process().kill().map_err(|e| e.to_string())?;
    Ok(Some(
        "its QEMU that waited here is ended: the agent that filled it is gone",
    ))
}
