//! Reads the whole memory of a running process and looks for a marker in it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result};

/// What a search of a process's memory saw.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// How often the marker was there.
    pub hits: usize,
    /// Bytes that could be read.
    pub read: u64,
}

/// Searches every readable mapping of a process.
pub fn search(pid: u32, marker: &[u8]) -> Result<Search> {
    const STEP: usize = 4 * 1024 * 1024;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("the process is gone, or not ours")?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = Search { hits: 0, read: 0 };
    let overlap = marker.len().saturating_sub(1);
    let mut buf = vec![0; STEP + overlap];
    for (start, end) in maps.lines().filter_map(range) {
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(STEP).min(STEP + overlap);
            // Some mappings (vvar) cannot be read at all.
            let Ok(n) = memory.read_at(&mut buf[..want], at) else {
                break;
            };
            if n == 0 {
                break;
            }
            found.hits += count(&buf[..n], marker);
            found.read += n as u64;
            if n <= overlap {
                break;
            }
            // A hit across the seam is counted once: the next step starts with the last bytes, too few for a whole marker.
            at += (n - if at + (n as u64) < end { overlap } else { 0 }) as u64;
        }
    }
    Ok(found)
}

/// How often `needle` is in `hay`.
pub fn count(hay: &[u8], needle: &[u8]) -> usize {
    let Some((&first, rest)) = needle.split_first() else {
        return 0;
    };
    let mut hits = 0;
    let mut at = 0;
    while let Some(i) = find_byte(&hay[at..], first) {
        at += i + 1;
        hits += usize::from(hay[at..].starts_with(rest));
    }
    hits
}

fn find_byte(hay: &[u8], byte: u8) -> Option<usize> {
    hay.iter().position(|&b| b == byte)
}

fn range(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    words.next()?.starts_with('r').then_some(())?;
    Some((
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let marker = format!("marker-{}-{}", std::process::id(), 0xfeed_beef_u32);
        let kept = std::hint::black_box(marker.clone().into_bytes());
        assert!(search(std::process::id(), &kept).unwrap().hits >= 1);
        assert_eq!(count(b"aXbXX", b"X"), 3);
        assert_eq!(count(b"abcabc", b"abc"), 2);
    }
}
