//! The guest's disk, past its page cache: every transfer goes to the device before it is called done.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
};

const O_DIRECT: i32 = 0o40000;

/// Bytes at whose multiples the memory of direct transfers starts.
pub(crate) const ALIGN: usize = 4096;

/// A block device opened with `O_DIRECT`.
pub(crate) struct Disk {
    file: File,
    size: u64,
}

impl Disk {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .custom_flags(O_DIRECT)
            .open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, size })
    }

    /// Bytes on it.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads into aligned memory. Length and place are multiples of a sector.
    pub(crate) fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    /// Writes from aligned memory. Length and place are multiples of a sector.
    pub(crate) fn write(&self, from: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(from, at)
    }

    /// Returns when the device's own cache is on its medium.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Memory that starts at a multiple of [`ALIGN`].
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, start, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}
