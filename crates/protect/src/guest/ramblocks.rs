//! Where a QEMU keeps its guest's RAM. From version 8 `info ramblock` says so. Before, its own list of blocks is found in its
//! heap: each entry holds the name, next to offset and sizes that `info ramblock` does say, and the address. Whatever is found
//! must be the start of a mapping that is long enough.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::error::GuestError;
use crate::memory::{Block, Layout, PAGE};

/// Bytes of QEMU's own memory searched at most: its heap is some 20 MB.
const MAX_SEARCH: u64 = 1 << 30;
/// Bytes searched at once.
const CHUNK: usize = 4 << 20;
/// Where in QEMU's `struct RAMBlock` the name begins, behind `offset`: sizes, a function, flags.
const NAME_BEHIND_OFFSET: std::ops::RangeInclusive<usize> = 24..=72;
/// Longest name, with its end.
const NAME_SIZE: usize = 256;

/// A line of `info ramblock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    offset: u64,
    pub(super) used: u64,
    total: u64,
    address: Option<u64>,
}

/// Reads the table. Names may hold blanks, so columns are counted from the right.
pub(super) fn parse(table: &str) -> Result<Vec<Line>, GuestError> {
    let mut lines = table.lines().map(str::trim).filter(|l| !l.is_empty());
    let head = lines.next().unwrap_or_default();
    let addressed = head.contains("HVA");
    if !head.starts_with("Block Name") {
        return Err(GuestError::protocol("info ramblock", table));
    }
    lines
        .map(|line| parse_line(line, addressed).ok_or_else(|| GuestError::protocol("info ramblock", line)))
        .collect()
}

fn parse_line(line: &str, addressed: bool) -> Option<Line> {
    let mut fields = line.split_whitespace().rev();
    let address = if addressed {
        fields.next()?;
        Some(hex(fields.next()?)?)
    } else {
        None
    };
    let (total, used, offset) = (hex(fields.next()?)?, hex(fields.next()?)?, hex(fields.next()?)?);
    // Page size: a number and its unit.
    fields.next()?;
    fields.next()?;
    let name = fields.rev().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(Line {
        name,
        offset,
        used,
        total,
        address,
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Finds every block in the process, and checks that it is mapped there.
pub(super) fn locate(lines: &[Line], pid: u32) -> Result<Layout, GuestError> {
    let maps = Maps::read(pid).map_err(|e| GuestError::system("reading the memory map of QEMU", e))?;
    let searched: Vec<Option<u64>> = if lines.iter().all(|l| l.address.is_some()) {
        lines.iter().map(|l| l.address).collect()
    } else {
        search(lines, pid, &maps).map_err(|e| GuestError::system("reading the memory of QEMU", e))?
    };
    let blocks = lines.iter().zip(searched).map(|(line, address)| {
        let address = address.filter(|a| maps.covers(*a, line.used)).ok_or_else(|| GuestError::Unfit {
            what: format!("the RAM block {} was not found in process {pid}", line.name),
            advice: "the process at the other end of the QMP socket must be QEMU itself, one of Debian's or built alike".into(),
        })?;
        if !line.used.is_multiple_of(PAGE as u64) {
            return Err(GuestError::protocol("info ramblock", format!("{}: {} bytes are no whole pages", line.name, line.used)));
        }
        Ok(Block { name: line.name.clone(), size: line.used, address })
    });
    Ok(Layout::new(blocks.collect::<Result<_, _>>()?))
}

/// Looks for the entries of QEMU's list. A block found at two addresses is not found.
fn search(lines: &[Line], pid: u32, maps: &Maps) -> io::Result<Vec<Option<u64>>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found: Vec<Vec<u64>> = vec![Vec::new(); lines.len()];
    let (heap, rest): (Vec<&Mapping>, Vec<&Mapping>) = maps.private().partition(|m| m.heap);
    let mut left = MAX_SEARCH;
    for mapping in heap.into_iter().chain(rest) {
        if found.iter().all(|f| !f.is_empty()) {
            break;
        }
        let size = (mapping.end - mapping.start).min(left);
        left -= size;
        search_mapping(&memory, mapping.start, size, lines, maps, &mut found);
    }
    Ok(found
        .into_iter()
        .map(|f| if let [one] = f[..] { Some(one) } else { None })
        .collect())
}

fn search_mapping(memory: &File, start: u64, size: u64, lines: &[Line], maps: &Maps, found: &mut [Vec<u64>]) {
    let overlap = NAME_SIZE + 128;
    let mut buffer = vec![0; CHUNK + overlap];
    let mut at = 0;
    while at < size {
        let want = buffer.len().min((size - at) as usize);
        // Parts that cannot be read hold no list.
        let Some(part) = buffer.get_mut(..want) else {
            return;
        };
        if memory.read_exact_at(part, start + at).is_ok() {
            search_bytes(part, lines, maps, found);
        }
        at += CHUNK as u64;
    }
}

fn search_bytes(bytes: &[u8], lines: &[Line], maps: &Maps, found: &mut [Vec<u64>]) {
    let word = |at: usize| {
        bytes
            .get(at..)?
            .first_chunk::<8>()
            .map(|b| u64::from_le_bytes(*b))
    };
    for at in (16..bytes.len()).step_by(8) {
        let Some(offset) = word(at) else { return };
        for (line, found) in lines.iter().zip(found.iter_mut()) {
            if line.offset != offset || word(at + 8) != Some(line.used) || word(at + 16) != Some(line.total) {
                continue;
            }
            let named = NAME_BEHIND_OFFSET.clone().step_by(4).any(|gap| {
                let name = bytes.get(at + gap..).unwrap_or_default();
                name.starts_with(line.name.as_bytes()) && name.get(line.name.len()) == Some(&0)
            });
            // In front of the offset: the address, then that of COLO's copy, which is not in use.
            let address = word(at - 16).filter(|a| maps.covers(*a, line.total) && word(at - 8) == Some(0));
            if let (true, Some(address)) = (named, address)
                && !found.contains(&address)
            {
                found.push(address);
            }
        }
    }
}

#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    shared: bool,
    anonymous: bool,
    heap: bool,
}

/// `/proc/PID/maps`.
#[derive(Debug)]
struct Maps(Vec<Mapping>);

impl Maps {
    fn read(pid: u32) -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string(format!(
            "/proc/{pid}/maps"
        ))?))
    }

    fn parse(text: &str) -> Self {
        let mapping = |line: &str| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let flags = fields.next()?.as_bytes();
            let file = fields.nth(3).unwrap_or_default();
            Some(Mapping {
                start: u64::from_str_radix(start, 16).ok()?,
                end: u64::from_str_radix(end, 16).ok()?,
                readable: flags.first() == Some(&b'r'),
                writable: flags.get(1) == Some(&b'w'),
                shared: flags.get(3) == Some(&b's'),
                anonymous: file.is_empty() || file.starts_with('['),
                heap: file == "[heap]",
            })
        };
        Self(text.lines().filter_map(mapping).collect())
    }

    /// Whether all these bytes are mapped and can be read.
    fn covers(&self, address: u64, size: u64) -> bool {
        let Some(end) = address.checked_add(size) else {
            return false;
        };
        let mut reached = address;
        for mapping in self.0.iter().filter(|m| m.readable) {
            if mapping.start <= reached && reached < mapping.end {
                reached = mapping.end;
            }
        }
        address != 0 && size != 0 && address.is_multiple_of(PAGE as u64) && reached >= end
    }

    /// Memory that a heap can be in.
    fn private(&self) -> impl Iterator<Item = &Mapping> {
        self.0
            .iter()
            .filter(|m| m.readable && m.writable && !m.shared && m.anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "              Block Name    PSize              Offset               Used              Total\r\n                    ram0    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000\r\n    /rom@etc/acpi/tables    4 KiB  0x0000000011100000 0x0000000000020000 0x0000000000200000\r\n";
    const NEW: &str = "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n                    ram0    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f9ecbfff000  rw\r\n";

    #[test]
    fn both_tables_are_understood() {
        let old = parse(OLD).unwrap();
        assert_eq!(old.len(), 2);
        assert_eq!(
            (old[1].name.as_str(), old[1].used, old[1].total),
            ("/rom@etc/acpi/tables", 0x20000, 0x200000)
        );
        assert_eq!(old[0].address, None);
        assert_eq!(parse(NEW).unwrap()[0].address, Some(0x7f9ecbfff000));
        assert!(parse("unknown command: 'info ramblock'").is_err());
        assert!(parse("Block Name\nram0 4 KiB 1 2 3\n").is_err());
    }

    #[test]
    fn a_block_must_lie_in_readable_mappings() {
        let maps = Maps::parse(
            "1000-3000 rw-p 00000000 00:00 0 [heap]\n3000-4000 r--p 00000000 00:00 0\n4000-5000 ---p 00000000 00:00 0\n6000-7000 rw-s 00000000 00:01 184 /memfd:x (deleted)\n",
        );
        assert!(maps.covers(0x1000, 0x3000));
        assert!(maps.covers(0x6000, 0x1000));
        assert!(!maps.covers(0x1000, 0x3001));
        assert!(!maps.covers(0x5000, 1));
        assert!(!maps.covers(0x6000, u64::MAX));
        assert_eq!(maps.private().count(), 1);
    }

    #[test]
    fn the_search_finds_what_newer_versions_say() {
        for version in hawser_testkit::vm::Version::all().unwrap() {
            let spec = hawser_testkit::vm::Spec::new(&version).with_user_network();
            let machine = hawser_testkit::vm::Machine::start(&hawser_testkit::vm::here(), &spec).unwrap();
            let mut qmp =
                super::super::Qmp::connect(&machine.qmp(), super::super::Timeouts::default()).unwrap();
            // Firmware resizes blocks while it starts: all is looked at again, as the driver does.
            let (told, found) = hawser_testkit::wait::until(hawser_testkit::wait::SOON, "all blocks", || {
                let said = parse(&qmp.hmp("info ramblock")?)?;
                let silent: Vec<_> = said
                    .iter()
                    .cloned()
                    .map(|line| Line {
                        address: None,
                        ..line
                    })
                    .collect();
                Ok(locate(&said, machine.pid())
                    .ok()
                    .zip(locate(&silent, machine.pid()).ok()))
            })
            .unwrap();
            assert!(found.blocks().len() > 4);
            assert_eq!(found, told, "{version}");
        }
    }
}
