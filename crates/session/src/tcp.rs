//! One TCP connection through one end-to-end session, honest about its end.
//!
//! The end of a direction is a close_notify inside TLS, and only that: a half-close is kept, and everything else (a reset, a
//! stream cut short by whoever stands between) is passed on as a reset, so that nobody takes half an answer for a whole one.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::{
    end_to_end::EndToEnd,
    socket::{self, ByRef},
};

/// Buffer of one direction in bytes.
const BUFFER: usize = 64 * 1024;

/// How a bridged connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeEnd {
    /// Both directions ended cleanly.
    Closed,
    /// The local side was reset; so was the tunnel.
    LocalReset,
    /// The tunnel broke or was reset; so was the local side.
    TunnelReset,
    /// It was cut from here.
    Cut,
}

impl BridgeEnd {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            BridgeEnd::Closed => "closed",
            BridgeEnd::LocalReset => "local-reset",
            BridgeEnd::TunnelReset => "tunnel-reset",
            BridgeEnd::Cut => "cut",
        }
    }
}

/// Bytes that a bridge moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// From the local side into the tunnel.
    pub sent: u64,
    /// From the tunnel to the local side.
    pub received: u64,
}

/// Which side of a direction failed.
enum Side {
    Local,
    Tunnel,
}

/// Joins a local connection to a tunnel until both directions have ended, or `cut` is cancelled.
pub async fn bridge(local: TcpStream, tunnel: EndToEnd, cut: CancellationToken) -> (BridgeEnd, Moved) {
    // A local side that has finished sending can still be reset.
    let died = async {
        socket::died(&local).await;
    };
    let (end, moved) = join((ByRef(&local), ByRef(&local)), died, tunnel, cut).await;
    if end != BridgeEnd::Closed {
        socket::reset_on_close(&local);
    }
    (end, moved)
}

/// As [`bridge`], for a local side that is no socket (a stream in a client's HTTP/2 connection): a break of the tunnel is
/// told by dropping it.
pub async fn bridge_stream<S>(local: S, tunnel: EndToEnd, cut: CancellationToken) -> (BridgeEnd, Moved)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    join(tokio::io::split(local), std::future::pending(), tunnel, cut).await
}

/// Moves bytes both ways; `died` completes when the local side is seen to be gone.
async fn join<R, W>(
    (mut local_read, mut local_write): (R, W),
    died: impl Future<Output = ()>,
    mut tunnel: EndToEnd,
    cut: CancellationToken,
) -> (BridgeEnd, Moved)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut moved = Moved::default();
    let end = {
        let (mut tunnel_read, mut tunnel_write) = tokio::io::split(tunnel.stream_mut());
        let up = one_way(&mut local_read, &mut tunnel_write, &mut moved.sent, Side::Local);
        let down = one_way(
            &mut tunnel_read,
            &mut local_write,
            &mut moved.received,
            Side::Tunnel,
        );
        tokio::select! {
            biased;
            () = cut.cancelled() => BridgeEnd::Cut,
            ended = async { tokio::try_join!(up, down) } => match ended {
                Ok(_) => BridgeEnd::Closed,
                Err(Side::Local) => BridgeEnd::LocalReset,
                Err(Side::Tunnel) => BridgeEnd::TunnelReset,
            },
            () = died => BridgeEnd::LocalReset,
        }
    };
    if end != BridgeEnd::Closed {
        tunnel.carrier().abort();
    }
    (end, moved)
}

async fn one_way<R, W>(from: &mut R, to: &mut W, moved: &mut u64, source: Side) -> Result<(), Side>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let sink = match source {
        Side::Local => Side::Tunnel,
        Side::Tunnel => Side::Local,
    };
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(n) => n,
            Err(_) => return Err(source),
        };
        let wrote = match n {
            0 => to.shutdown().await,
            n => write(to, &buffer[..n]).await,
        };
        match wrote {
            Ok(()) if n == 0 => return Ok(()),
            Ok(()) => *moved += n as u64,
            Err(_) => return Err(sink),
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
