//! Frames of `proto` over an async byte stream.

use std::{io, marker::PhantomData};

use bytes::{Buf, BytesMut};
use hawser_proto::frame::{self, FrameError, HEADER};
use minicbor::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::Decoder;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream ended or broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came is no frame of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads one frame of at most `limit` bytes. Not cancel safe: a frame read in part is lost.
pub async fn read_frame<T, R>(reader: &mut R, limit: usize) -> Result<T, Error>
where
    T: for<'b> Decode<'b, ()>,
    R: AsyncRead + Unpin,
{
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).await?;
    let mut body = vec![0; frame::length(header, limit)?];
    reader.read_exact(&mut body).await?;
    Ok(frame::decode(&body)?)
}

/// Writes one frame and flushes it. Not cancel safe: a frame may go out in part.
pub async fn write_frame<T, W>(writer: &mut W, message: &T) -> Result<(), Error>
where
    T: Encode<()>,
    W: AsyncWrite + Unpin,
{
    let bytes = frame::encode(message)?;
    writer.write_all(&bytes).await?;
    writer.flush().await?;
    Ok(())
}

/// A codec for [`tokio_util::codec::FramedRead`], whose reads are cancel safe.
#[derive(Debug)]
pub struct Codec<T> {
    limit: usize,
    message: PhantomData<fn() -> T>,
}

impl<T> Codec<T> {
    /// Frames of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            message: PhantomData,
        }
    }
}

impl<T: for<'b> Decode<'b, ()>> Decoder for Codec<T> {
    type Item = T;
    type Error = Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<T>, Error> {
        let Some(header) = buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = frame::length(*header, self.limit)?;
        if buffer.len() < HEADER + length {
            buffer.reserve(HEADER + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER);
        let body = buffer.split_to(length);
        Ok(Some(frame::decode(&body)?))
    }
}
