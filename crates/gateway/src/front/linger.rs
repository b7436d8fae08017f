//! A connection's end that lets its last answer arrive: who is refused while still sending would otherwise get a reset, since a
//! socket that is closed with unread bytes in it sends one, and may lose the answer by that (RFC 9112, section 9.6).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// After the answer, what still comes is read and thrown away until nothing came for so long.
const QUIET: Duration = Duration::from_millis(500);
/// And for so long at most.
const LONGEST: Duration = Duration::from_secs(5);

/// A connection that lingers at its end if `unread` says so then.
pub(crate) struct Linger<T> {
    io: T,
    unread: Arc<AtomicBool>,
    lingering: Option<Lingering>,
}

struct Lingering {
    quiet: Pin<Box<Sleep>>,
    longest: Pin<Box<Sleep>>,
    waste: Box<[u8]>,
}

impl<T> Linger<T> {
    pub(crate) fn new(io: T, unread: Arc<AtomicBool>) -> Self {
        Self {
            io,
            unread,
            lingering: None,
        }
    }

    /// What was wrapped.
    pub(super) fn into_inner(self) -> T {
        self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Linger<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<T> {
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
        let this = &mut *self;
        let lingering = match &mut this.lingering {
            Some(lingering) => lingering,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                if !this.unread.load(Ordering::Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                this.lingering.insert(Lingering {
                    quiet: Box::pin(sleep(QUIET)),
                    longest: Box::pin(sleep(LONGEST)),
                    waste: vec![0; 16 * 1024].into(),
                })
            }
        };
        loop {
            if lingering.longest.as_mut().poll(cx).is_ready() || lingering.quiet.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
            let mut waste = ReadBuf::new(&mut lingering.waste);
            let read = ready!(Pin::new(&mut this.io).poll_read(cx, &mut waste));
            if read.is_err() || waste.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            lingering.quiet = Box::pin(sleep_until(Instant::now() + QUIET));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A server that answers at once and ends; what a client gets that sends all before it reads.
    async fn answered(lingers: bool, bytes: usize) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await?;
            let mut socket = Linger::new(socket, Arc::new(AtomicBool::new(lingers)));
            socket.read_exact(&mut [0; 1]).await?;
            socket.write_all(b"refused").await?;
            socket.shutdown().await
        });
        let mut client = TcpStream::connect(address).await?;
        let sent = client.write_all(&vec![7; bytes]).await;
        let mut answer = String::new();
        let read = client.read_to_string(&mut answer).await;
        drop(client);
        server.await??;
        sent.and(read).map(|_| answer)
    }

    #[tokio::test]
    async fn who_sends_much_gets_the_answer_all_the_same() {
        assert_eq!(answered(true, 8 << 20).await.unwrap(), "refused");
        assert!(answered(false, 8 << 20).await.is_err(), "the control");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_ends_is_left() {
        let (mut far, near) = tokio::io::duplex(1024);
        let writer = tokio::spawn(async move {
            while far.write_all(&[1; 100]).await.is_ok() {
                sleep(QUIET / 2).await;
            }
        });
        let began = Instant::now();
        let mut near = Linger::new(near, Arc::new(AtomicBool::new(true)));
        near.shutdown().await.unwrap();
        assert_eq!(began.elapsed(), LONGEST);
        writer.abort();

        let (_far, near) = tokio::io::duplex(1024);
        let began = Instant::now();
        let mut near = Linger::new(near, Arc::new(AtomicBool::new(true)));
        near.shutdown().await.unwrap();
        assert!(began.elapsed() < QUIET * 2, "one that is silent, soon");
    }
}
