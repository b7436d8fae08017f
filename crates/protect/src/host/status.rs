//! What a host says of its machines: for `hawser protect status`, and for metrics.

use hawser_proto::{NodeName, arbiter::VmId};
use serde::{Deserialize, Serialize};

use super::stats::{Progress, Spread};

/// Everything a host says of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name within its domain.
    pub host: String,
    /// Where other hosts reach it.
    pub listen: String,
    /// Machines that run, wait or were lately seen here.
    pub machines: Vec<MachineStatus>,
}

/// What this host is to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It runs here, and is protected or about to be.
    Active,
    /// It waits here.
    Standby,
    /// It runs here, unprotected.
    Alone,
    /// It does not live here.
    Gone,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::Active => "active",
            Role::Standby => "standby",
            Role::Alone => "alone",
            Role::Gone => "gone",
        })
    }
}

/// One machine on one host. Times are in microseconds where a field does not say otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub machine: VmId,
    /// What this host is to it.
    pub role: Role,
    /// What happens now, in a word or two.
    pub phase: String,
    /// The other host.
    pub peer: Option<NodeName>,
    /// The register's term, as last seen.
    pub term: u64,
    /// The last epoch taken (active) or received (standby).
    pub epoch: u64,
    /// The last epoch that both hosts hold.
    pub committed: u64,
    /// Disks on their way to the standby, before protection begins.
    pub disk_sync: Option<Progress>,
    /// Memory on its way to the standby, before protection begins.
    pub memory_sync: Option<Progress>,
    /// How long the machine stood still for an epoch.
    pub pause: Option<Spread>,
    /// Pages written between two epochs.
    pub dirty_pages: Option<Spread>,
    /// From the begin of an epoch until the standby has it.
    pub commit_latency: Option<Spread>,
    /// Age of the last epoch that the standby has.
    pub lag: Option<u64>,
    /// Frames and bytes of output that wait for their epoch.
    pub held: Held,
    /// Frames dropped because too much output waited.
    pub dropped: u64,
    /// Bytes of disk writes on the standby behind the last barrier that was flushed.
    pub disk_buffer: u64,
    /// Times and microseconds that the copying of pages waited for room in the ring.
    pub ring_waits: Waits,
    /// Share of the last ten seconds in which the machine stood still, which its clock loses: 0 to 1.
    pub clock_loss: f64,
    /// After a fail-over: from when the guest was last known to run on the old host until it ran here.
    pub outage: Option<u64>,
    /// Where its QEMU answers, if it runs here.
    pub qmp: Option<std::path::PathBuf>,
    /// How it came to be as it is, for people.
    pub message: String,
}

impl MachineStatus {
    /// A machine of which nothing is known yet.
    pub fn new(name: String, machine: VmId, role: Role) -> Self {
        Self {
            name,
            machine,
            role,
            phase: String::new(),
            peer: None,
            term: 0,
            epoch: 0,
            committed: 0,
            disk_sync: None,
            memory_sync: None,
            pause: None,
            dirty_pages: None,
            commit_latency: None,
            lag: None,
            held: Held::default(),
            dropped: 0,
            disk_buffer: 0,
            ring_waits: Waits::default(),
            clock_loss: 0.0,
            outage: None,
            qmp: None,
            message: String::new(),
        }
    }
}

/// Output that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Waits that were counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// How often.
    pub count: u64,
    /// How long, in microseconds.
    pub time: u64,
}
