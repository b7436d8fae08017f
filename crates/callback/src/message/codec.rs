//! The libraries for content codings behind one shape: bytes in, bounded bytes out, without I/O.

use std::io::{self, BufRead, Read, Write};

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, CompressorWriter, enc::StandardAlloc};
use bytes::{Buf, Bytes};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use super::coding::Coding;
use crate::replace::Refusal;

/// Largest zstd window as a power of two: 8 MiB (RFC 9659).
const ZSTD_WINDOW: u32 = 23;
/// Fast, since it is done on the way.
const LEVEL: u32 = 1;
/// Window of the brotli encoder as a power of two.
const BROTLI_WINDOW: u32 = 18;
/// Buffer of the brotli encoder in bytes.
const BROTLI_BUFFER: usize = 4096;

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// Bytes that wait to be decoded.
#[derive(Debug, Default)]
struct Queue {
    bytes: Bytes,
    ended: bool,
}

impl Read for Queue {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.len().min(buf.len());
        self.bytes.split_to(length).copy_to_slice(&mut buf[..length]);
        Ok(length)
    }
}

impl BufRead for Queue {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, n: usize) {
        self.bytes.advance(n);
    }
}

enum Library {
    Gzip(Box<MultiGzDecoder<Queue>>),
    Brotli(Box<Brotli>),
    Zstd(zstd::stream::raw::Decoder<'static>),
}

/// Decodes one body.
pub(super) struct Decoder {
    library: Library,
    /// What waits, apart from gzip, which has a queue of its own.
    input: Bytes,
    /// The coded data has ended as it should.
    whole: bool,
}

impl Decoder {
    pub(super) fn new(coding: Coding) -> Result<Self, Refusal> {
        let failed = |_| Refusal::Coding("zstd".into());
        let library = match coding {
            Coding::Gzip => Library::Gzip(Box::new(MultiGzDecoder::new(Queue::default()))),
            Coding::Brotli => {
                let alloc = StandardAlloc::default;
                Library::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            Coding::Zstd => {
                let mut decoder = zstd::stream::raw::Decoder::new().map_err(failed)?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW))
                    .map_err(failed)?;
                Library::Zstd(decoder)
            }
        };
        Ok(Self {
            library,
            input: Bytes::new(),
            whole: false,
        })
    }

    /// Takes coded bytes. Those before must have been used up: [`Decoder::pull`] said 0.
    pub(super) fn push(&mut self, chunk: Bytes) {
        match &mut self.library {
            Library::Gzip(gzip) => gzip.get_mut().bytes = chunk,
            _ => self.input = chunk,
        }
    }

    /// No more bytes come.
    pub(super) fn finish(&mut self) {
        if let Library::Gzip(gzip) = &mut self.library {
            gzip.get_mut().ended = true;
        }
    }

    /// Whether the coded data has ended as it should.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Decodes into `buf`. 0: all is used up.
    pub(super) fn pull(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.library {
            Library::Gzip(gzip) => match gzip.read(buf) {
                Ok(0) => {
                    self.whole = true;
                    Ok(0)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                read => read,
            },
            Library::Brotli(state) => {
                let (mut used, mut given, mut total) = (0, 0, 0);
                let (mut left, mut room) = (self.input.len(), buf.len());
                if self.whole && left > 0 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut used,
                    &self.input,
                    &mut room,
                    &mut given,
                    buf,
                    &mut total,
                    state,
                );
                self.input.advance(used);
                match result {
                    BrotliResult::ResultFailure => return Err(io::ErrorKind::InvalidData.into()),
                    BrotliResult::ResultSuccess => self.whole = true,
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                }
                Ok(given)
            }
            Library::Zstd(decoder) => loop {
                let mut input = InBuffer::around(&self.input);
                let mut output = OutBuffer::around(&mut *buf);
                let hint = decoder.run(&mut input, &mut output)?;
                let (used, given) = (input.pos(), output.pos());
                self.input.advance(used);
                // Without input and output, the hint is that of a frame to come.
                if used + given > 0 {
                    self.whole = hint == 0;
                }
                if given > 0 || self.input.is_empty() || used == 0 {
                    return Ok(given);
                }
            },
        }
    }
}

/// Codes one body.
pub(super) enum Encoder {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

/// Writing to memory does not fail; what does is the library.
fn failed<E>(_: E) -> Refusal {
    Refusal::Unfit("a coded body: the coding library failed".into())
}

impl Encoder {
    pub(super) fn new(coding: Coding) -> Result<Self, Refusal> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::new(LEVEL)))),
            Coding::Brotli => Self::Brotli(Box::new(CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER,
                LEVEL,
                BROTLI_WINDOW,
            ))),
            // LEVEL is small.
            Coding::Zstd => Self::Zstd(
                zstd::stream::write::Encoder::new(Vec::new(), LEVEL.cast_signed()).map_err(failed)?,
            ),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match self {
            Self::Gzip(gzip) => gzip.write_all(bytes),
            Self::Brotli(brotli) => brotli.write_all(bytes),
            Self::Zstd(zstd) => zstd.write_all(bytes),
        }
        .map_err(failed)
    }

    /// What a decoder needs to have all that was written.
    pub(super) fn flush(&mut self) -> Result<Bytes, Refusal> {
        let taken = match self {
            Self::Gzip(gzip) => gzip.flush().map(|()| std::mem::take(gzip.get_mut())),
            Self::Brotli(brotli) => brotli.flush().map(|()| std::mem::take(brotli.get_mut())),
            Self::Zstd(zstd) => zstd.flush().map(|()| std::mem::take(zstd.get_mut())),
        };
        taken.map(Bytes::from).map_err(failed)
    }

    pub(super) fn finish(self) -> Result<Bytes, Refusal> {
        match self {
            Self::Gzip(gzip) => gzip.finish().map(Bytes::from).map_err(failed),
            Self::Brotli(brotli) => Ok(brotli.into_inner().into()),
            Self::Zstd(zstd) => zstd.finish().map(Bytes::from).map_err(failed),
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}
