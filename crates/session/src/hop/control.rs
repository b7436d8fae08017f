//! The two halves of a control connection.

use std::{fmt, io, marker::PhantomData};

use futures_util::StreamExt;
use hawser_proto::frame::MAX_FRAME;
use minicbor::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::FramedRead;

use super::HopError;
use crate::frame::{self, Codec, write_frame};

type BoxedReader = Box<dyn AsyncRead + Send + Unpin>;
type BoxedWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// Sends messages of type `T`.
pub struct ControlSender<T> {
    writer: BoxedWriter,
    with: &'static str,
    message: PhantomData<fn(T)>,
}

/// Receives messages of type `T`.
pub struct ControlReceiver<T> {
    frames: FramedRead<BoxedReader, Codec<T>>,
    with: &'static str,
}

/// Splits a connection that carries control messages in both directions. `with` names the other side in errors.
pub fn halves<Out, In, S>(stream: S, with: &'static str) -> (ControlSender<Out>, ControlReceiver<In>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    In: for<'b> Decode<'b, ()>,
{
    let (reader, writer) = tokio::io::split(stream);
    let sender = ControlSender {
        writer: Box::new(writer),
        with,
        message: PhantomData,
    };
    let reader: BoxedReader = Box::new(reader);
    (
        sender,
        ControlReceiver {
            frames: FramedRead::new(reader, Codec::new(MAX_FRAME)),
            with,
        },
    )
}

impl<T: Encode<()>> ControlSender<T> {
    /// Sends one message. Not cancel safe: after a cancelled send the connection is of no use.
    pub async fn send(&mut self, message: &T) -> Result<(), HopError> {
        write_frame(&mut self.writer, message)
            .await
            .map_err(|e| HopError::frame(self.with, e))
    }

    /// Ends the connection in this direction.
    pub async fn close(&mut self) -> Result<(), HopError> {
        self.writer.shutdown().await.map_err(|source| HopError::Io {
            with: self.with,
            source,
        })
    }
}

impl<T: for<'b> Decode<'b, ()>> ControlReceiver<T> {
    /// The next message. Cancel safe.
    pub async fn recv(&mut self) -> Result<T, HopError> {
        match self.frames.next().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(e)) => Err(HopError::frame(self.with, e)),
            None => Err(HopError::frame(
                self.with,
                frame::Error::Io(io::ErrorKind::UnexpectedEof.into()),
            )),
        }
    }
}

impl<T> fmt::Debug for ControlSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlSender")
    }
}

impl<T> fmt::Debug for ControlReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlReceiver")
    }
}
