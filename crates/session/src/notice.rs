//! Notices that an end-to-end session was altered or cut short on its way, and says so in the log, once.
//!
//! The layers above turn such an end into an error for their callers; who looks into it needs to know that TLS refused what
//! came, which is the work of a broken network or of somebody in between.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hawser_proto::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::warn;

/// A TLS stream with `peer`.
pub(crate) struct Noticing<S> {
    inner: S,
    peer: NodeId,
    /// Whether anything was ever read. A session that ends before that was idle: no loss.
    used: bool,
    told: bool,
}

impl<S> Noticing<S> {
    pub(crate) fn new(inner: S, peer: NodeId) -> Self {
        Self {
            inner,
            peer,
            used: false,
            told: false,
        }
    }

    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    fn notice(&mut self, error: &io::Error) {
        let what = match error.kind() {
            io::ErrorKind::InvalidData => "the session broke: TLS refused what came, or the other side did",
            io::ErrorKind::UnexpectedEof if self.used => "the session broke: it was cut short on its way",
            _ => return,
        };
        if !std::mem::replace(&mut self.told, true) {
            warn!(peer = %self.peer, %error, "{what}");
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &read {
            Poll::Ready(Err(error)) => self.notice(error),
            Poll::Ready(Ok(())) => self.used |= buf.filled().len() > before,
            Poll::Pending => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
