//! Lets pieces of a body through, and replaces values in them that may reach over several pieces.

use std::borrow::Cow;

use bytes::Bytes;

use super::held::Edit;
use crate::replace::Refusal;

/// The piece that is being read, and the beginning of a value from the pieces before it.
#[derive(Debug, Default)]
pub(super) struct Splice {
    held: Vec<u8>,
    chunk: Bytes,
    /// What of the piece has not been given out.
    start: usize,
    /// Where in the piece a value begins; 0 if it began in an earlier one.
    from: Option<usize>,
    delta: i64,
}

impl Splice {
    /// Takes the next piece.
    pub(super) fn begin(&mut self, chunk: Bytes) {
        self.chunk = chunk;
        self.start = 0;
    }

    /// A value begins at this place in the piece.
    pub(super) fn capture(&mut self, at: usize) {
        self.from = Some(at);
    }

    /// Whether a value has begun and not ended.
    pub(super) fn captures(&self) -> bool {
        self.from.is_some()
    }

    /// The value, which ends before this place in the piece.
    pub(super) fn value(&self, end: usize) -> Cow<'_, [u8]> {
        let here = &self.chunk[self.from.unwrap_or(end)..end];
        if self.held.is_empty() {
            here.into()
        } else {
            [&self.held, here].concat().into()
        }
    }

    /// The value ends before this place, and stays, or `new` stands in its place.
    pub(super) fn finish(&mut self, end: usize, new: Option<String>, out: &mut Vec<Bytes>) {
        let from = self.from.take().unwrap_or(end);
        let held = std::mem::take(&mut self.held);
        let Some(new) = new else {
            out.push(held.into());
            return;
        };
        let edit = Edit {
            range: 0..held.len() + end - from,
            with: new.into(),
        };
        self.delta += edit.delta();
        out.push(self.chunk.slice(self.start..from));
        out.push(edit.with);
        self.start = end;
    }

    /// The piece is read. At most `window` bytes of an unfinished value are held.
    pub(super) fn suspend(
        &mut self,
        window: usize,
        what: &'static str,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Refusal> {
        let chunk = std::mem::take(&mut self.chunk);
        let from = self.from.unwrap_or(chunk.len());
        out.push(chunk.slice(self.start..from));
        self.start = 0;
        self.held.extend_from_slice(&chunk[from..]);
        self.from = self.from.map(|_| 0);
        if self.held.len() > window {
            return Err(Refusal::TooLarge { what, window });
        }
        Ok(())
    }

    /// Gives out everything as it is.
    pub(super) fn abandon(&mut self, out: &mut Vec<Bytes>) {
        out.push(std::mem::take(&mut self.held).into());
        out.push(std::mem::take(&mut self.chunk).split_off(self.start));
        self.start = 0;
        self.from = None;
    }

    /// By how many bytes what came out is longer.
    pub(super) fn delta(&self) -> i64 {
        self.delta
    }
}
