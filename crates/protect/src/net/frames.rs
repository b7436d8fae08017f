//! Cuts the byte stream of a redirector into frames. No I/O.
//!
//! A frame is its length (u32, big-endian), with `vnet_hdr_support=on` the length of the virtio-net header within it (u32),
//! and its bytes (QEMU, `net/filter-mirror.c`).

use super::MAX_FRAME;

/// Free room that a read finds at least, in bytes.
const READ: usize = 64 * 1024;

/// A length that no frame has: the stream is not what it should be, or cut at the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) u32);

/// Bytes of a stream that are not yet whole frames. Never holds more than a frame and a read.
pub(super) struct Cutter {
    header: usize,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Cutter {
    pub(super) fn new(vnet_header: bool) -> Self {
        let header = if vnet_header { 8 } else { 4 };
        Self {
            header,
            buffer: vec![0; header + MAX_FRAME + READ],
            from: 0,
            to: 0,
        }
    }

    /// Where the next bytes go. Never empty once [`Self::next`] has said that there is no more.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        &mut self.buffer[self.to..]
    }

    /// This many bytes came.
    pub(super) fn filled(&mut self, n: usize) {
        self.to += n;
    }

    /// The next whole frame, with its lengths in front.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let here = &self.buffer[self.from..self.to];
        let Some(length) = here.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        if length as usize > MAX_FRAME {
            return Err(TooLong(length));
        }
        let whole = self.header + length as usize;
        if here.len() < whole {
            return Ok(None);
        }
        let start = self.from;
        self.from += whole;
        Ok(Some(&self.buffer[start..self.from]))
    }

    /// Bytes of a frame that is not whole.
    pub(super) fn torn(&self) -> usize {
        self.to - self.from
    }

    /// Forgets what is there.
    pub(super) fn clear(&mut self) {
        (self.from, self.to) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
