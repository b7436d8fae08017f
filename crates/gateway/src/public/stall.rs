//! A connection that ends when its other side takes nothing of what is sent to it for too long, and that says when it has ended,
//! whoever has it then: a WebSocket outlives the HTTP that it came of.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_util::sync::DropGuard;

/// See the module's page.
pub(super) struct Stall<T> {
    io: T,
    longest: Duration,
    /// While something waits to be taken.
    end: Option<Pin<Box<Sleep>>>,
    _open: DropGuard,
}

impl<T> Stall<T> {
    pub(super) fn new(io: T, longest: Duration, open: DropGuard) -> Self {
        Self {
            io,
            longest,
            end: None,
            _open: open,
        }
    }

    /// What became of an attempt to send: an error when it has been in vain for too long.
    fn judge<R>(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if sent.is_ready() {
            self.end = None;
            return sent;
        }
        let longest = self.longest;
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(longest)));
        match end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing of what is sent was taken for {longest:?}"),
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stall<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stall<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(cx, sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(cx, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge(cx, sent)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_and_who_is_slow_is_not() {
        let (theirs, ours) = tokio::io::duplex(4);
        let wait = Duration::from_secs(60);
        let open = CancellationToken::new();
        let mut io = Stall::new(ours, wait, open.clone().drop_guard());
        io.write_all(b"1234").await.unwrap();
        let error = io.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        assert!(!open.is_cancelled());
        drop(io);
        assert!(open.is_cancelled());

        let (mut theirs, ours) = tokio::io::duplex(4);
        let mut io = Stall::new(ours, wait, open.drop_guard());
        let slow = tokio::spawn(async move {
            let mut buf = [0; 2];
            while tokio::io::AsyncReadExt::read(&mut theirs, &mut buf)
                .await
                .unwrap()
                > 0
            {
                tokio::time::sleep(wait / 2).await;
            }
        });
        io.write_all(&[0; 20]).await.unwrap();
        drop(io);
        slow.await.unwrap();
    }
}
