//! What the agents of two hosts say to each other about one machine, on the channel that carries its epochs: the active host
//! offers, the standby plans, and both work on after that. CBOR, in control frames towards the standby and in length-prefixed
//! frames back.

use minicbor::{Decode, Encode};

use crate::{
    NodeName,
    arbiter::{SessionId, VmId},
};

/// Version of this conversation. Hosts of different versions refuse each other.
pub const VERSION: u16 = 1;
/// Most arguments of a QEMU command line.
pub const MAX_ARGUMENTS: usize = 4096;
/// Most disks or network interfaces of a machine.
pub const MAX_DEVICES: usize = 64;
/// Most RAM blocks of a machine.
pub const MAX_BLOCKS: usize = 1024;

/// From the active host to the standby.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToStandby {
    /// First message: the machine to protect. Answered by [`ToActive::Planned`] or [`ToActive::Refused`].
    #[n(0)]
    Offer(#[n(0)] Box<Offer>),
    /// The user agrees with the plan. Answered by [`ToActive::Ready`] or [`ToActive::Refused`].
    #[n(1)]
    Begin,
    /// The epoch that follows is for trial: it is loaded into a QEMU that is then thrown away. Answered by [`ToActive::Tried`].
    #[n(2)]
    Trial,
    /// The guest died here without having shut down: the standby takes over, if the register lets it.
    #[n(3)]
    GuestDied,
    /// Protection has ended; nothing will be taken over.
    #[n(4)]
    Ended,
}

/// From the standby to the active host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToActive {
    /// What the standby would do, for the user's eyes.
    #[n(0)]
    Planned(#[n(0)] Plan),
    /// It cannot be; why, and what to do. The connection closes.
    #[n(1)]
    Refused(#[n(0)] String),
    /// The machine's twin waits, with these RAM blocks.
    #[n(2)]
    Ready(#[n(0)] Vec<OfferedBlock>),
    /// The trial epoch was loaded, in so many microseconds.
    #[n(3)]
    Tried(#[n(0)] u64),
    /// Memory, device state and disk writes of this epoch are here.
    #[n(4)]
    Acknowledged(#[n(0)] u64),
    /// So many bytes of disk writes wait on the standby.
    #[n(5)]
    Buffered(#[n(0)] u64),
    /// The user forces a fail-over on the standby: the machine is to end on the active host.
    #[n(6)]
    FailOver,
}

/// A machine as its host offers it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// [`VERSION`].
    #[n(0)]
    pub version: u16,
    /// The machine's UUID.
    #[n(1)]
    pub machine: VmId,
    /// Its name, for people.
    #[cbor(n(2), decode_with = "crate::line::decode")]
    pub name: String,
    /// The session that begins.
    #[n(3)]
    pub session: SessionId,
    /// Its QEMU's version, as in `7.2.22`.
    #[cbor(n(4), decode_with = "crate::line::decode")]
    pub qemu: String,
    /// Its versioned machine type, as in `pc-q35-7.2`.
    #[cbor(n(5), decode_with = "crate::line::decode")]
    pub machine_type: String,
    /// Its command line, program first.
    #[n(6)]
    pub command_line: Vec<String>,
    /// Its working directory, which relative paths among the arguments start from.
    #[n(7)]
    pub directory: String,
    /// Its disks; a disk's place in the list is its number.
    #[n(8)]
    pub disks: Vec<OfferedDisk>,
    /// Its network interfaces.
    #[n(9)]
    pub interfaces: Vec<OfferedInterface>,
    /// Silence after which either side acts, in milliseconds.
    #[n(10)]
    pub detect: u32,
    /// All that preflight knows of the machine and its host (JSON text), for the standby to judge with its own.
    #[n(11)]
    pub facts: String,
    /// Which register the active host asks, to be the standby's as well; empty when it does not know.
    #[cbor(n(12), decode_with = "crate::line::decode")]
    pub register: String,
}

/// A disk of an offered machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OfferedDisk {
    /// The block node's or the device's name.
    #[cbor(n(0), decode_with = "crate::line::decode")]
    pub name: String,
    /// The image's path on the active host.
    #[n(1)]
    pub file: String,
    /// What the guest sees, in bytes.
    #[n(2)]
    pub size: u64,
    /// Whether the guest cannot write it: it is copied nowhere and must be there on both hosts.
    #[n(3)]
    pub read_only: bool,
}

/// A network interface of an offered machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OfferedInterface {
    /// The netdev's name.
    #[cbor(n(0), decode_with = "crate::line::decode")]
    pub name: String,
    /// The tap on the active host.
    #[cbor(n(1), decode_with = "crate::line::decode")]
    pub tap: String,
    /// The bridge that the tap is a port of there.
    #[n(2)]
    pub bridge: Option<String>,
}

/// A RAM block.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OfferedBlock {
    /// QEMU's name for it.
    #[cbor(n(0), decode_with = "crate::line::decode")]
    pub name: String,
    /// Bytes in use.
    #[n(1)]
    pub size: u64,
}

/// What the standby would do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Plan {
    /// The standby, by its own name.
    #[n(0)]
    pub host: NodeName,
    /// The twin's command line, program first.
    #[n(1)]
    pub command_line: Vec<String>,
    /// What differs from the machine's own command line.
    #[n(2)]
    pub changes: Vec<PlannedChange>,
    /// What the user ought to know.
    #[n(3)]
    pub warnings: Vec<String>,
}

/// One difference between the two command lines.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct PlannedChange {
    /// What it is about.
    #[n(0)]
    pub what: String,
    /// On the active host; empty when it is new.
    #[n(1)]
    pub from: String,
    /// On the standby; empty when it is left out.
    #[n(2)]
    pub to: String,
}

/// What ends an epoch: everything beside memory and disks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EpochState {
    /// Whether the machine ran when the epoch was taken, so that it is to run on.
    #[n(0)]
    pub running: bool,
    /// The device state as QEMU wrote it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub devices: Vec<u8>,
}
