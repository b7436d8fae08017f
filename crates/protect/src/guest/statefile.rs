//! Where QEMU writes its device state: memory of ours, handed to it as an fdset, so that no path, file system or user id matters.

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;

use super::{error::GuestError, leftovers::PREFIX, qmp::Qmp};

/// Where a byte says that the VM stands by our doing. QEMU keeps the file while the VM is paused, also when we die.
const MARK: u64 = 1 << 40;
/// Largest state taken. Seen: 32-500 KB; a graphics card's memory is RAM, not state.
const MAX_STATE: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct StateFile {
    memory: File,
    /// Write-only, as an fdset must match the mode that QEMU opens with. QEMU's copies share its position.
    writer: File,
    set: i64,
}

impl StateFile {
    pub(super) fn give_to(qmp: &mut Qmp) -> Result<Self, GuestError> {
        let failed =
            |e: std::io::Error| GuestError::system("making a file in memory for the device state", e);
        let memory =
            File::from(memfd_create("hawser-state", MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?);
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let writer = OpenOptions::new().write(true).open(path).map_err(failed)?;
        let added = qmp.execute_with_fd(
            "add-fd",
            json!({ "opaque": format!("{PREFIX}state") }),
            writer.as_fd(),
        )?;
        let set = added["fdset-id"]
            .as_i64()
            .ok_or_else(|| GuestError::protocol("add-fd", added))?;
        Ok(Self { memory, writer, set })
    }

    /// Makes the next state begin at the start. Returns the path that QEMU knows it by.
    pub(super) fn rewind(&mut self) -> Result<String, GuestError> {
        self.writer
            .seek(SeekFrom::Start(0))
            .map_err(|e| GuestError::system("rewinding the state file", e))?;
        Ok(format!("/dev/fdset/{}", self.set))
    }

    /// Replaces `into` by what QEMU wrote.
    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> Result<(), GuestError> {
        let failed = |e| GuestError::system("reading the state file", e);
        let size = self.writer.stream_position().map_err(failed)?;
        if size > MAX_STATE {
            return Err(GuestError::protocol(
                "xen-save-devices-state",
                format!("{size} bytes"),
            ));
        }
        into.resize(size as usize, 0);
        self.memory.read_exact_at(into, 0).map_err(failed)
    }

    /// Says whether the VM stands by our doing, to who comes after us. Costs a microsecond.
    pub(super) fn mark(&self, held: bool) -> Result<(), GuestError> {
        let written = self.memory.write_all_at(&[u8::from(held)], MARK);
        written.map_err(|e| GuestError::system("marking the state file", e))
    }

    /// QEMU's number for it.
    pub(super) fn set(&self) -> i64 {
        self.set
    }

    pub(super) fn take_back(self, qmp: &mut Qmp) -> Result<(), GuestError> {
        qmp.execute("remove-fd", json!({ "fdset-id": self.set }))
            .map(drop)
    }
}

/// Whether an agent that gave QEMU this file died while the VM stood by its doing. A file that is no such file is not marked.
pub(super) fn is_marked(path: &Path) -> bool {
    let mut mark = [0];
    File::open(path).is_ok_and(|f| f.read_exact_at(&mut mark, MARK).is_ok() && mark == [1])
}
