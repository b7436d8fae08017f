//! Length-prefixed frames: four bytes of length (big endian), then one CBOR value.

use minicbor::{Decode, Encode};

/// Largest body of a frame in bytes; a longer one is refused before it is read.
pub const MAX_FRAME: usize = 256 * 1024;
/// Largest body before the sender has proved who it is.
pub const MAX_FRAME_UNPROVED: usize = 16 * 1024;
/// Bytes of the length prefix.
pub const HEADER: usize = 4;

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length prefix is over the limit.
    #[error("a frame of {length} bytes is over the limit of {limit}: the peer is no Hawser, or a newer one")]
    TooLong {
        /// What the prefix says, in bytes.
        length: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// The body is not the expected message.
    #[error("a frame that is no message: {0}; the peer is no Hawser, or of another version")]
    Malformed(String),
}

/// Reads a length prefix.
pub fn length(header: [u8; HEADER], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(length)
}

/// A message as one frame, prefix included. Refused when it is over [`MAX_FRAME`].
pub fn encode<T: Encode<()>>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    minicbor::encode(message, &mut frame).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let length = frame.len() - HEADER;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong {
            length,
            limit: MAX_FRAME,
        });
    }
    frame[..HEADER].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// A frame's body as a message; bytes left over are an error.
pub fn decode<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Result<T, FrameError> {
    let mut d = minicbor::Decoder::new(body);
    let message = d.decode().map_err(|e| FrameError::Malformed(e.to_string()))?;
    if d.position() != body.len() {
        return Err(FrameError::Malformed(format!(
            "{} bytes left over",
            body.len() - d.position()
        )));
    }
    Ok(message)
}
