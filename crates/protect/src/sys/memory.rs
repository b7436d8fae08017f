//! Reading and writing a guest's RAM from outside its QEMU process.
//!
//! Shared memory (memfd) that is sealed against shrinking is mapped here too; other shared files are read and written as files,
//! because a file that shrinks would kill us; everything else goes through `process_vm_readv` and `process_vm_writev`, and, where
//! those may not (read-only mappings), through `/proc/PID/mem`.

#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::unix::fs::FileExt,
    ptr,
};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use rustix::{
    fs::{FallocateFlags, SealFlags, SeekFrom, fallocate, fcntl_get_seals, seek},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::{
    Process, append, is_zero,
    maps::{self, Mapping},
};
use crate::memory::{Layout, PAGE, PageRun};

/// The RAM blocks of a QEMU process. May be used from many threads; what is read while the guest runs or another thread writes
/// is any mixture of old and new.
#[derive(Debug)]
pub struct Memory {
    process: Process,
    odd: File,
    pagemap: File,
    layout: Layout,
    blocks: Vec<Vec<Piece>>,
}

/// Why a guest's memory could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The process has died.
    #[error("the QEMU process {pid} has died")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// The caller may not look into the process, or something in `/proc` is not as expected.
    #[error(
        "cannot look into process {pid}: {source}; the agent needs root, or CAP_SYS_PTRACE and CAP_SYS_ADMIN"
    )]
    Closed {
        /// Its number.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A block of the layout is not where it should be.
    #[error("RAM block `{block}` should be at {address:#x}, but process {pid} has no memory there")]
    Missing {
        /// Name of the block.
        block: String,
        /// Where in it memory is missing.
        address: u64,
        /// The process.
        pid: u32,
    },
    /// The run lies outside the layout, or the caller's buffer has another size than the run. A mistake of the caller.
    #[error("{run:?} with a buffer of {buffer} bytes does not fit the layout")]
    Misfit {
        /// What was asked for.
        run: PageRun,
        /// Bytes in the caller's buffer.
        buffer: usize,
    },
    /// Pages could not be read or written.
    #[error("cannot {what} RAM block `{block}` of process {pid}: {source}")]
    Failed {
        /// `read`, `write`, `zero` or `list`.
        what: &'static str,
        /// Name of the block.
        block: String,
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Memory {
    /// Finds the blocks in the process.
    pub fn open(process: &Process, layout: &Layout) -> Result<Self, MemoryError> {
        let pid = process.pid();
        let closed = |source| MemoryError::Closed { pid, source };
        let mem = format!("/proc/{pid}/mem");
        let odd = OpenOptions::new()
            .read(true)
            .write(true)
            .open(mem)
            .map_err(closed)?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(closed)?;
        let mappings = maps::of(process).map_err(closed)?;
        let blocks = layout.blocks().iter().map(|block| {
            pieces(pid, &mappings, block.address, block.size).map_err(|address| MemoryError::Missing {
                block: block.name.clone(),
                address,
                pid,
            })
        });
        let blocks = blocks.collect::<Result<_, _>>()?;
        // What was opened by number above was this process if it lives now.
        if !process.is_alive() {
            return Err(MemoryError::Gone { pid });
        }
        Ok(Self {
            process: process.clone(),
            odd,
            pagemap,
            layout: layout.clone(),
            blocks,
        })
    }

    /// The layout that it was opened with.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Reads a run; `into` has the run's size. A hole of a mapped block that is read exists from then on: ask
    /// [`populated`](Self::populated) before reading everything.
    pub fn read(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.check(run, into.len())?;
        let mut rest = into;
        for (piece, offset, length) in self.parts(run) {
            let (now, later) = rest.split_at_mut(length);
            rest = later;
            let done = match &piece.way {
                // SAFETY: `parts` keeps to the piece, which is as long as its mapping; the mapping lives as long as `self`, and
                // `now` is ours alone. Others may write there meanwhile, as they may to any shared memory: the bytes are copied by
                // `memcpy` from a raw pointer, no reference to them is made.
                Way::Mapped(map) => unsafe {
                    ptr::copy_nonoverlapping(map.at(offset), now.as_mut_ptr(), length);
                    Ok(())
                },
                Way::File(file) => file.read_exact_at(now, piece.in_file + offset),
                Way::Remote => self.read_remote(piece.address + offset, now),
            };
            done.map_err(|e| self.failed("read", run, e))?;
        }
        Ok(())
    }

    /// Writes a run; `from` has the run's size.
    pub fn write(&self, run: PageRun, from: &[u8]) -> Result<(), MemoryError> {
        self.check(run, from.len())?;
        let mut rest = from;
        for (piece, offset, length) in self.parts(run) {
            let (now, later) = rest.split_at(length);
            rest = later;
            let done = match &piece.way {
                // SAFETY: as in `read`; `now` cannot overlap the mapping, because no reference into it ever leaves this module.
                Way::Mapped(map) => unsafe {
                    ptr::copy_nonoverlapping(now.as_ptr(), map.at(offset), length);
                    Ok(())
                },
                Way::File(file) => file.write_all_at(now, piece.in_file + offset),
                Way::Remote => self.write_remote(piece.address + offset, now),
            };
            done.map_err(|e| self.failed("write", run, e))?;
        }
        Ok(())
    }

    /// Makes a run zero. Gives shared memory back to the host, and makes no page exist that did not.
    pub fn zero(&self, run: PageRun) -> Result<(), MemoryError> {
        self.check(run, run.bytes())?;
        for (piece, offset, length) in self.parts(run) {
            let done = match &piece.way {
                Way::Mapped(Map { file, .. }) | Way::File(file) => {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    let punched = fallocate(file, mode, piece.in_file + offset, length as u64);
                    punched.or_else(|_| self.write_remote(piece.address + offset, &vec![0; length]))
                }
                Way::Remote => self.zero_remote(piece.address + offset, length),
            };
            done.map_err(|e| self.failed("zero", run, e))?;
        }
        Ok(())
    }

    /// The pages that exist, in order, without making others exist. All others read as zero. Some of those named may be zero too.
    pub fn populated(&self) -> Result<Vec<PageRun>, MemoryError> {
        let mut runs = Vec::new();
        for (block, pieces) in self.blocks.iter().enumerate() {
            for piece in pieces {
                let whole = PageRun {
                    block: block as u16,
                    first: (piece.start / PAGE as u64) as u32,
                    count: (piece.length / PAGE as u64) as u32,
                };
                let done = match &piece.way {
                    Way::Mapped(Map { file, .. }) | Way::File(file) => data(file, piece, whole, &mut runs),
                    Way::Remote if piece.private_file => {
                        append(&mut runs, whole);
                        Ok(())
                    }
                    Way::Remote => present(&self.pagemap, piece.address, whole, &mut runs),
                };
                done.map_err(|e| self.failed("list", whole, e))?;
            }
        }
        Ok(runs)
    }

    fn check(&self, run: PageRun, buffer: usize) -> Result<(), MemoryError> {
        if self.layout.holds(run) && run.bytes() == buffer {
            return Ok(());
        }
        Err(MemoryError::Misfit { run, buffer })
    }

    /// The pieces that a run in the layout covers, each with the offset in it and the length, in bytes.
    fn parts(&self, run: PageRun) -> impl Iterator<Item = (&Piece, u64, usize)> {
        let (start, end) = (run.offset(), run.offset() + run.bytes() as u64);
        let pieces = self.blocks[usize::from(run.block)].iter();
        pieces.filter_map(move |piece| {
            let from = start.max(piece.start);
            let to = end.min(piece.start + piece.length);
            (from < to).then(|| (piece, from - piece.start, (to - from) as usize))
        })
    }

    fn read_remote(&self, address: u64, mut into: &mut [u8]) -> io::Result<()> {
        let mut at = address;
        while !into.is_empty() {
            let remote = [RemoteIoVec {
                base: at as usize,
                len: into.len(),
            }];
            match process_vm_readv(self.pid(), &mut [IoSliceMut::new(into)], &remote) {
                Ok(done) if done > 0 => {
                    at += done as u64;
                    into = &mut into[done..];
                }
                Ok(_) | Err(nix::Error::EFAULT) => {
                    self.odd.read_exact_at(into, at)?;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        // A number that was used anew would have been read from: ours lives, so it was ours.
        if self.process.is_alive() {
            Ok(())
        } else {
            Err(nix::Error::ESRCH.into())
        }
    }

    fn write_remote(&self, address: u64, mut from: &[u8]) -> io::Result<()> {
        let mut at = address;
        while !from.is_empty() {
            if !self.process.is_alive() {
                return Err(nix::Error::ESRCH.into());
            }
            let remote = [RemoteIoVec {
                base: at as usize,
                len: from.len(),
            }];
            match process_vm_writev(self.pid(), &[IoSlice::new(from)], &remote) {
                Ok(done) if done > 0 => {
                    at += done as u64;
                    from = &from[done..];
                }
                Ok(_) | Err(nix::Error::EFAULT) => return self.odd.write_all_at(from, at),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn zero_remote(&self, address: u64, length: usize) -> io::Result<()> {
        let mut page = [0; PAGE];
        for at in (address..address + length as u64).step_by(PAGE) {
            self.read_remote(at, &mut page)?;
            if !is_zero(&page) {
                self.write_remote(at, &[0; PAGE])?;
            }
        }
        Ok(())
    }

    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.process.pid() as i32)
    }

    fn failed(&self, what: &'static str, run: PageRun, source: io::Error) -> MemoryError {
        let pid = self.process.pid();
        if !self.process.is_alive() {
            return MemoryError::Gone { pid };
        }
        let block = self.layout.blocks()[usize::from(run.block)].name.clone();
        MemoryError::Failed {
            what,
            block,
            pid,
            source,
        }
    }
}

/// A part of a block that is reached in one way.
#[derive(Debug)]
struct Piece {
    /// Where in its block it begins, and how long it is, in bytes.
    start: u64,
    length: u64,
    /// Where it begins in the process.
    address: u64,
    /// Where it begins in its file.
    in_file: u64,
    /// A private mapping of a file: pages that the process has not got are in the file.
    private_file: bool,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Mapped(Map),
    File(File),
    Remote,
}

/// Memory of another process in our address space, for as long as this lives.
#[derive(Debug)]
struct Map {
    base: *mut c_void,
    length: usize,
    file: File,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached by raw copies.
unsafe impl Send for Map {}
// SAFETY: as above; concurrent copies may tear, which `Memory` documents, and no references are made.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: File, offset: u64, length: u64) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else uses.
        let base = unsafe { mmap(ptr::null_mut(), length, rights, MapFlags::SHARED, &file, offset)? };
        Ok(Self { base, length, file })
    }

    /// Address of a byte; `offset` is within the mapping.
    fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.length as u64);
        self.base.cast::<u8>().wrapping_add(offset as usize)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are those of our own mapping, and nothing refers to it after this. An error leaves it mapped.
        let _ = unsafe { munmap(self.base, self.length) };
    }
}

/// The ways to a block. The error is the first address without memory.
fn pieces(pid: u32, mappings: &[Mapping], address: u64, size: u64) -> Result<Vec<Piece>, u64> {
    let (mut at, end) = (address, address + size);
    let mut found = Vec::new();
    let first = mappings.partition_point(|m| m.end <= address);
    let mut rest = mappings[first..].iter().peekable();
    while at < end {
        let mapping = rest.next().filter(|m| m.start <= at && at < m.end).ok_or(at)?;
        let mut last = mapping;
        while let Some(next) = rest.next_if(|next| last.end < end && last.goes_on_in(next)) {
            last = next;
        }
        let length = end.min(last.end) - at;
        let in_file = mapping.offset + (at - mapping.start);
        found.push(Piece {
            start: at - address,
            length,
            address: at,
            in_file,
            private_file: !mapping.shared && mapping.inode != 0,
            way: way(pid, mapping, in_file, length),
        });
        at += length;
    }
    Ok(found)
}

/// The best way to memory in this mapping.
fn way(pid: u32, mapping: &Mapping, in_file: u64, length: u64) -> Way {
    if !mapping.shared {
        return Way::Remote;
    }
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
        return Way::Remote;
    };
    let keeps_size = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    let there = file.metadata().is_ok_and(|m| m.len() >= in_file + length);
    if !keeps_size || !there {
        return if there { Way::File(file) } else { Way::Remote };
    }
    match file.try_clone().and_then(|copy| Map::new(copy, in_file, length)) {
        Ok(map) => Way::Mapped(map),
        Err(_) => Way::File(file),
    }
}

/// Adds the pages of a piece that its file has.
fn data(file: &File, piece: &Piece, whole: PageRun, runs: &mut Vec<PageRun>) -> io::Result<()> {
    let end = piece.in_file + piece.length;
    let mut at = piece.in_file;
    while at < end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        if start >= end {
            break;
        }
        let stop = seek(file, SeekFrom::Hole(start))?.min(end);
        let page = |byte: u64| ((byte - piece.in_file) / PAGE as u64) as u32;
        let (first, behind) = (page(start), page(stop + PAGE as u64 - 1).min(whole.count));
        append(
            runs,
            PageRun {
                block: whole.block,
                first: whole.first + first,
                count: behind - first,
            },
        );
        at = stop;
    }
    Ok(())
}

/// Adds the pages of anonymous memory that the process has, in RAM or swapped out (Documentation/admin-guide/mm/pagemap.rst).
fn present(pagemap: &File, address: u64, whole: PageRun, runs: &mut Vec<PageRun>) -> io::Result<()> {
    let mut entries = vec![0; (whole.count as usize).min(PAGEMAP_BATCH) * 8];
    let mut done = 0;
    while done < whole.count {
        let now = (whole.count - done).min(PAGEMAP_BATCH as u32);
        let bytes = &mut entries[..now as usize * 8];
        pagemap.read_exact_at(bytes, (address / PAGE as u64 + u64::from(done)) * 8)?;
        for (i, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
            if exists(u64::from_ne_bytes(*entry)) {
                append(
                    runs,
                    PageRun {
                        block: whole.block,
                        first: whole.first + done + i as u32,
                        count: 1,
                    },
                );
            }
        }
        done += now;
    }
    Ok(())
}

/// Whether a pagemap entry is of a page: present (bit 63), or swapped (bit 62) to anything but the kernel's last swap type, by which
/// it marks a hole that a tracker has armed.
fn exists(entry: u64) -> bool {
    let (present, swapped) = (entry >> 63 == 1, entry >> 62 & 1 == 1);
    present || swapped && entry & 0x1f != 0x1f
}

/// Pagemap entries read at a time.
const PAGEMAP_BATCH: usize = 1 << 16;

#[cfg(test)]
mod tests;
