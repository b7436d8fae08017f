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
    /// Records count no more.
    free: bool,
    kept: Option<Box<Kept>>,
}

/// What was handed out.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    most: usize,
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
            free: false,
            kept: None,
        }
    }

    /// The same, and keeps what is read. To read more than `most` bytes is an error.
    pub fn keeping(inner: S, most: usize) -> Self {
        let kept = Kept {
            bytes: Vec::new(),
            most,
        };
        Self {
            kept: Some(Box::new(kept)),
            ..Self::new(inner)
        }
    }

    /// What was read, which is kept no more from here on.
    pub fn stop_keeping(&mut self) -> Vec<u8> {
        self.kept.take().map_or_else(Vec::new, |kept| kept.bytes)
    }

    /// From here on reads are those of the stream underneath. To be called at the boundary of a record.
    pub fn free(&mut self) -> io::Result<()> {
        self.at_boundary()?;
        self.free = true;
        Ok(())
    }

    /// The stream, if it stands at the boundary of a record.
    pub fn into_inner(self) -> io::Result<S> {
        self.at_boundary()?;
        Ok(self.inner)
    }

    fn at_boundary(&self) -> io::Result<()> {
        if self.have == 0 && self.left == 0 && !self.free {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "switched in the middle of a TLS record",
        ))
    }

    fn keep(&mut self, read: &[u8]) -> io::Result<()> {
        let Some(kept) = &mut self.kept else {
            return Ok(());
        };
        if kept.bytes.len() + read.len() > kept.most {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("over {} bytes came where fewer were expected", kept.most),
            ));
        }
        kept.bytes.extend_from_slice(read);
        Ok(())
    }

    /// The stream underneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> Records<S> {
    /// At most the rest of the current record.
    fn poll_record(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            while self.have < HEADER {
                let mut header = ReadBuf::new(&mut self.header[self.have..]);
                ready!(Pin::new(&mut self.inner).poll_read(cx, &mut header))?;
                match header.filled().len() {
                    // A clean end between records, or a cut one: the TLS library tells them apart by what it has seen.
                    0 => break,
                    n => self.have += n,
                }
            }
            let n = out.remaining().min(self.have - self.given);
            out.put_slice(&self.header[self.given..self.given + n]);
            self.given += n;
            if self.have == HEADER && self.given == HEADER {
                self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                (self.have, self.given) = (0, 0);
            }
            return Poll::Ready(Ok(()));
        }
        let n = {
            let want = out.remaining().min(self.left);
            let mut body = ReadBuf::new(out.initialize_unfilled_to(want));
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut body))?;
            body.filled().len()
        };
        out.advance(n);
        self.left -= n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.free {
            return Pin::new(&mut this.inner).poll_read(cx, out);
        }
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        ready!(this.poll_record(cx, out))?;
        Poll::Ready(this.keep(&out.filled()[before..]))
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
