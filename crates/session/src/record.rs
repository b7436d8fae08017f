//! Reads a TLS stream record by record, never past the end of one.
//!
//! When two parties leave a TLS connection and go on with raw bytes on the same socket, nothing that follows the last
//! record may have been taken by the TLS library's read-ahead. [`Records`] hands out at most the rest of the current record
//! (RFC 8446, 5.1: five bytes of header, the last two of them the length), which costs a second system call per record and
//! is therefore used only until the switch.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEADER: usize = 5;

/// A stream whose reads end at the boundaries of TLS records.
#[derive(Debug)]
pub struct Records<S> {
    inner: S,
    header: [u8; HEADER],
    /// Bytes of the header read so far.
    have: usize,
    /// Bytes of the header handed out so far.
    given: usize,
    /// Bytes of the body not handed out yet.
    left: usize,
}

impl<S> Records<S> {
    /// Wraps a stream at the start of a record.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            header: [0; HEADER],
            have: 0,
            given: 0,
            left: 0,
        }
    }

    /// The stream, if it stands at the boundary of a record.
    pub fn into_inner(self) -> io::Result<S> {
        if self.have == 0 && self.left == 0 {
            Ok(self.inner)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "switched in the middle of a TLS record",
            ))
        }
    }

    /// The stream underneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.left == 0 {
            while this.have < HEADER {
                let mut header = ReadBuf::new(&mut this.header[this.have..]);
                ready!(Pin::new(&mut this.inner).poll_read(cx, &mut header))?;
                match header.filled().len() {
                    // A clean end between records, or a cut one: the TLS library tells them apart by what it has seen.
                    0 => break,
                    n => this.have += n,
                }
            }
            let n = out.remaining().min(this.have - this.given);
            out.put_slice(&this.header[this.given..this.given + n]);
            this.given += n;
            if this.have == HEADER && this.given == HEADER {
                this.left = usize::from(u16::from_be_bytes([this.header[3], this.header[4]]));
                (this.have, this.given) = (0, 0);
            }
            return Poll::Ready(Ok(()));
        }
        let n = {
            let want = out.remaining().min(this.left);
            let mut body = ReadBuf::new(out.initialize_unfilled_to(want));
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut body))?;
            body.filled().len()
        };
        out.advance(n);
        this.left -= n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut r = vec![23, 3, 3];
        r.extend_from_slice(&(body.len() as u16).to_be_bytes());
        r.extend_from_slice(body);
        r
    }

    proptest! {
        #[test]
        fn no_read_crosses_the_end_of_a_record(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            chunk in 1usize..64,
            room in 1usize..400,
        ) {
            let wire: Vec<u8> = bodies.iter().flat_map(|b| record(b)).collect();
            let ends: Vec<usize> = bodies.iter().scan(0, |at, b| { *at += b.len() + HEADER; Some(*at) }).collect();
            let mut script = in_chunks(&wire, chunk);
            let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
            rt.block_on(async {
                let mut records = Records::new(&mut script);
                let mut at = 0;
                let mut buf = vec![0; room];
                while at < wire.len() {
                    let n = records.read(&mut buf).await.unwrap();
                    assert!(n > 0);
                    assert_eq!(&buf[..n], &wire[at..at + n]);
                    let next_end = *ends.iter().find(|&&e| e > at).unwrap();
                    assert!(at + n <= next_end, "read across {next_end}");
                    at += n;
                    assert_eq!(ends.contains(&at), records.left == 0 && records.have == 0 );
                }
                assert_eq!(records.read(&mut buf).await.unwrap(), 0);
                assert!(records.into_inner().is_ok());
            });
        }
    }

    /// A reader that gives at most `chunk` bytes a time.
    struct Chunks(std::collections::VecDeque<u8>, usize);

    fn in_chunks(wire: &[u8], chunk: usize) -> Chunks {
        Chunks(wire.iter().copied().collect(), chunk)
    }

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let n = self.1.min(out.remaining()).min(self.0.len());
            for b in self.0.drain(..n).collect::<Vec<_>>() {
                out.put_slice(&[b]);
            }
            Poll::Ready(Ok(()))
        }
    }
}
