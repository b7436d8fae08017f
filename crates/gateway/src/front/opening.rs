//! The first bytes of a client's connection: HTTP/1, HTTP/2 with prior knowledge, or a TLS handshake that is out of place.
//! A client that stays silent is given up.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use hawser_session::socket;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::socks;

/// Sent first by every HTTP/2 client (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First byte of a TLS handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Bytes read at first.
const FIRST_READ: usize = 4096;

/// What a connection begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Like a request line, or at least text.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// A TLS handshake.
    Tls,
    /// SOCKS 5.
    Socks,
    /// Anything else.
    Other,
}

/// Reads until the opening is known; the bytes are read again from what is returned. None when the client closed, failed
/// or was silent for `wait`. Not cancel safe.
pub(super) async fn read_opening<T: AsyncRead + Unpin>(
    mut io: T,
    wait: Duration,
) -> Option<(Opening, Prefixed<T>)> {
    let mut prefix = BytesMut::with_capacity(FIRST_READ);
    let known = timeout(wait, async {
        loop {
            if io.read_buf(&mut prefix).await.ok()? == 0 {
                return None;
            }
            if let Some(opening) = judge(&prefix) {
                return Some(opening);
            }
        }
    });
    let opening = known.await.ok()??;
    Some((
        opening,
        Prefixed {
            prefix: prefix.freeze(),
            io,
        },
    ))
}

fn judge(prefix: &[u8]) -> Option<Opening> {
    match prefix {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Opening::Tls),
        [socks::VERSION, ..] => Some(Opening::Socks),
        p if p.starts_with(PREFACE) => Some(Opening::Http2),
        p if PREFACE.starts_with(p) => None,
        // Empty lines before a request line are allowed (RFC 9112, 2.2).
        [b'A'..=b'Z' | b'\r' | b'\n', ..] => Some(Opening::Http1),
        _ => Some(Opening::Other),
    }
}

/// A stream whose first bytes were read already, and are read again.
#[derive(Debug)]
pub(super) struct Prefixed<T> {
    prefix: Bytes,
    io: T,
}

impl<T> Prefixed<T> {
    /// What is to be read again, and the stream.
    pub(super) fn into_parts(self) -> (Bytes, T) {
        (self.prefix, self.io)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A client's socket. When `abort` is set its end is a reset: for answers that broke off and whose end is told by nothing
/// but the end of the connection (HTTP/1.0), and for streams.
#[derive(Debug)]
pub(super) struct ClientSocket {
    /// None once it was taken.
    tcp: Option<TcpStream>,
    abort: Arc<AtomicBool>,
}

impl ClientSocket {
    pub(super) fn new(tcp: TcpStream, abort: Arc<AtomicBool>) -> Self {
        Self {
            tcp: Some(tcp),
            abort,
        }
    }

    /// The bare socket.
    pub(super) fn take(mut self) -> Option<TcpStream> {
        self.tcp.take()
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        if let Some(tcp) = &self.tcp
            && self.abort.load(Ordering::Acquire)
        {
            socket::reset_on_close(tcp);
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn openings_are_known_from_their_first_bytes_which_are_read_again() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Opening::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", Opening::Http1),
            (b"P", Opening::Http1),
            (b"PRI / HTTP/1.1\r\n", Opening::Http1),
            (PREFACE, Opening::Http2),
            (b"\x16\x03\x01\x02\x00", Opening::Tls),
            (b"\x05\x01\x00", Opening::Socks),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Opening::Other),
        ] {
            let io = tokio_test_io(bytes);
            let got = read_opening(io, Duration::from_secs(1)).await;
            if bytes == b"P" {
                assert!(got.is_none(), "neither one nor the other, and then the end");
                continue;
            }
            let (opening, mut io) = got.unwrap();
            assert_eq!(opening, expected, "{bytes:?}");
            let mut again = Vec::new();
            io.read_to_end(&mut again).await.unwrap();
            assert_eq!(again, bytes);
        }
    }

    /// Bytes that come one by one, then the end.
    fn tokio_test_io(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        let (mut theirs, ours) = tokio::io::duplex(1);
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            theirs.write_all(bytes).await
        });
        ours
    }

    #[tokio::test]
    async fn a_silent_client_is_given_up() {
        let (_theirs, ours) = tokio::io::duplex(64);
        assert!(read_opening(ours, Duration::from_millis(20)).await.is_none());
    }
}
