//! Asynchronous write protection of another process's memory (userfaultfd, Linux 6.7 and newer) and the scan for what was written
//! since (Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst).

#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::{
    Process,
    inject::{self, InjectError},
};

/// Memory of another process of which the kernel notes what is written. Ends when this is dropped, or this process dies: the other
/// process's memory is then as before.
#[derive(Debug)]
pub(crate) struct WriteWatch {
    uffd: OwnedFd,
    pagemap: File,
    regions: Vec<Region>,
}

/// Why writes cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No userfaultfd could be made in the process.
    #[error(transparent)]
    Inject(#[from] InjectError),
    /// The kernel lacks what is needed.
    #[error(
        "the kernel cannot note writes without faulting (it needs Linux 6.7 or newer with userfaultfd): {0}"
    )]
    Kernel(io::Error),
    /// A part of memory was refused.
    #[error("the kernel does not {what} {start:#x}..{end:#x}: {source}")]
    Region {
        /// `register`, `protect` or `scan`.
        what: &'static str,
        /// First address.
        start: u64,
        /// First address behind it.
        end: u64,
        /// `ResourceBusy`: another program watches it.
        source: io::Error,
    },
}

impl WriteWatch {
    /// Prepares to watch a process. Its memory may be in use.
    pub(crate) fn attach(process: &Process) -> Result<Self, WatchError> {
        let uffd = inject::userfaultfd(process)?;
        let pagemap = File::open(format!("/proc/{}/pagemap", process.pid())).map_err(WatchError::Kernel)?;
        let mut api = Api {
            api: UFFD_API,
            features: FEATURES,
            ioctls: 0,
        };
        control(&uffd, UFFDIO_API, &mut api).map_err(WatchError::Kernel)?;
        Ok(Self {
            uffd,
            pagemap,
            regions: vec![Region::default(); REGIONS],
        })
    }

    /// Begins to watch a range of whole pages: from now on everything written there is noted.
    pub(crate) fn watch(&self, range: Range<u64>) -> Result<(), WatchError> {
        let mut register = Register {
            range: Span::from(&range),
            mode: REGISTER_WRITE_PROTECT,
            ioctls: 0,
        };
        control(&self.uffd, UFFDIO_REGISTER, &mut register).map_err(failed("register", &range))?;
        // In steps, so that the process does not wait for its address space at a stretch.
        for start in range.clone().step_by(STEP) {
            let part = start..range.end.min(start + STEP as u64);
            let mut protect = Protect {
                range: Span::from(&part),
                mode: WRITE_PROTECT,
            };
            while let Err(e) = control(&self.uffd, UFFDIO_WRITEPROTECT, &mut protect) {
                if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    return Err(failed("protect", &part)(e));
                }
            }
        }
        Ok(())
    }

    /// Names what was written in a watched range, in order, as address ranges. With `anew` it is watched from its present state on,
    /// else it stays noted.
    pub(crate) fn written(
        &mut self,
        range: Range<u64>,
        anew: bool,
        mut each: impl FnMut(Range<u64>),
    ) -> Result<(), WatchError> {
        let mut at = range.start;
        while at < range.end {
            // These masks, and no others, take the kernel's short way, which also names discarded pages.
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: SCAN_CHECK_ASYNC | if anew { SCAN_PROTECT } else { 0 },
                start: at,
                end: range.end,
                walk_end: 0,
                vec: self.regions.as_mut_ptr() as u64,
                vec_len: self.regions.len() as u64,
                max_pages: 0,
                category_inverted: 0,
                category_mask: PAGE_IS_WRITTEN,
                category_anyof_mask: 0,
                return_mask: PAGE_IS_WRITTEN,
            };
            let count = match control(&self.pagemap, PAGEMAP_SCAN, &mut scan) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed("scan", &range)(e)),
            };
            for region in &self.regions[..count] {
                each(region.start..region.end);
            }
            at = scan.walk_end;
        }
        Ok(())
    }
}

fn failed(what: &'static str, range: &Range<u64>) -> impl FnOnce(io::Error) -> WatchError {
    let (start, end) = (range.start, range.end);
    move |source| WatchError::Region {
        what,
        start,
        end,
        source,
    }
}

/// An ioctl whose argument is read and written by the kernel; returns its result.
fn control<T: Argument>(fd: &impl AsFd, request: libc::c_ulong, argument: &mut T) -> io::Result<usize> {
    // SAFETY: each request below is passed with the structure that it names, as the kernel defines it; the only address within one
    // is that of `Scan::vec`, which points at `vec_len` regions that are not otherwise used during the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Structures that requests take (linux/userfaultfd.h, linux/fs.h).
trait Argument {}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Span {
    start: u64,
    length: u64,
}

impl From<&Range<u64>> for Span {
    fn from(range: &Range<u64>) -> Self {
        Self {
            start: range.start,
            length: range.end - range.start,
        }
    }
}

#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Protect {
    range: Span,
    mode: u64,
}

#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// What a scan names: `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

impl Argument for Api {}
impl Argument for Register {}
impl Argument for Protect {}
impl Argument for Scan {}

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// Write protection with: its flag in faults, shared memory and huge pages, pages that do not exist yet, and no waiting for us.
const FEATURES: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 15;
const REGISTER_WRITE_PROTECT: u64 = 1 << 1;
const WRITE_PROTECT: u64 = 1;
const SCAN_PROTECT: u64 = 1;
const SCAN_CHECK_ASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// Regions that a scan names at a time: 768 KiB.
const REGIONS: usize = 1 << 15;

/// Bytes protected at a time; a multiple of every size of huge page up to this.
const STEP: usize = 1 << 30;

#[cfg(test)]
mod tests;
