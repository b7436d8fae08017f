//! What the standby would do for an offered machine: its command line, disks and taps, or why it cannot.

use std::path::{Path, PathBuf};

use hawser_proto::{
    NodeName,
    protection::{MAX_ARGUMENTS, MAX_DEVICES, Offer, Plan, PlannedChange, VERSION},
};

use crate::{
    host::HostConfig,
    vm::{self, CommandLine, Derived, Replica, Substitutions, TapSubstitution},
};

/// Where everything of one machine is on this host.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Sockets and logs of the twin.
    pub(super) twin: PathBuf,
    /// The same of the QEMU that loads the trial epoch.
    pub(super) rehearsal: PathBuf,
    /// Replicas of writable disks, by disk number.
    pub(super) replicas: Vec<Option<PathBuf>>,
    /// For each network interface: the twin's tap, the rehearsal's, and the bridge.
    pub(super) taps: Vec<(String, String, Option<String>)>,
}

impl Places {
    pub(super) fn new(config: &HostConfig, offer: &Offer) -> Self {
        let id = offer.machine.to_string();
        let short: String = id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let replica = |(number, disk): (usize, &hawser_proto::protection::OfferedDisk)| {
            (!disk.read_only).then(|| config.images.join(format!("{id}-disk{number}.raw")))
        };
        let taps = offer.interfaces.iter().enumerate().map(|(n, interface)| {
            let bridge = config.bridge.clone().or_else(|| interface.bridge.clone());
            (format!("hw{short}-{n}"), format!("hr{short}-{n}"), bridge)
        });
        Self {
            twin: config.run.join(&id).join("twin"),
            rehearsal: config.run.join(&id).join("rehearsal"),
            replicas: offer.disks.iter().enumerate().map(replica).collect(),
            taps: taps.collect(),
        }
    }

    pub(super) fn qmp(directory: &Path) -> PathBuf {
        directory.join("qmp")
    }

    pub(super) fn log(directory: &Path) -> PathBuf {
        directory.join("qemu.log")
    }
}

/// Checks an offer before anything is done for it.
pub(super) fn check(offer: &Offer) -> Result<(), String> {
    if offer.version != VERSION {
        return Err(format!(
            "it speaks version {} of the protocol between hosts, this host version {VERSION}: install the same hawser on both",
            offer.version
        ));
    }
    let devices = offer.disks.len().max(offer.interfaces.len());
    if offer.command_line.is_empty() || offer.command_line.len() > MAX_ARGUMENTS || devices > MAX_DEVICES {
        return Err(format!(
            "a machine of {} arguments, {} disks and {} network interfaces: expected 1 to {MAX_ARGUMENTS}, and at most {MAX_DEVICES}",
            offer.command_line.len(),
            offer.disks.len(),
            offer.interfaces.len()
        ));
    }
    Ok(())
}

/// The twin's command line, with places of its own; `rehearsal` for the QEMU that is thrown away.
pub(super) fn derive(offer: &Offer, places: &Places, rehearsal: bool) -> Result<Derived, String> {
    let mut words = offer.command_line.iter().cloned();
    let active = CommandLine {
        program: words.next().unwrap_or_default().into(),
        directory: offer.directory.clone().into(),
        args: words.collect(),
    };
    let directory = if rehearsal {
        &places.rehearsal
    } else {
        &places.twin
    };
    let disks = offer.disks.iter().zip(&places.replicas);
    let substitutions = Substitutions {
        program: None,
        machine: Some(offer.machine_type.clone()),
        disks: disks
            .filter_map(|(disk, path)| {
                Some(Replica {
                    disk: disk.name.clone(),
                    path: path.clone()?,
                })
            })
            .collect(),
        taps: offer
            .interfaces
            .iter()
            .zip(&places.taps)
            .map(|(interface, (twin, other, _))| TapSubstitution {
                network: interface.name.clone(),
                ifname: if rehearsal { other.clone() } else { twin.clone() },
            })
            .collect(),
        directory: directory.clone(),
        qmp: Places::qmp(directory),
    };
    vm::derive(&active, &substitutions).map_err(|e| e.to_string())
}

/// The plan for the user's eyes.
pub(super) fn plan(own: &NodeName, derived: &Derived) -> Plan {
    let line = &derived.command_line;
    let change = |c: &vm::Change| PlannedChange {
        what: c.what.clone(),
        from: c.from.clone(),
        to: c.to.clone(),
    };
    Plan {
        host: own.clone(),
        command_line: std::iter::once(line.program.display().to_string())
            .chain(line.args.iter().cloned())
            .collect(),
        changes: derived.changes.iter().map(change).collect(),
        warnings: Vec::new(),
    }
}
