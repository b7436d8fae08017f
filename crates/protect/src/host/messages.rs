//! The agents' messages as bytes: CBOR in control frames towards the standby, length-prefixed frames back.

use std::io::{self, Read, Write};

use hawser_proto::frame;
use minicbor::{Decode, Encode};

/// A message for a control frame.
pub(crate) fn encode<T: Encode<()>>(message: &T) -> io::Result<Vec<u8>> {
    minicbor::to_vec(message).map_err(|e| io::Error::other(e.to_string()))
}

/// A message from a control frame.
pub(crate) fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> io::Result<T> {
    frame::decode(bytes).map_err(invalid)
}

/// Writes one length-prefixed message.
pub(crate) fn write<T: Encode<()>>(to: &mut dyn Write, message: &T) -> io::Result<()> {
    to.write_all(&frame::encode(message).map_err(invalid)?)?;
    to.flush()
}

/// Reads one length-prefixed message.
pub(crate) fn read<T: for<'b> Decode<'b, ()>>(from: &mut dyn Read) -> io::Result<T> {
    let mut header = [0; frame::HEADER];
    from.read_exact(&mut header)?;
    let mut body = vec![0; frame::length(header, frame::MAX_FRAME).map_err(invalid)?];
    from.read_exact(&mut body)?;
    frame::decode(&body).map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
