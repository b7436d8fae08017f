//! Every session that lives, so that it can be cut: the moment its peer is revoked, when its certificate is long past its end,
//! or when the gateway stops. The cut is at the carrier, below TLS and HTTP, so nothing above can forget to heed it.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hawser_identity::Proved;
use hawser_proto::{NodeId, UnixTime};
use hawser_session::{BoxedCarrier, Carrier};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How long a session may outlive the certificates that it was made with.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// The sessions of this gateway, both directions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Live(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next: AtomicU64,
    sessions: Mutex<HashMap<u64, Entry>>,
}

struct Entry {
    cut: Arc<Cut>,
    /// Who TLS proved it is; none until then.
    peer: Option<Peer>,
}

/// Who is at the other end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its identity, and who vouches for it.
    pub(crate) proved: Proved,
    /// The end of the certificates that the session was made with, the earlier of both sides.
    pub(crate) expires: UnixTime,
}

impl Live {
    /// Takes a carrier under control. Until [`Handle::proved`] nobody is known to be at its end.
    pub(crate) fn enlist(&self, carrier: BoxedCarrier) -> (BoxedCarrier, Handle) {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let cut = Arc::new(Cut::default());
        self.sessions().insert(
            id,
            Entry {
                cut: cut.clone(),
                peer: None,
            },
        );
        let handle = Handle {
            live: self.clone(),
            id,
            cut: cut.clone(),
        };
        let guard = Guard {
            live: self.clone(),
            id,
        };
        (
            Box::new(Watched {
                carrier,
                cut,
                _guard: guard,
            }),
            handle,
        )
    }

    /// Cuts the sessions that `which` chooses; returns how many. `which` sees only sessions whose peer is proved.
    pub(crate) fn cut(&self, mut which: impl FnMut(&Peer) -> bool) -> usize {
        let doomed: Vec<_> = self
            .sessions()
            .values()
            .filter(|e| e.peer.as_ref().is_some_and(&mut which))
            .map(|e| e.cut.clone())
            .collect();
        doomed.iter().filter(|cut| cut.now()).count()
    }

    /// Cuts everything, sessions in the making included.
    pub(crate) fn cut_all(&self) {
        let all: Vec<_> = self.sessions().values().map(|e| e.cut.clone()).collect();
        for cut in all {
            cut.now();
        }
    }

    /// Cuts what has outlived its certificates by [`GRACE`].
    pub(crate) fn cut_expired(&self, now: UnixTime) -> usize {
        self.cut(|peer| peer.expires.plus(GRACE) < now)
    }

    /// The peers with live sessions, each once.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        let mut peers: Vec<_> = self
            .sessions()
            .values()
            .filter_map(|e| e.peer.as_ref().map(|p| p.proved.id.clone()))
            .collect();
        peers.sort();
        peers.dedup();
        peers
    }

    /// How many sessions live with this peer.
    pub(crate) fn with(&self, node: &NodeId) -> usize {
        self.sessions()
            .values()
            .filter(|e| e.peer.as_ref().is_some_and(|p| p.proved.id == *node))
            .count()
    }

    /// How many sessions live.
    pub(crate) fn len(&self) -> usize {
        self.sessions().len()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner's hold on an enlisted session. Dropping it changes nothing.
pub(crate) struct Handle {
    live: Live,
    id: u64,
    cut: Arc<Cut>,
}

impl Handle {
    /// TLS has proved who the peer is.
    pub(crate) fn proved(&self, peer: Peer) {
        if let Some(entry) = self.live.sessions().get_mut(&self.id) {
            entry.peer = Some(peer);
        }
    }

    /// Counts the session in `load` until it ends.
    pub(crate) fn count_in(&self, load: Arc<AtomicUsize>) {
        load.fetch_add(1, Ordering::Relaxed);
        let mut slot = self.cut.load.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Load(load));
    }
}

struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Cut {
    done: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    load: Mutex<Option<Load>>,
}

impl Cut {
    /// True when it was not cut before.
    fn now(&self) -> bool {
        let first = !self.done.swap(true, Ordering::SeqCst);
        self.reader.wake();
        self.writer.wake();
        first
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

struct Guard {
    live: Live,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.live.sessions().remove(&self.id);
    }
}

/// A carrier that fails the moment it is cut.
struct Watched {
    carrier: BoxedCarrier,
    cut: Arc<Cut>,
    _guard: Guard,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.cut
            .load
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Watched {
    fn check(&self, waker: &AtomicWaker, cx: &Context<'_>) -> io::Result<()> {
        waker.register(cx.waker());
        if self.cut.is_done() {
            self.carrier.abort();
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the session was cut",
            ));
        }
        Ok(())
    }
}

impl Carrier for Watched {
    fn tcp(&self) -> Option<&TcpStream> {
        self.carrier.tcp()
    }

    fn abort(&self) {
        self.carrier.abort();
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(&self.cut.reader, cx)?;
        Pin::new(&mut self.carrier).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(&self.cut.writer, cx)?;
        Pin::new(&mut self.carrier).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(&self.cut.writer, cx)?;
        Pin::new(&mut self.carrier).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.carrier.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn peer(node: &str, expires: u64) -> Peer {
        let proved = Proved {
            id: node.parse().unwrap(),
            issuer: "spiffe://beta/issuer/gw1".parse().unwrap(),
            not_after: UnixTime(expires),
            root: hawser_identity::Fingerprint([0; 32]),
        };
        Peer {
            proved,
            expires: UnixTime(expires),
        }
    }

    #[tokio::test]
    async fn a_cut_wakes_the_reader_and_resets_the_socket() {
        let live = Live::default();
        let (near, mut far) = pair().await;
        let (mut carrier, handle) = live.enlist(Box::new(near));
        handle.proved(peer("spiffe://beta/gateway/gw1", 100));
        let load = Arc::new(AtomicUsize::new(0));
        handle.count_in(load.clone());
        assert_eq!((live.len(), load.load(Ordering::Relaxed)), (1, 1));
        let reading = tokio::spawn(async move { carrier.read_u8().await.unwrap_err().kind() });
        tokio::task::yield_now().await;
        assert_eq!(live.cut(|p| p.proved.id.name.as_str() == "gw2"), 0);
        assert_eq!(live.cut(|p| p.proved.id.name.as_str() == "gw1"), 1);
        assert_eq!(reading.await.unwrap(), io::ErrorKind::ConnectionAborted);
        assert_eq!(
            far.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert_eq!((live.len(), load.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn what_outlives_its_certificate_is_cut() {
        let live = Live::default();
        let (near, _far) = pair().await;
        let (mut carrier, handle) = live.enlist(Box::new(near));
        handle.proved(peer("spiffe://beta/gateway/gw1", 1000));
        assert_eq!(live.cut_expired(UnixTime(1000 + GRACE.as_secs())), 0);
        carrier.write_all(b"x").await.unwrap();
        assert_eq!(live.cut_expired(UnixTime(1001 + GRACE.as_secs())), 1);
        assert!(carrier.write_all(b"x").await.is_err());
    }
}
