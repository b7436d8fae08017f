//! The hub's relay: raw bytes from one socket to the other and back, moved by the kernel, seen by nobody.
//!
//! `splice(2)` moves pages from socket to pipe to socket. Pipes come from a [`PipePool`] and are borrowed only while bytes
//! move, so that an idle pair costs its two sockets. Where the kernel has no pipe left (or refuses `splice`), a 64 KiB copy
//! does the same work. A half-close is passed on as one, a reset as a reset, and a pair of which one leg died is closed.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};
use tokio_util::sync::CancellationToken;

use crate::socket;

/// Wanted size of a pipe in bytes; a smaller one is taken where the system grants no more.
const PIPE_SIZE: usize = 1 << 20;
/// Most bytes asked of one `splice`.
const MOST: usize = 1 << 20;
/// Buffer of the copying fallback in bytes.
const COPY: usize = 64 * 1024;

/// Empty pipes, kept for reuse.
#[derive(Debug, Clone)]
pub struct PipePool {
    idle: Arc<Mutex<Vec<Pipe>>>,
    keep: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl PipePool {
    /// A pool that keeps at most `keep` idle pipes.
    pub fn new(keep: usize) -> Self {
        Self {
            idle: Arc::default(),
            keep,
        }
    }

    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Past the user's share of pipe pages the default of 64 KiB stays, which only costs speed.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(Pipe { read, write })
    }

    fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.keep {
            idle.push(pipe);
        }
    }
}

/// What relays have moved, for metrics.
#[derive(Debug, Default)]
pub struct RelayCounters {
    /// Bytes moved by `splice`.
    pub spliced: AtomicU64,
    /// Bytes moved through a buffer.
    pub copied: AtomicU64,
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides closed.
    Closed,
    /// One side was reset or timed out; the other got a reset.
    Reset,
    /// The token was cancelled; both got a reset.
    Cut,
}

impl RelayEnd {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RelayEnd::Closed => "closed",
            RelayEnd::Reset => "reset",
            RelayEnd::Cut => "cut",
        }
    }
}

/// Moves bytes between two sockets until both directions ended. Cancel safe in that dropping it closes both sockets.
pub async fn relay(
    a: TcpStream,
    b: TcpStream,
    pipes: &PipePool,
    counters: &RelayCounters,
    cut: CancellationToken,
) -> RelayEnd {
    relay_counting(a, b, pipes, [counters; 2], cut).await
}

/// The same, with counters for each direction: from `a` to `b`, and back.
pub async fn relay_counting(
    a: TcpStream,
    b: TcpStream,
    pipes: &PipePool,
    [there, back]: [&RelayCounters; 2],
    cut: CancellationToken,
) -> RelayEnd {
    let both = async { tokio::try_join!(one_way(&a, &b, pipes, there), one_way(&b, &a, pipes, back)) };
    let end = tokio::select! {
        biased;
        () = cut.cancelled() => RelayEnd::Cut,
        ended = both => match ended {
            Ok(_) => RelayEnd::Closed,
            Err(_) => RelayEnd::Reset,
        },
    };
    if end != RelayEnd::Closed {
        socket::reset_on_close(&a);
        socket::reset_on_close(&b);
    }
    end
}

/// One direction until its end, which is passed on.
async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    pipes: &PipePool,
    counters: &RelayCounters,
) -> io::Result<()> {
    let mut how = How::Splice;
    loop {
        readable(from, to).await?;
        let end = match how {
            How::Splice => match splice_burst(from, to, pipes, counters).await {
                Ok(end) => end,
                Err(Burst::NoSplice) => {
                    how = How::Copy;
                    continue;
                }
                Err(Burst::Io(e)) => return Err(e),
            },
            How::Copy => copy_burst(from, to, counters).await?,
        };
        if end {
            return shutdown(to, Shutdown::Write).map_err(Into::into);
        }
    }
}

enum How {
    Splice,
    Copy,
}

/// Waits until `from` can be read; an error when either socket has died, so that a dead leg frees its silent partner.
async fn readable(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    tokio::select! {
        biased;
        ready = from.readable() => ready,
        dead = socket::died(to) => Err(dead),
    }
}

enum Burst {
    /// The kernel has no pipe for us or refuses; nothing is lost.
    NoSplice,
    Io(io::Error),
}

impl From<io::Error> for Burst {
    fn from(e: io::Error) -> Self {
        Burst::Io(e)
    }
}

/// Moves what is there, with a borrowed pipe; true at the end of the stream.
async fn splice_burst(
    from: &TcpStream,
    to: &TcpStream,
    pipes: &PipePool,
    counters: &RelayCounters,
) -> Result<bool, Burst> {
    let pipe = pipes.take().map_err(|_| Burst::NoSplice)?;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        // The pipe is empty here: filled only when empty, so that a would-block can only mean the socket's.
        let filled = from.try_io(Interest::READABLE, || {
            splice(from.as_fd(), None, pipe.write.as_fd(), None, MOST, flags).map_err(Into::into)
        });
        let mut left = match filled {
            Ok(0) => {
                pipes.give_back(pipe);
                return Ok(true);
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                pipes.give_back(pipe);
                return Ok(false);
            }
            Err(e)
                if [Errno::PERM, Errno::INVAL, Errno::NOSYS]
                    .iter()
                    .any(|n| e.raw_os_error() == Some(n.raw_os_error())) =>
            {
                return Err(Burst::NoSplice);
            }
            Err(e) => return Err(e.into()),
        };
        while left > 0 {
            let drained = to.try_io(Interest::WRITABLE, || {
                splice(pipe.read.as_fd(), None, to.as_fd(), None, left, flags).map_err(Into::into)
            });
            match drained {
                Ok(n) => {
                    left -= n;
                    counters.spliced.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                // The pipe holds bytes: it is dropped, not pooled.
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Moves what is there, with a buffer; true at the end of the stream.
async fn copy_burst(from: &TcpStream, to: &TcpStream, counters: &RelayCounters) -> io::Result<bool> {
    let mut buffer = vec![0; COPY];
    loop {
        let n = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut at = 0;
        while at < n {
            match to.try_write(&buffer[at..n]) {
                Ok(m) => {
                    at += m;
                    counters.copied.fetch_add(m as u64, Ordering::Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinHandle,
    };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap());
        let (a, b) = tokio::join!(out, listener.accept());
        (a.unwrap(), b.unwrap().0)
    }

    struct Rig {
        left: TcpStream,
        right: TcpStream,
        counters: Arc<RelayCounters>,
        pipes: PipePool,
        cut: CancellationToken,
        end: JoinHandle<RelayEnd>,
    }

    async fn rig() -> Rig {
        let ((left, a), (b, right)) = (pair().await, pair().await);
        let (counters, pipes, cut) = (
            Arc::new(RelayCounters::default()),
            PipePool::new(4),
            CancellationToken::new(),
        );
        let (c, p, t) = (counters.clone(), pipes.clone(), cut.clone());
        let end = tokio::spawn(async move { relay(a, b, &p, &c, t).await });
        Rig {
            left,
            right,
            counters,
            pipes,
            cut,
            end,
        }
    }

    #[tokio::test]
    async fn bytes_cross_both_ways_by_splice_alone_and_half_close_is_kept() {
        let mut r = rig().await;
        let big = (0..3_000_000u32).map(|i| (i * 7) as u8).collect::<Vec<_>>();
        let sent = big.clone();
        let (mut lr, mut lw) = r.left.split();
        let (mut rr, mut rw) = r.right.split();
        let up = async {
            lw.write_all(&sent).await.unwrap();
            lw.shutdown().await.unwrap();
        };
        let down = async {
            let mut got = Vec::new();
            rr.read_to_end(&mut got).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(up, down);
        assert!(got == big);
        // The other direction is open after the half-close.
        rw.write_all(b"after").await.unwrap();
        let mut five = [0; 5];
        lr.read_exact(&mut five).await.unwrap();
        rw.shutdown().await.unwrap();
        assert_eq!(lr.read(&mut five).await.unwrap(), 0);
        assert_eq!(r.end.await.unwrap(), RelayEnd::Closed);
        assert_eq!(r.counters.spliced.load(Ordering::Relaxed), big.len() as u64 + 5);
        assert_eq!(r.counters.copied.load(Ordering::Relaxed), 0);
        assert!(
            (1..=2).contains(&r.pipes.idle.lock().unwrap().len()),
            "pipes go back to the pool"
        );
    }

    #[tokio::test]
    async fn a_reset_of_one_side_is_a_reset_to_the_other() {
        let mut r = rig().await;
        r.left.write_all(b"x").await.unwrap();
        let mut one = [0; 1];
        r.right.read_exact(&mut one).await.unwrap();
        socket::reset_on_close(&r.left);
        drop(r.left);
        assert_eq!(
            r.right.read(&mut one).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert_eq!(r.end.await.unwrap(), RelayEnd::Reset);
    }

    #[tokio::test]
    async fn a_cut_resets_both() {
        let mut r = rig().await;
        r.left.write_all(b"x").await.unwrap();
        let mut one = [0; 1];
        r.right.read_exact(&mut one).await.unwrap();
        r.cut.cancel();
        assert_eq!(r.end.await.unwrap(), RelayEnd::Cut);
        assert!(r.left.read(&mut one).await.is_err());
        assert!(r.right.read(&mut one).await.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_stalls_holds_its_own_direction_only() {
        let mut r = rig().await;
        let (mut lr, mut lw) = r.left.split();
        let mut rw = r.right;
        // Fill left to right until nothing moves; right never reads.
        let block = vec![0; 1 << 20];
        while tokio::time::timeout(std::time::Duration::from_millis(300), lw.write_all(&block))
            .await
            .is_ok()
        {}
        rw.write_all(b"hello").await.unwrap();
        let mut five = [0; 5];
        lr.read_exact(&mut five).await.unwrap();
        assert_eq!(&five, b"hello");
    }
}
