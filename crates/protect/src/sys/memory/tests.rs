use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::memory::Block;

const PAGES: u32 = 64;

/// This process's own memory, as a layout of one block.
fn own(address: u64, pages: u32) -> (Memory, Layout) {
    let size = u64::from(pages) * PAGE as u64;
    let layout = Layout::new(vec![Block {
        name: "own".into(),
        size,
        address,
    }]);
    let process = Process::open(std::process::id()).unwrap();
    (Memory::open(&process, &layout).unwrap(), layout)
}

fn run(first: u32, count: u32) -> PageRun {
    PageRun {
        block: 0,
        first,
        count,
    }
}

/// Maps fresh memory; the kind is what the test is about. Never unmapped: tests are short.
fn fresh(file: Option<&OwnedFd>, private: bool) -> u64 {
    let flags = if private {
        MapFlags::PRIVATE
    } else {
        MapFlags::SHARED
    };
    let length = PAGES as usize * PAGE;
    // SAFETY: the kernel chooses the address.
    let base = unsafe {
        match file {
            Some(file) => mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                file,
                0,
            ),
            None => {
                rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)
            }
        }
    };
    base.unwrap() as u64
}

fn memfd(sealed: bool) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, u64::from(PAGES) * PAGE as u64).unwrap();
    if sealed {
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    }
    file
}

/// Writes, reads, zeroes, and lists pages, of which page 3 to 5 exist in the end.
fn goes_through(memory: &Memory) {
    assert_eq!(memory.populated().unwrap(), []);
    let written: Vec<u8> = (0..4 * PAGE).map(|i| (i % 251) as u8 + 1).collect();
    memory.write(run(3, 4), &written).unwrap();
    assert_eq!(memory.populated().unwrap(), [run(3, 4)]);
    let mut back = vec![0; 4 * PAGE];
    memory.read(run(3, 4), &mut back).unwrap();
    assert!(back == written);
    memory.zero(run(6, 1)).unwrap();
    memory.read(run(3, 4), &mut back).unwrap();
    assert!(back[..3 * PAGE] == written[..3 * PAGE] && is_zero(&back[3 * PAGE..]));
    let outside = memory.read(run(PAGES, 1), &mut back[..PAGE]);
    assert!(matches!(outside, Err(MemoryError::Misfit { .. })));
    assert!(matches!(
        memory.write(run(0, 2), &back[..PAGE]),
        Err(MemoryError::Misfit { .. })
    ));
}

#[test]
fn sealed_memory_is_mapped() {
    let file = memfd(true);
    let (memory, _) = own(fresh(Some(&file), false), PAGES);
    assert!(matches!(memory.blocks[0][0].way, Way::Mapped(_)));
    goes_through(&memory);
    memory.zero(run(0, PAGES)).unwrap();
    assert_eq!(memory.populated().unwrap(), [], "zeroes are holes");
}

#[test]
fn memory_that_may_shrink_is_a_file() {
    let file = memfd(false);
    let (memory, _) = own(fresh(Some(&file), false), PAGES);
    assert!(matches!(memory.blocks[0][0].way, Way::File(_)));
    goes_through(&memory);
    ftruncate(&file, 0).unwrap();
    let gone = memory.read(run(3, 1), &mut [0; PAGE]);
    assert!(
        matches!(gone, Err(MemoryError::Failed { what: "read", .. })),
        "{gone:?}"
    );
}

#[test]
fn private_memory_is_reached_through_the_process() {
    let (memory, _) = own(fresh(None, true), PAGES);
    assert!(matches!(memory.blocks[0][0].way, Way::Remote));
    goes_through(&memory);
    let file = memfd(true);
    rustix::io::pwrite(&file, b"in the file", 0).unwrap();
    let (memory, _) = own(fresh(Some(&file), true), PAGES);
    assert_eq!(memory.populated().unwrap(), [run(0, PAGES)]);
    let mut page = [0; PAGE];
    memory.read(run(0, 1), &mut page).unwrap();
    assert!(page.starts_with(b"in the file"));
}

#[test]
fn anonymous_shared_memory_has_a_file_too() {
    let (memory, _) = own(fresh(None, false), PAGES);
    assert!(matches!(memory.blocks[0][0].way, Way::File(_)));
    goes_through(&memory);
}

#[test]
fn read_only_memory_is_written_all_the_same() {
    let address = fresh(None, true);
    // SAFETY: memory of this test, to which nothing refers.
    unsafe {
        rustix::mm::mprotect(
            address as *mut c_void,
            PAGES as usize * PAGE,
            rustix::mm::MprotectFlags::READ,
        )
    }
    .unwrap();
    goes_through(&own(address, PAGES).0);
}

#[test]
fn a_block_may_lie_in_several_mappings() {
    let address = fresh(None, true);
    // SAFETY: as above.
    unsafe {
        let middle = (address as usize + 5 * PAGE) as *mut c_void;
        rustix::mm::madvise(middle, PAGE, rustix::mm::Advice::LinuxDontFork).unwrap();
    }
    goes_through(&own(address, PAGES).0);
    let file = memfd(true);
    let address = fresh(Some(&file), false);
    // SAFETY: as above.
    unsafe {
        let middle = (address as usize + 4 * PAGE) as *mut c_void;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        mmap(
            middle,
            PAGE,
            rights,
            MapFlags::SHARED | MapFlags::FIXED,
            &file,
            20 * PAGE as u64,
        )
        .unwrap();
    }
    let (memory, _) = own(address, PAGES);
    assert_eq!(memory.blocks[0].len(), 3);
    memory.write(run(3, 3), &[7; 3 * PAGE]).unwrap();
    let mut byte = [0];
    for (page, there) in [(3, 7), (4, 0), (5, 7), (20, 7)] {
        rustix::io::pread(&file, &mut byte, page * PAGE as u64).unwrap();
        assert_eq!(byte[0], there, "page {page} of file {}", file.as_raw_fd());
    }
}

#[test]
fn what_is_missing_is_named() {
    let address = fresh(None, true);
    // SAFETY: memory of this test, to which nothing refers.
    unsafe { munmap((address as usize + 8 * PAGE) as *mut c_void, PAGE) }.unwrap();
    let size = u64::from(PAGES) * PAGE as u64;
    let layout = Layout::new(vec![Block {
        name: "ram0".into(),
        size,
        address,
    }]);
    let process = Process::open(std::process::id()).unwrap();
    let error = Memory::open(&process, &layout).unwrap_err();
    assert!(
        matches!(error, MemoryError::Missing { address: at, .. } if at == address + 8 * PAGE as u64),
        "{error}"
    );
}
