//! Endless bytes that are cheap to make, differ in every chunk, and can be hashed by both ends.

use std::{io, sync::OnceLock};

use aws_lc_rs::digest;
use bytes::Bytes;

/// Bytes of a chunk; each starts with its number.
pub const CHUNK: usize = 64 * 1024;

/// Chunk `index` of the pattern.
pub fn chunk(index: u64) -> Bytes {
    let mut c = base().to_vec();
    c[..8].copy_from_slice(&index.to_be_bytes());
    c.into()
}

/// The first `len` bytes of the pattern as SHA-256, in hex.
pub fn hash(len: u64) -> String {
    let mut h = Hash::new();
    let mut r = Reader::new(len);
    while let Some(c) = r.next_chunk() {
        h.update(&c);
    }
    h.finish()
}

/// SHA-256 of some bytes, in hex.
pub fn hash_of(bytes: &[u8]) -> String {
    let mut h = Hash::new();
    h.update(bytes);
    h.finish()
}

fn base() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        })
        .take(CHUNK / 8)
        .flatten()
        .collect()
    })
}

/// SHA-256 fed piece by piece.
pub struct Hash(digest::Context);

impl Hash {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in hex.
    pub fn finish(self) -> String {
        self.0
            .finish()
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

/// The first `len` bytes of the pattern, to read from.
pub struct Reader {
    left: u64,
    index: u64,
    current: Bytes,
}

impl Reader {
    /// A reader of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self {
            left: len,
            index: 0,
            current: Bytes::new(),
        }
    }

    /// The next chunk; the last one may be short.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut c = chunk(self.index);
        self.index += 1;
        c.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= c.len() as u64;
        Some(c)
    }
}

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.next_chunk() {
                Some(c) => self.current = c,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
