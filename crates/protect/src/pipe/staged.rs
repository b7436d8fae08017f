//! Pages of an epoch that the standby has, until the epoch is whole and they may enter its memory.

use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use hawser_proto::replication::{MAX_BODY, PAGE};

use super::{Fault, Store};
use crate::{memory::PageRun, ring::lock};

/// Bytes of one piece of memory for staged pages. Nothing larger is allocated because of what a peer says.
const CHUNK: usize = MAX_BODY as usize;
/// Chunks that are kept for the next epoch.
const KEPT: usize = 64;

/// What was done by [`Staged::apply`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Pages written with their contents.
    pub pages: u64,
    /// Pages made zeros.
    pub zero_pages: u64,
}

/// Why pages could not be staged.
#[derive(Debug)]
pub(super) enum StageError {
    /// The channel could not be read.
    Read(io::Error),
    /// The spill file could not be made or written.
    Spill(io::Error),
    /// Neither memory nor spill file have room.
    Full,
}

/// Memory and spill room for all epochs that are staged at a time.
pub(super) struct Pool {
    state: Mutex<PoolState>,
    memory: usize,
    spill: u64,
    spill_dir: Option<PathBuf>,
}

#[derive(Default)]
struct PoolState {
    kept: Vec<Box<[u8]>>,
    /// Bytes of chunks that epochs hold.
    held: usize,
    /// Bytes in spill files.
    spilled: u64,
}

impl Pool {
    /// Room for `memory` bytes, and for `spill` more in a nameless file in that directory.
    pub(super) fn new(memory: usize, spill: u64, spill_dir: Option<PathBuf>) -> Self {
        Self {
            state: Mutex::default(),
            memory,
            spill,
            spill_dir,
        }
    }

    fn chunk(&self) -> Option<Box<[u8]>> {
        let mut state = lock(&self.state);
        if state.held + CHUNK > self.memory {
            return None;
        }
        state.held += CHUNK;
        let kept = state.kept.pop();
        drop(state);
        Some(kept.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice()))
    }

    fn spill(&self, bytes: usize) -> Result<(), StageError> {
        let mut state = lock(&self.state);
        if self.spill_dir.is_none() || state.spilled + bytes as u64 > self.spill {
            return Err(StageError::Full);
        }
        state.spilled += bytes as u64;
        Ok(())
    }

    fn file(&self) -> Result<File, StageError> {
        let dir = self.spill_dir.as_ref().ok_or(StageError::Full)?;
        tempfile::tempfile_in(dir).map_err(StageError::Spill)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Zero,
    Memory { chunk: usize, offset: usize },
    File { offset: u64 },
}

/// All pages of an epoch. Dropped, they are gone, and their memory is free for the next.
pub struct Staged {
    pool: Arc<Pool>,
    pieces: Vec<(PageRun, Place)>,
    chunks: Vec<Box<[u8]>>,
    /// Bytes used of the last chunk.
    used: usize,
    file: Option<File>,
    spilled: u64,
    pages: u64,
    zero_pages: u64,
}

impl Staged {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            pieces: Vec::new(),
            chunks: Vec::new(),
            used: CHUNK,
            file: None,
            spilled: 0,
            pages: 0,
            zero_pages: 0,
        }
    }

    /// Pages with contents.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages that are zeros.
    pub fn zero_pages(&self) -> u64 {
        self.zero_pages
    }

    /// Bytes that did not find room in memory.
    pub fn spilled(&self) -> u64 {
        self.spilled
    }

    /// Writes the pages into memory, in the order in which they came. After an error that memory is neither of this epoch
    /// nor of the one before, and must not run.
    pub fn apply(self, memory: &dyn Store) -> Result<Applied, Fault> {
        let mut read = Vec::new();
        for &(run, place) in &self.pieces {
            match place {
                Place::Zero => memory.zero(run)?,
                Place::Memory { chunk, offset } => {
                    memory.write(run, &self.chunks[chunk][offset..offset + run.bytes()])?;
                }
                Place::File { offset } => {
                    let Some(file) = &self.file else { continue };
                    read.resize(run.bytes(), 0);
                    file.read_exact_at(&mut read, offset)?;
                    memory.write(run, &read)?;
                }
            }
        }
        Ok(Applied {
            pages: self.pages,
            zero_pages: self.zero_pages,
        })
    }

    /// Stages zeros.
    pub(super) fn zero(&mut self, run: PageRun) {
        self.zero_pages += u64::from(run.count);
        self.pieces.push((run, Place::Zero));
    }

    /// Stages pages as they come, and shows them to `seen`. A run has at most [`MAX_BODY`] bytes.
    pub(super) fn read(
        &mut self,
        run: PageRun,
        from: &mut dyn Read,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StageError> {
        self.pages += u64::from(run.count);
        let mut rest = run;
        while rest.count > 0 {
            if self.used == CHUNK {
                match self.pool.chunk() {
                    Some(chunk) => {
                        self.chunks.push(chunk);
                        self.used = 0;
                    }
                    None => return self.spill(rest, from, seen),
                }
            }
            let count = rest.count.min(((CHUNK - self.used) / PAGE) as u32);
            let part = PageRun { count, ..rest };
            let chunk = self.chunks.len() - 1;
            let offset = self.used;
            let into = &mut self.chunks[chunk][offset..offset + part.bytes()];
            from.read_exact(into).map_err(StageError::Read)?;
            seen(into);
            self.used += part.bytes();
            self.place(part, Place::Memory { chunk, offset });
            rest = PageRun {
                first: rest.first + count,
                count: rest.count - count,
                ..rest
            };
        }
        Ok(())
    }

    fn spill(
        &mut self,
        run: PageRun,
        from: &mut dyn Read,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StageError> {
        self.pool.spill(run.bytes())?;
        let offset = self.spilled;
        self.spilled += run.bytes() as u64;
        let mut data = vec![0; run.bytes()];
        from.read_exact(&mut data).map_err(StageError::Read)?;
        seen(&data);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.pool.file()?),
        };
        file.write_all_at(&data, offset).map_err(StageError::Spill)?;
        self.place(run, Place::File { offset });
        Ok(())
    }

    /// Notes where a run is; one that goes on where the last one ended is the same piece.
    fn place(&mut self, run: PageRun, place: Place) {
        if let (Some((last, Place::Memory { chunk, offset })), Place::Memory { chunk: c, offset: o }) =
            (self.pieces.last_mut(), place)
            && last.block == run.block
            && last.first + last.count == run.first
            && *chunk == c
            && *offset + last.bytes() == o
        {
            last.count += run.count;
            return;
        }
        self.pieces.push((run, place));
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        state.held -= self.chunks.len() * CHUNK;
        state.spilled -= self.spilled;
        let chunks = mem::take(&mut self.chunks);
        let room = KEPT.saturating_sub(state.kept.len());
        state.kept.extend(chunks.into_iter().take(room));
    }
}
