//! The guest's log, read from the image of its disk.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use hawser_guest::log::{Record, SLOT, Unreadable, slots};

/// What an image's log holds.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The records from the first on, without a gap: number N is at N - 1.
    pub records: Vec<Record>,
    /// Slots behind the first that is no record, which still hold something: writes that were under way when the machine died.
    pub strays: usize,
}

impl Log {
    /// Reads a raw image. Nobody may be writing to it.
    pub fn read(image: &Path) -> Result<Self> {
        let file = File::open(image).with_context(|| format!("no disk image {}", image.display()))?;
        let slots = slots(file.metadata()?.len());
        let mut file = BufReader::with_capacity(1 << 20, file);
        let (mut log, mut slot, mut whole) = (Self::default(), [0; SLOT], true);
        for _ in 0..slots {
            file.read_exact(&mut slot)?;
            match Record::decode(&slot) {
                Ok(record) if whole && record.sequence == log.records.len() as u64 + 1 => {
                    log.records.push(record);
                }
                Err(Unreadable::Empty) => whole = false,
                _ => {
                    whole = false;
                    log.strays += 1;
                }
            }
        }
        Ok(log)
    }

    /// That this log begins with all that the other one holds: a replica's log may be longer or shorter, never different.
    pub fn agrees_with(&self, other: &Self) -> Result<()> {
        for (own, theirs) in self.records.iter().zip(&other.records) {
            ensure!(
                own == theirs,
                "two logs differ at {}: {own:?} and {theirs:?}",
                own.sequence
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            key: "k".into(),
            value: sequence.to_string(),
        }
    }

    #[test]
    fn ends_at_the_first_gap_and_counts_what_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let put = |slot: u64, record: Record| {
            file.write_all_at(&record.encode().unwrap(), (slot - 1) * SLOT as u64)
                .unwrap();
        };
        for n in [1, 2, 3, 5] {
            put(n, record(n));
        }
        put(7, record(8));
        let log = Log::read(&path).unwrap();
        assert_eq!(log.records, [record(1), record(2), record(3)]);
        assert_eq!(log.strays, 2);
    }
}
