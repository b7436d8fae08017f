//! Data that memory has no room for, in files without names. A file's room is given back when the last write in it has left.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::DiskError;

/// Where the next data to spill go.
#[derive(Debug)]
pub(super) struct Spill {
    dir: PathBuf,
    segment: Option<(Arc<Segment>, u64)>,
}

/// Data in a spill file, which lives as long as any of it.
#[derive(Debug, Clone)]
pub(super) struct Spilled {
    segment: Arc<Segment>,
    at: u64,
    len: usize,
}

#[derive(Debug)]
struct Segment {
    file: File,
    dir: PathBuf,
}

/// Bytes at which a file is left and the next one begun: this much of what was flushed may still take room on the disk.
const SEGMENT: u64 = 64 << 20;

impl Spill {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, segment: None }
    }

    /// Writes data out. With `afresh`, nothing written before is needed any more.
    pub(super) fn keep(&mut self, data: &[u8], afresh: bool) -> Result<Spilled, DiskError> {
        if afresh || self.segment.as_ref().is_some_and(|(_, end)| *end >= SEGMENT) {
            self.segment = None;
        }
        let (segment, end) = match &mut self.segment {
            Some(open) => open,
            none => none.insert((Arc::new(Segment::create(&self.dir)?), 0)),
        };
        segment
            .file
            .write_all_at(data, *end)
            .map_err(|e| DiskError::io("spill disk writes to", &self.dir, e))?;
        let spilled = Spilled {
            segment: segment.clone(),
            at: *end,
            len: data.len(),
        };
        *end += data.len() as u64;
        Ok(spilled)
    }
}

impl Segment {
    fn create(dir: &Path) -> Result<Self, DiskError> {
        let file = tempfile::tempfile_in(dir).map_err(|e| DiskError::io("spill disk writes to", dir, e))?;
        Ok(Self {
            file,
            dir: dir.into(),
        })
    }
}

impl Spilled {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Reads what lies `skip` bytes from the start of the data.
    pub(super) fn read(&self, skip: usize, into: &mut [u8]) -> Result<(), DiskError> {
        let Segment { file, dir } = &*self.segment;
        let read = file.read_exact_at(into, self.at + skip as u64);
        read.map_err(|e| DiskError::io("read spilled disk writes in", dir, e))
    }
}
