//! Bytes that are held until a message is decided.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The beginning of a body. One piece is held as it came; it is copied only if more come before the decision.
#[derive(Debug, Default)]
pub(super) struct Held {
    first: Bytes,
    joined: BytesMut,
    /// What came beyond the window: at most one piece, for then a decision is due.
    beyond: Bytes,
}

/// Bytes that stand in place of others.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: Bytes,
}

impl Edit {
    /// By how much the message becomes longer.
    pub(super) fn delta(&self) -> i64 {
        // A value is at most a window long.
        let length = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        length(self.with.len()) - length(self.range.len())
    }
}

impl Held {
    /// Takes one more piece; no more than `window` bytes are held together.
    pub(super) fn push(&mut self, mut chunk: Bytes, window: usize) {
        let room = window.saturating_sub(self.bytes().len());
        if chunk.len() > room {
            self.beyond = chunk.split_off(room);
        }
        if self.bytes().is_empty() {
            self.first = chunk;
            return;
        }
        if self.joined.is_empty() {
            self.joined.reserve((self.first.len() + chunk.len()).max(4096));
            self.joined.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.joined.extend_from_slice(&chunk);
    }

    /// What is held, apart from what lies beyond the window.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() {
            &self.first
        } else {
            &self.joined
        }
    }

    /// Everything that is held, in one piece.
    pub(super) fn take(&mut self) -> Bytes {
        let mut out = Vec::new();
        self.release(Vec::new(), &mut out);
        match out.as_mut_slice() {
            [bytes, beyond] if beyond.is_empty() => std::mem::take(bytes),
            _ => out.concat().into(),
        }
    }

    /// Gives out everything with `edits` made, which are in order and do not overlap.
    pub(super) fn release(&mut self, edits: Vec<Edit>, out: &mut Vec<Bytes>) {
        let mut bytes = match self.joined.is_empty() {
            true => std::mem::take(&mut self.first),
            false => std::mem::take(&mut self.joined).freeze(),
        };
        let mut at = 0;
        for Edit { range, with } in edits {
            out.push(bytes.split_to(range.start - at));
            let _ = bytes.split_to(range.len());
            out.push(with);
            at = range.end;
        }
        out.push(bytes);
        out.push(std::mem::take(&mut self.beyond));
    }
}
