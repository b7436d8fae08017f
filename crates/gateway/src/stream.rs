//! Joining two byte streams that are no sockets of ours: upgraded connections.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio_util::sync::CancellationToken;

/// Buffer of one direction in bytes.
const BUFFER: usize = 32 * 1024;

/// What a joined pair moved, and whether both directions ended cleanly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joined {
    /// Bytes from the first to the second.
    pub there: u64,
    /// Bytes from the second to the first.
    pub back: u64,
    /// Whether both directions ended, rather than broke or were cut.
    pub complete: bool,
}

/// Joins two streams until both directions have ended, one breaks, or `cut` is cancelled. Every read is flushed at once.
/// Half-closes are kept. (Dropping hyper's upgraded HTTP/2 streams ends them cleanly: there a break cannot be told from an
/// end, which is why TCP services have sessions of their own.)
pub async fn join<A, B>(a: A, b: B, cut: &CancellationToken) -> Joined
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let mut joined = Joined::default();
    let (mut a_read, mut a_write) = split(a);
    let (mut b_read, mut b_write) = split(b);
    let both = async {
        tokio::try_join!(
            one_way(&mut a_read, &mut b_write, &mut joined.there),
            one_way(&mut b_read, &mut a_write, &mut joined.back),
        )
    };
    let complete = tokio::select! {
        ended = both => ended.is_ok(),
        () = cut.cancelled() => false,
    };
    joined.complete = complete;
    joined
}

async fn one_way<R, W>(from: &mut R, to: &mut W, moved: &mut u64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        *moved += n as u64;
    }
}
