//! What a session on the standby fills: the memory of the QEMU that waits, and the buffers before its disks.

use std::{path::Path, sync::Arc, time::Duration};

use hawser_proto::protection::Offer;

use super::plan::Places;
use crate::{
    disk::{Buffer, DiskError, Options},
    memory::PageRun,
    pipe::{Fault, Target},
    sys::Memory,
};

/// Longest wait for committed disk writes to be in the replica's file, at a take-over.
const FLUSH: Duration = Duration::from_secs(60);

/// The disks' buffers by disk number; none for read-only ones.
pub(super) struct Disks(Vec<Option<Buffer>>);

impl Disks {
    /// Makes the replicas, each of its disk's size.
    pub(super) fn open(offer: &Offer, places: &Places, spill: &Path) -> Result<Self, DiskError> {
        let open = |(disk, path): (
            &hawser_proto::protection::OfferedDisk,
            &Option<std::path::PathBuf>,
        )| {
            path.as_deref()
                .map(|path| Buffer::open(path, disk.size, Options::new(spill)))
                .transpose()
        };
        let buffers: Result<_, _> = offer.disks.iter().zip(&places.replicas).map(open).collect();
        Ok(Self(buffers?))
    }

    /// Lets writes up to the epoch's barrier go to the disks. Does not wait.
    pub(super) fn commit(&self, epoch: u64) -> Result<(), DiskError> {
        self.each().try_for_each(|b| b.commit(epoch))
    }

    /// Forgets what came after the last committed epoch; everything before it is in the files when this returns.
    pub(super) fn take_over(&self) -> Result<(), DiskError> {
        self.each().try_for_each(|b| b.take_over(FLUSH).map(drop))
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.each()
            .map(|b| {
                let stats = b.stats();
                stats.buffered + stats.spilled
            })
            .sum()
    }

    fn each(&self) -> impl Iterator<Item = &Buffer> {
        self.0.iter().flatten()
    }

    fn at(&self, disk: u16) -> Result<&Buffer, Fault> {
        let buffer = self.0.get(usize::from(disk)).and_then(Option::as_ref);
        buffer.ok_or_else(|| format!("disk {disk} was not offered as one that the guest writes").into())
    }
}

/// Takes what comes in before it is part of an epoch.
pub(super) struct Filling {
    pub(super) memory: Arc<Memory>,
    pub(super) disks: Arc<Disks>,
}

impl Target for Filling {
    fn pages(&mut self, run: PageRun, data: &[u8]) -> Result<(), Fault> {
        Ok(self.memory.write(run, data)?)
    }

    fn zero_pages(&mut self, run: PageRun) -> Result<(), Fault> {
        Ok(self.memory.zero(run)?)
    }

    fn disk_write(&mut self, disk: u16, offset: u64, data: &[u8]) -> Result<(), Fault> {
        Ok(self.disks.at(disk)?.write(offset, data)?)
    }

    fn disk_zeroes(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), Fault> {
        Ok(self.disks.at(disk)?.zeroes(offset, len)?)
    }

    fn disk_discard(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), Fault> {
        Ok(self.disks.at(disk)?.discard(offset, len)?)
    }

    fn barrier(&mut self, epoch: u64) -> Result<(), Fault> {
        Ok(self.disks.each().try_for_each(|b| b.barrier(epoch))?)
    }
}

/// Before anything waits here, nothing can be taken.
pub(super) struct Nothing;

impl Nothing {
    fn refuse<T>() -> Result<T, Fault> {
        Err("pages or disk writes came before the machine's twin waits".into())
    }
}

impl Target for Nothing {
    fn pages(&mut self, _: PageRun, _: &[u8]) -> Result<(), Fault> {
        Self::refuse()
    }

    fn zero_pages(&mut self, _: PageRun) -> Result<(), Fault> {
        Self::refuse()
    }

    fn disk_write(&mut self, _: u16, _: u64, _: &[u8]) -> Result<(), Fault> {
        Self::refuse()
    }

    fn disk_zeroes(&mut self, _: u16, _: u64, _: u64) -> Result<(), Fault> {
        Self::refuse()
    }

    fn disk_discard(&mut self, _: u16, _: u64, _: u64) -> Result<(), Fault> {
        Self::refuse()
    }

    fn barrier(&mut self, _: u64) -> Result<(), Fault> {
        Self::refuse()
    }
}
