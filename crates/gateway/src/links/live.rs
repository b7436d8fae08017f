//! Every session that lives, so that it can be cut: the moment its peer is revoked, when its certificate is long past its end,
//! or when the gateway stops. The cut is at the carrier, below TLS and HTTP, so nothing above can forget to heed it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use hawser_identity::Proved;
use hawser_proto::{NodeId, UnixTime};
use hawser_session::{BoxedCarrier, Carrier, end_to_end::Binding};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How long a session may outlive the certificates that it was made with.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// Least time between two attempts to authenticate a session again.
const AGAIN: Duration = Duration::from_secs(1);

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
    binding: Binding,
    /// When it is to be authenticated again, if that is for this side to do.
    due: Option<Instant>,
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
                binding: [0; 32],
                due: None,
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

    /// Sessions that are to be authenticated again, by peer: those that were dialled here and are past half of their time. They are
    /// due again after a part of what is left, whatever comes of it.
    pub(crate) fn ageing(&self, now: UnixTime, clock: Instant) -> BTreeMap<NodeId, Vec<Binding>> {
        let mut ageing: BTreeMap<NodeId, Vec<Binding>> = BTreeMap::new();
        for entry in self.sessions().values_mut() {
            let (Some(due), Some(peer)) = (entry.due, &entry.peer) else {
                continue;
            };
            if due > clock || entry.cut.is_done() {
                continue;
            }
            entry.due = Some(clock + (now.until(peer.expires) / 8).max(AGAIN));
            ageing
                .entry(peer.proved.id.clone())
                .or_default()
                .push(entry.binding);
        }
        ageing
    }

    /// Who is at the other end of the session that has this binding.
    pub(crate) fn peer_of(&self, binding: &Binding) -> Option<Peer> {
        let sessions = self.sessions();
        let mut found = sessions.values().filter(|e| e.binding == *binding);
        found.find_map(|e| e.peer.clone())
    }

    /// Those of these sessions whose time is over before `end`.
    pub(crate) fn older(&self, bindings: &[Binding], end: UnixTime) -> Vec<Binding> {
        let sessions = self.sessions();
        let older =
            |e: &&Entry| bindings.contains(&e.binding) && e.peer.as_ref().is_some_and(|p| p.expires < end);
        sessions.values().filter(older).map(|e| e.binding).collect()
    }

    /// The ends of these sessions are as good as `fresh` from now on, who has just been proved by another session: those of them whose
    /// peer is the same, and whose time would be over sooner. Which these are.
    pub(crate) fn prolong(&self, fresh: &Peer, bindings: &[Binding], now: UnixTime) -> Vec<Binding> {
        let mut done = Vec::new();
        for entry in self.sessions().values_mut() {
            let Some(peer) = &mut entry.peer else { continue };
            if peer.proved.id != fresh.proved.id
                || peer.expires >= fresh.expires
                || !bindings.contains(&entry.binding)
                || entry.cut.is_done()
            {
                continue;
            }
            *peer = fresh.clone();
            entry.due = entry.due.map(|_| half(now, fresh.expires));
            done.push(entry.binding);
        }
        done
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
    /// TLS has proved who the peer is. The side that dialled authenticates the session again when its time comes.
    pub(crate) fn proved(&self, peer: Peer, binding: Binding, dialled: bool) {
        if let Some(entry) = self.live.sessions().get_mut(&self.id) {
            entry.binding = binding;
            entry.due = dialled.then(|| half(UnixTime::now(), peer.expires));
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

/// When half of the time until `expires` is over.
pub(crate) fn half(now: UnixTime, expires: UnixTime) -> Instant {
    Instant::now() + now.until(expires) / 2
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
        handle.proved(peer("spiffe://beta/gateway/gw1", 100), [1; 32], true);
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
        handle.proved(peer("spiffe://beta/gateway/gw1", 1000), [1; 32], true);
        assert_eq!(live.cut_expired(UnixTime(1000 + GRACE.as_secs())), 0);
        carrier.write_all(b"x").await.unwrap();
        assert_eq!(live.cut_expired(UnixTime(1001 + GRACE.as_secs())), 1);
        assert!(carrier.write_all(b"x").await.is_err());
    }

    #[tokio::test]
    async fn only_the_same_peers_own_sessions_are_prolonged_and_only_by_fresher_certificates() {
        let live = Live::default();
        let mut ends = Vec::new();
        for (n, name) in [(1, "gw1"), (2, "gw1"), (3, "gw2")] {
            let (near, far) = pair().await;
            let (carrier, handle) = live.enlist(Box::new(near));
            handle.proved(
                peer(&format!("spiffe://beta/gateway/{name}"), 1000),
                [n; 32],
                n == 1,
            );
            ends.push((carrier, far));
        }
        let all = [[1; 32], [2; 32], [3; 32], [9; 32]];
        let now = UnixTime(900);
        let fresh = |expires| peer("spiffe://beta/gateway/gw1", expires);
        assert!(live.prolong(&fresh(1000), &all, now).is_empty(), "no fresher");
        assert_eq!(live.prolong(&fresh(2000), &all[1..], now), [[2; 32]]);
        assert_eq!(live.peer_of(&[2; 32]).unwrap().expires, UnixTime(2000));
        assert_eq!(
            live.peer_of(&[3; 32]).unwrap().expires,
            UnixTime(1000),
            "another's"
        );
        assert_eq!(live.cut_expired(UnixTime(1500)), 2);
        assert!(
            live.prolong(&fresh(3000), &all[..1], now).is_empty(),
            "it was cut"
        );
    }

    #[tokio::test]
    async fn sessions_are_due_at_half_their_time_where_they_were_dialled() {
        let live = Live::default();
        let mut ends = Vec::new();
        for (n, dialled) in [(1, true), (2, false)] {
            let (near, far) = pair().await;
            let (carrier, handle) = live.enlist(Box::new(near));
            let expires = UnixTime::now().0 + 1000;
            handle.proved(peer("spiffe://beta/gateway/gw1", expires), [n; 32], dialled);
            ends.push((carrier, far));
        }
        let (now, clock) = (UnixTime::now(), Instant::now());
        assert!(live.ageing(now, clock).is_empty());
        let later = clock + Duration::from_secs(501);
        let due = live.ageing(now, later);
        assert_eq!(due.values().flatten().collect::<Vec<_>>(), [&[1; 32]]);
        assert!(live.ageing(now, later).is_empty(), "not again at once");
        assert!(!live.ageing(now, later + Duration::from_secs(200)).is_empty());
    }
}
