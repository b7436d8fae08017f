use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
    thread,
    time::Instant,
};

use hawser_identity::{Credentials, Issuer, LEAF_LIFE, NodeKey, RootAuthority, Trust};
use hawser_proto::NodeName;
use hawser_testkit::{Host, net::Hypervisors, wait::SOON};
use tokio::runtime::Runtime;

use super::*;

/// A domain that makes its nodes' certificates.
struct Domain {
    name: DomainName,
    root: RootAuthority,
    issuer: Issuer,
}

impl Domain {
    fn new(name: &str) -> Self {
        let name: DomainName = name.parse().unwrap();
        let root = RootAuthority::create(&name).unwrap();
        let issuer = Issuer::create(&root, &name, &"gw1".parse().unwrap()).unwrap();
        Self { name, root, issuer }
    }

    fn node(&self, make: fn(DomainName, NodeName) -> NodeId, name: &str) -> SharedCredentials {
        let key = NodeKey::create().unwrap();
        let id = make(self.name.clone(), name.parse().unwrap());
        let chain = self.issuer.issue(&id, &key.csr().unwrap(), LEAF_LIFE).unwrap();
        Credentials::new(chain, &key).unwrap().shared()
    }

    fn host(&self, name: &str) -> SharedCredentials {
        self.node(NodeId::host, name)
    }
}

/// Two hosts of a domain, the second of which listens.
struct Pair {
    dialler: Host,
    acme: Domain,
    one: SharedCredentials,
    two: SharedCredentials,
    trust: SharedTrust,
    runtime: Runtime,
    listener: Listener,
}

impl Pair {
    fn new() -> Self {
        let here = Host::on_loopback("here", Ipv4Addr::LOCALHOST);
        Self::between(&here, &here, Box::new(|_| true))
    }

    fn between(one: &Host, two: &Host, allow: Allow) -> Self {
        let acme = Domain::new("acme");
        let trust = trust(&[&acme]);
        let socket = two.listen(two.at(0)).unwrap();
        let runtime = one.runtime().unwrap();
        let (first, second) = (acme.host("a"), acme.host("b"));
        let listener = runtime
            .block_on(async { Listener::on(socket, second.clone(), trust.clone(), allow) })
            .unwrap();
        Self {
            dialler: one.clone(),
            acme,
            one: first,
            two: second,
            trust,
            runtime,
            listener,
        }
    }

    fn at(&self) -> SocketAddr {
        self.listener.local()
    }

    fn dial_as(&self, own: &SharedCredentials, expect: &NodeId) -> Result<Channel, LinkError> {
        let dialled = dial(self.at(), expect, own.clone(), self.trust.clone());
        self.dialler.enter(|| self.runtime.block_on(dialled)).unwrap()
    }

    fn dial(&self) -> Result<Channel, LinkError> {
        let two = self.two.load();
        self.dial_as(&self.one, two.id())
    }

    fn accept(&mut self) -> Channel {
        let accepted = async { tokio::time::timeout(SOON, self.listener.accept()).await };
        self.runtime.block_on(accepted).unwrap().unwrap()
    }

    fn channels(&mut self) -> (Channel, Channel) {
        let dialled = self.dial().unwrap();
        (dialled, self.accept())
    }
}

fn trust(domains: &[&Domain]) -> SharedTrust {
    let mut trust = Trust::new();
    for domain in domains {
        trust
            .add_root(&domain.name, domain.root.certificate().clone())
            .unwrap();
    }
    trust.shared()
}

/// Runs this in a thread of its own; what it returns must come in time.
fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    later(work).recv_timeout(SOON).expect("it ends")
}

fn later<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()).unwrap_or_default());
    result
}

/// Writes until there is an error.
fn flood(mut writer: Writer) -> io::Error {
    let bytes = vec![7; 100_000];
    loop {
        if let Err(e) = writer.write_all(&bytes) {
            return e;
        }
    }
}

fn pattern(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 31 + seed) ^ (i >> 11)) as u8).collect()
}

#[test]
fn both_ends_know_each_other_and_the_same_keys() {
    let mut pair = Pair::new();
    let (one, two) = pair.channels();
    assert_eq!(one.peer.to_string(), "spiffe://acme/host/b");
    assert_eq!(two.peer.to_string(), "spiffe://acme/host/a");
    assert_eq!((one.local, one.address), (two.address, two.local));
    assert!(pair.trust.load().stands(&two.proved));
    assert_eq!(one.heart.send.tag, two.heart.receive.tag);
    assert_eq!(two.heart.send.tag, one.heart.receive.tag);
    assert_ne!(one.heart.send.tag, one.heart.receive.tag);
    let again = pair.channels();
    assert_ne!(
        one.heart.send.tag, again.0.heart.send.tag,
        "each channel has its own"
    );
}

#[test]
fn bytes_go_both_ways_at_once_and_end_cleanly() {
    let mut pair = Pair::new();
    let (one, two) = pair.channels();
    let all = 24 << 20;
    let carry = |seed, mut writer: Writer| {
        later(move || {
            let bytes = pattern(all, seed);
            for (i, piece) in bytes.chunks(70_001).enumerate() {
                writer.write_all(&piece[..piece.len().min(i)]).unwrap();
                writer.write_all(&piece[piece.len().min(i)..]).unwrap();
            }
        })
    };
    let take = |seed, mut reader: Reader| {
        later(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes == pattern(all, seed)
        })
    };
    let work = [carry(1, one.writer), carry(2, two.writer)];
    let results = [take(2, one.reader), take(1, two.reader)];
    for w in work {
        w.recv_timeout(3 * SOON).unwrap();
    }
    for r in results {
        assert!(r.recv_timeout(3 * SOON).unwrap());
    }
    assert!(one.life.last().is_some() && two.life.last().is_some());
}

#[test]
fn an_abort_ends_both_halves_at_once_and_the_peer_learns_of_it() {
    let mut pair = Pair::new();
    let (one, mut two) = pair.channels();
    let (mut reader, writer, aborter) = (one.reader, one.writer, one.aborter);
    let reading = later(move || reader.read(&mut [0; 10]).unwrap_err().kind());
    let (begun, beginning) = mpsc::channel();
    let writing = later(move || {
        begun.send(()).unwrap();
        flood(writer).kind()
    });
    beginning.recv().unwrap();
    // It blocks when nobody reads at the other end.
    assert!(writing.recv_timeout(Duration::from_millis(300)).is_err());
    let began = Instant::now();
    aborter.abort();
    aborter.clone().abort();
    assert_eq!(reading.recv_timeout(SOON).unwrap(), ErrorKind::ConnectionAborted);
    assert_eq!(writing.recv_timeout(SOON).unwrap(), ErrorKind::ConnectionAborted);
    assert!(began.elapsed() < DEAD_AFTER);
    assert!(aborter.is_aborted());
    drop(aborter);
    let end = soon(move || io::copy(&mut two.reader, &mut io::sink()).unwrap_err().kind());
    assert!(
        matches!(end, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof),
        "{end}"
    );
    assert!(soon(move || flood(two.writer)).raw_os_error().is_some());
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_end() {
    let mut pair = Pair::new();
    let (mut one, two) = pair.channels();
    one.writer.write_all(b"unread").unwrap();
    two.aborter.abort();
    drop(two);
    let end = soon(move || one.reader.read(&mut [0; 10]).unwrap_err().kind());
    assert!(
        matches!(end, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof),
        "{end}"
    );
}

#[test]
fn what_is_changed_or_cut_off_on_its_way_is_noticed() {
    let mut pair = Pair::new();
    for change in [true, false] {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let (via, to) = (proxy.local_addr().unwrap(), pair.at());
        let (go, going) = mpsc::channel::<()>();
        thread::spawn(move || meddle(&proxy.accept().unwrap().0, to, &going, change));
        let expect = pair.two.load().id().clone();
        let dialled = dial(via, &expect, pair.one.clone(), pair.trust.clone());
        let mut one = pair.runtime.block_on(dialled).unwrap();
        let mut two = pair.accept();
        go.send(()).unwrap();
        one.writer.write_all(&[1; 1000]).unwrap();
        let e = soon(move || {
            let mut all = Vec::new();
            (two.reader.read_to_end(&mut all).unwrap_err().kind(), all.len())
        });
        let expected = if change {
            ErrorKind::InvalidData
        } else {
            ErrorKind::UnexpectedEof
        };
        assert_eq!(e, (expected, 0));
    }
}

/// Passes bytes on until told; from then on changes one, or cuts the stream in the midst of what comes next.
fn meddle(from: &TcpStream, to: SocketAddr, go: &mpsc::Receiver<()>, change: bool) {
    let to = TcpStream::connect(to).unwrap();
    let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    thread::spawn(move || io::copy(&mut back_from, &mut back_to));
    let mut bytes = [0; 4096];
    loop {
        let n = (&mut &*from).read(&mut bytes).unwrap_or(0);
        if n == 0 {
            return;
        }
        let told = n > 900 && go.recv_timeout(Duration::ZERO).is_ok();
        if told && !change {
            (&to).write_all(&bytes[..n / 2]).unwrap();
            to.shutdown(std::net::Shutdown::Write).unwrap();
            return;
        }
        if told {
            bytes[n / 2] ^= 1;
        }
        (&to).write_all(&bytes[..n]).unwrap();
    }
}

#[test]
fn only_hosts_of_the_own_domain_meet() {
    let acme_only = Pair::new();
    let b = acme_only.two.load().id().clone();
    let beta = Domain::new("beta");
    // Also where the other domain is trusted, as gateways may trust it.
    acme_only
        .trust
        .store(trust(&[&acme_only.acme, &beta]).load_full());
    let refused = |own: &SharedCredentials, expect: &NodeId| match acme_only.dial_as(own, expect) {
        Ok(_) => panic!("{} got in to {expect}", own.load().id()),
        Err(e) => e.to_string(),
    };
    let stranger = refused(&beta.host("a"), &b);
    assert!(stranger.contains("between hosts of one domain"), "{stranger}");
    // Whoever does not look at itself is refused by the other side.
    for own in [
        acme_only.acme.node(NodeId::gateway, "a"),
        beta.host("a"),
        beta.node(NodeId::gateway, "a"),
    ] {
        assert!(!gets_in(&acme_only, &own), "{}", own.load().id());
    }
    assert!(gets_in(&acme_only, &acme_only.one));
    // And the one that was dialled must be the one that was meant.
    let other = NodeId::host(acme_only.acme.name.clone(), "c".parse().unwrap());
    let text = refused(&acme_only.one, &other);
    assert!(
        text.contains("expected spiffe://acme/host/c, but spiffe://acme/host/b"),
        "{text}"
    );
    let gateway = NodeId::gateway(acme_only.acme.name.clone(), "b".parse().unwrap());
    assert!(refused(&acme_only.one, &gateway).contains("is no host"));
}

/// Whether somebody who does not judge itself is let in.
fn gets_in(pair: &Pair, own: &SharedCredentials) -> bool {
    use tokio::io::AsyncReadExt;
    let expect = pair.two.load().id().clone();
    let config = tls::host_client(own.clone(), pair.trust.clone(), expect).unwrap();
    pair.runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(pair.at()).await.unwrap();
        let connecting = tokio_rustls::TlsConnector::from(config).connect(tls::server_name(), socket);
        match connecting.await {
            Ok(mut stream) => stream.read_u8().await.is_ok_and(|answer| answer == WELCOME),
            Err(_) => false,
        }
    })
}

#[test]
fn a_host_that_is_revoked_or_not_expected_is_turned_away_with_the_reason() {
    let here = Host::on_loopback("here", Ipv4Addr::LOCALHOST);
    let pair = Pair::between(&here, &here, Box::new(|id| id.name.to_string() != "c"));
    let b = pair.two.load().id().clone();
    let c = pair.acme.host("c");
    assert!(matches!(pair.dial_as(&c, &b), Err(LinkError::NotExpected { .. })));
    let mut changed = (*pair.trust.load_full()).clone();
    changed.revoke(pair.one.load().id().clone());
    pair.trust.store(Arc::new(changed));
    let text = pair.dial().unwrap_err().to_string();
    assert!(text.contains("our certificate was revoked"), "{text}");
}

#[test]
fn who_connects_and_says_nothing_keeps_nobody_out_and_is_sent_away() {
    let mut pair = Pair::new();
    let other = Host::on_loopback("other", Ipv4Addr::new(127, 0, 0, 9));
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(pair.at()).unwrap()).collect();
    // From another address, since one address gets no more places than its share.
    let expect = pair.two.load().id().clone();
    let dialled = pair.runtime.block_on(async {
        let config = tls::host_client(pair.one.clone(), pair.trust.clone(), expect).unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(other.at(0)).unwrap();
        let socket = socket.connect(pair.at()).await.unwrap();
        tokio_rustls::TlsConnector::from(config)
            .connect(tls::server_name(), socket)
            .await
    });
    assert!(dialled.is_ok());
    assert_eq!(pair.accept().address.ip(), other.address());
    for one in silent {
        one.set_read_timeout(Some(SOON)).unwrap();
        let ended = (&one).read(&mut [0; 10]);
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    }
    assert!(pair.dial().is_ok(), "and the places are free again");
}

/// Two hosts with networks of their own, and the cable between them. None without root.
pub(super) struct Wired {
    pub(super) one: Host,
    pub(super) two: Host,
    net: Hypervisors,
}

impl Wired {
    pub(super) fn build() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "namespaces need root");
            eprintln!("not run: namespaces need root");
            return None;
        }
        let net = Hypervisors::build().unwrap();
        Some(Self {
            one: net.a.host.clone(),
            two: net.b.host.clone(),
            net,
        })
    }

    /// Whatever is sent to this host is lost without a trace.
    pub(super) fn deafen(&self, host: &Host) {
        self.net.replication.lose_toward(host, 100).unwrap();
    }

    pub(super) fn mend(&self) {
        self.net.replication.mend().unwrap();
    }
}

#[test]
fn a_peer_that_is_cut_off_silently_blocks_nobody_for_ever() {
    let Some(wired) = Wired::build() else { return };
    let mut pair = Pair::between(&wired.one, &wired.two, Box::new(|_| true));
    let (mut one, two) = pair.channels();
    one.writer.write_all(b"it goes").unwrap();
    wired.deafen(&wired.one);
    wired.deafen(&wired.two);
    // One has bytes to send, the other only waits.
    let writing = later(move || flood(one.writer));
    let mut idle = two.reader;
    let reading = later(move || {
        loop {
            if let Err(e) = idle.read(&mut [0; 100]) {
                return e;
            }
        }
    });
    for ended in [writing, reading] {
        let e = ended.recv_timeout(DEAD_AFTER + SOON).unwrap();
        assert_eq!(e.kind(), ErrorKind::TimedOut, "{e}");
    }
}

#[test]
fn a_peer_that_lives_and_reads_nothing_blocks_nobody_for_ever() {
    let mut pair = Pair::new();
    let (one, _two) = pair.channels();
    let e = later(move || flood(one.writer))
        .recv_timeout(2 * DEAD_AFTER + SOON)
        .unwrap();
    assert_eq!(e.kind(), ErrorKind::TimedOut, "{e}");
}
