//! Options of TCP sockets: small writes leave at once, and a peer that is gone is noticed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// Idle time before the kernel probes a silent peer.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Time between probes.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// Unanswered probes, or time of unacknowledged data, after which the connection is dead (`TCP_USER_TIMEOUT`, RFC 5482).
pub const DEAD_AFTER: Duration = Duration::from_secs(35);

/// Sets `TCP_NODELAY`, keep-alive probes and `TCP_USER_TIMEOUT`.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))
}

/// Makes closing this socket an abort: the peer sees a reset, never a clean end.
pub fn reset_on_close(stream: &TcpStream) {
    // Fails only on a socket that is gone already, whose peer has its reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Completes when the socket is in error (reset, or timed out), never on a mere end of one direction. Cancel safe.
pub async fn died(socket: &TcpStream) -> io::Error {
    match socket.ready(Interest::ERROR).await {
        Err(e) => e,
        Ok(_) => match socket.take_error() {
            Ok(Some(e)) | Err(e) => e,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
    }
}

/// Reads or writes a socket that others look at too. One task may read and one may write at a time.
#[derive(Debug)]
pub(crate) struct ByRef<'a>(pub(crate) &'a TcpStream);

impl AsyncRead for ByRef<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(out.initialize_unfilled()) {
                Ok(n) => {
                    out.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for ByRef<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = SockRef::from(self.0).shutdown(std::net::Shutdown::Write);
        Poll::Ready(done)
    }
}
