//! `/proc/PID/maps`: which parts of a process's address space are backed by what (proc(5)).

use std::{fs, io};

use super::Process;

/// One mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// First address.
    pub(super) start: u64,
    /// First address behind it.
    pub(super) end: u64,
    /// May be executed.
    pub(super) executable: bool,
    /// Writes are seen by others who map the same file.
    pub(super) shared: bool,
    /// Where in its file it begins, in bytes.
    pub(super) offset: u64,
    /// Device of its file, as text.
    pub(super) device: String,
    /// Inode of its file; 0 for anonymous memory.
    pub(super) inode: u64,
    /// Name of its file, or a name such as `[vdso]`.
    pub(super) name: String,
}

impl Mapping {
    /// Whether `other` goes on where this ends, in memory and in the same file.
    pub(super) fn goes_on_in(&self, other: &Mapping) -> bool {
        let same = self.shared == other.shared && self.inode == other.inode && self.device == other.device;
        let follows = self.inode == 0 || self.offset + (self.end - self.start) == other.offset;
        same && follows && self.end == other.start
    }
}

/// All mappings, in order of their addresses.
pub(super) fn of(process: &Process) -> io::Result<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{}/maps", process.pid()))?;
    text.lines()
        .map(|line| {
            parse(line).ok_or_else(|| io::Error::other(format!("/proc/PID/maps has an odd line: {line}")))
        })
        .collect()
}

fn parse(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (rights, rest) = rest.split_once(' ')?;
    let (offset, rest) = rest.split_once(' ')?;
    let (device, rest) = rest.split_once(' ')?;
    let (inode, name) = rest.split_once(' ').unwrap_or((rest, ""));
    let (start, end) = range.split_once('-')?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        executable: rights.as_bytes().get(2) == Some(&b'x'),
        shared: rights.as_bytes().get(3) == Some(&b's'),
        offset: u64::from_str_radix(offset, 16).ok()?,
        device: device.to_owned(),
        inode: inode.parse().ok()?,
        name: name.trim_start().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let memfd =
            "7f0000000000-7f0010000000 rw-s 00001000 00:01 2050 /memfd:memory-backend-memfd (deleted)";
        let memfd = parse(memfd).unwrap();
        assert_eq!(
            (memfd.start, memfd.end, memfd.offset),
            (0x7f00_0000_0000, 0x7f00_1000_0000, 4096)
        );
        assert!(memfd.shared && !memfd.executable);
        assert_eq!((memfd.inode, &*memfd.device), (2050, "00:01"));
        assert_eq!(memfd.name, "/memfd:memory-backend-memfd (deleted)");
        let plain = parse("7ffe0000-7ffe1000 r-xp 00000000 00:00 0 ").unwrap();
        assert!(plain.executable && !plain.shared && plain.name.is_empty());
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn this_process_has_a_vdso_and_a_stack() {
        let own = of(&Process::open(std::process::id()).unwrap()).unwrap();
        assert!(own.iter().any(|m| m.name == "[vdso]" && m.executable));
        assert!(own.iter().any(|m| m.name == "[stack]" && m.inode == 0));
        assert!(own.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
