//! The only unsafe code of this crate: memory of another process, userfaultfd, pagemap scans, ptrace. Each unsafe block says why
//! it is sound. Imports [`crate::memory`] and nothing else of ours. Linux on x86-64.

mod inject;
mod maps;
mod memory;
mod process;
mod userfault;

pub use inject::InjectError;
pub use memory::{Memory, MemoryError};
pub use process::Process;
pub use userfault::WatchError;
pub(crate) use userfault::WriteWatch;

use crate::memory::PageRun;

/// Whether all bytes are zero. Quick on pages: the first bytes decide most of the others.
pub fn is_zero(page: &[u8]) -> bool {
    // Comparing a slice with itself, shifted by eight bytes, is one `memcmp`.
    let Some((head, _)) = page.split_first_chunk::<8>() else {
        return page.iter().all(|b| *b == 0);
    };
    *head == [0; 8] && page[..page.len() - 8] == page[8..]
}

/// Adds a run behind the others, as part of the last one where it follows it.
pub(crate) fn append(runs: &mut Vec<PageRun>, run: PageRun) {
    if run.count == 0 {
        return;
    }
    match runs.last_mut() {
        Some(last) if last.block == run.block && last.first + last.count == run.first => {
            last.count += run.count
        }
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_zero_only_in_every_byte() {
        for size in [0, 1, 7, 8, 9, 4096] {
            let mut page = vec![0; size];
            assert!(is_zero(&page));
            for at in 0..size {
                page[at] = 1;
                assert!(!is_zero(&page), "byte {at} of {size}");
                page[at] = 0;
            }
        }
    }

    #[test]
    fn runs_that_touch_are_one() {
        let mut runs = Vec::new();
        for (block, first, count) in [(0, 1, 2), (0, 3, 1), (0, 5, 0), (1, 4, 1), (1, 6, 1)] {
            append(&mut runs, PageRun { block, first, count });
        }
        let seen: Vec<_> = runs.iter().map(|r| (r.block, r.first, r.count)).collect();
        assert_eq!(seen, [(0, 1, 3), (1, 4, 1), (1, 6, 1)]);
    }
}
