//! Ways out: a carrier is a byte stream to a hub, however it got through the firewall.
//!
//! On every carrier run the same hop TLS, tickets and end-to-end TLS. A further way out (WebSocket, SOCKS5) is one more
//! [`Dialer`]. Several are tried in order by [`Ways`], which remembers what worked and tries better ones again later.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::BoxFuture;
use hawser_identity::HubAddress;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::socket;

/// Longest wait for one way out, connection and proxy handshake together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer head of a proxy in bytes.
const MAX_PROXY_HEAD: usize = 16 * 1024;
/// Most schemes of a proxy that are named in advice.
const MAX_SCHEMES: usize = 4;
/// How long a less preferred way is used before the better ones are tried again.
const REPROBE_AFTER: Duration = Duration::from_secs(300);

/// A byte stream to a hub.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The socket, where the carrier is nothing but one.
    fn tcp(&self) -> Option<&TcpStream>;

    /// Makes the coming close an abort, where the carrier can express one.
    fn abort(&self) {
        if let Some(tcp) = self.tcp() {
            socket::reset_on_close(tcp);
        }
    }
}

/// Any carrier.
pub type BoxedCarrier = Box<dyn Carrier>;

impl Carrier for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// Why a way out failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The connection could not be made.
    #[error("{way} to {to}: {source}")]
    Connect {
        /// Label of the way.
        way: String,
        /// The hub or proxy.
        to: String,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("{way} to {to}: no connection within {} s; is there a firewall rule for it?", DIAL_TIMEOUT.as_secs())]
    Timeout {
        /// Label of the way.
        way: String,
        /// The hub or proxy.
        to: String,
    },
    /// The proxy said no.
    #[error("{way}: the proxy answered {status} to CONNECT {to}; {advice}")]
    Proxy {
        /// Label of the way.
        way: String,
        /// The hub.
        to: String,
        /// HTTP status.
        status: u16,
        /// What to do.
        advice: String,
    },
    /// The proxy does not speak HTTP.
    #[error("{way}: what came is no HTTP answer ({what}); is it an HTTP proxy?")]
    NoProxy {
        /// Label of the way.
        way: String,
        /// What was wrong.
        what: &'static str,
    },
    /// All ways failed.
    #[error("no way to {to}: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    All {
        /// The hub.
        to: String,
        /// One error per way.
        errors: Vec<DialError>,
    },
}

/// What to do when a proxy answers so; `asked` are the schemes by which it wants to be told who asks, `given` is whether it was.
fn proxy_advice(status: u16, asked: &[&str], given: bool) -> String {
    let basic = asked.is_empty() || asked.iter().any(|s| s.eq_ignore_ascii_case("basic"));
    match status {
        407 if !basic => format!(
            "it takes {} only, which is not spoken here: have it take Basic from this machine, or none, or put a local proxy that \
             speaks it (such as cntlm) between",
            asked.join(" and ")
        ),
        407 if given => "is the user right, and the password in password_file?".into(),
        407 => "give the gateway a user and a password_file for it".into(),
        403 => "ask its administrator to allow CONNECT to the hub's host and port".into(),
        502..=504 => "the proxy cannot reach the hub".into(),
        _ => "see the proxy's log".into(),
    }
}

/// The schemes of an answer's `Proxy-Authenticate` lines (RFC 9110, 11.7.1), as far as they are plain names, each once.
fn schemes(head: &[u8]) -> Vec<&str> {
    let lines = head
        .split(|&b| b == b'\n')
        .filter_map(|l| std::str::from_utf8(l).ok());
    let values = lines.filter_map(|l| {
        let (name, value) = l.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authenticate").then_some(value)
    });
    let mut all: Vec<&str> = Vec::new();
    for scheme in values.filter_map(|v| v.split_ascii_whitespace().next()) {
        let plain = scheme.len() <= 20 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if plain && all.len() < MAX_SCHEMES && !all.contains(&scheme) {
            all.push(scheme);
        }
    }
    all
}

/// One way out.
pub trait Dialer: Send + Sync {
    /// For logs and tables, such as `direct` or `connect proxy:3128`.
    fn label(&self) -> String;

    /// Makes a carrier to the hub. Cancel safe: nothing is left behind.
    fn dial<'a>(&'a self, to: &'a HubAddress) -> BoxFuture<'a, Result<BoxedCarrier, DialError>>;
}

/// Straight TCP.
#[derive(Debug, Default, Clone)]
pub struct Direct;

impl Dialer for Direct {
    fn label(&self) -> String {
        "direct".into()
    }

    fn dial<'a>(&'a self, to: &'a HubAddress) -> BoxFuture<'a, Result<BoxedCarrier, DialError>> {
        Box::pin(async move {
            let way = || self.label();
            let stream = connect(way, to.host(), to.port()).await?;
            Ok(Box::new(stream) as BoxedCarrier)
        })
    }
}

async fn connect(way: impl Fn() -> String, host: &str, port: u16) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Connect {
        way: way(),
        to: format!("{host}:{port}"),
        source,
    };
    let stream = timeout(DIAL_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| DialError::Timeout {
            way: way(),
            to: format!("{host}:{port}"),
        })?
        .map_err(failed)?;
    socket::tune(&stream).map_err(failed)?;
    Ok(stream)
}

/// User and password for a proxy (RFC 7617); the password is not shown.
#[derive(Clone)]
pub struct Basic {
    /// Without a colon.
    pub user: String,
    /// Any.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Basic({}, ..)", self.user)
    }
}

/// TCP through an HTTP proxy's CONNECT method (RFC 9110, 9.3.6).
#[derive(Debug, Clone)]
pub struct ConnectProxy {
    /// Host of the proxy.
    pub host: String,
    /// Port of the proxy.
    pub port: u16,
    /// Basic credentials, if it wants some.
    pub credentials: Option<Basic>,
}

impl ConnectProxy {
    fn request(&self, to: &HubAddress) -> Zeroizing<String> {
        let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if let Some(Basic { user, password }) = &self.credentials {
            let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
            let value = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
            head.push_str(&format!("Proxy-Authorization: Basic {}\r\n", value.as_str()));
        }
        head.push_str("\r\n");
        Zeroizing::new(head)
    }

    async fn handshake(&self, stream: &mut TcpStream, to: &HubAddress) -> Result<(), DialError> {
        let broken = |source| DialError::Connect {
            way: self.label(),
            to: to.to_string(),
            source,
        };
        let no_proxy = |what| DialError::NoProxy {
            way: self.label(),
            what,
        };
        stream
            .write_all(self.request(to).as_bytes())
            .await
            .map_err(broken)?;
        // Byte by byte, so that nothing of what follows the head is taken.
        let mut head = Vec::with_capacity(256);
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_PROXY_HEAD {
                return Err(no_proxy("its head is too long"));
            }
            head.push(stream.read_u8().await.map_err(broken)?);
        }
        let status = proxy_status(&head).ok_or_else(|| no_proxy("no status line"))?;
        if status != 200 {
            return Err(DialError::Proxy {
                way: self.label(),
                to: to.to_string(),
                status,
                advice: proxy_advice(status, &schemes(&head), self.credentials.is_some()),
            });
        }
        Ok(())
    }
}

/// The status of an HTTP/1 answer head.
fn proxy_status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|&b| b == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next().filter(|code| code.len() == 3)?.parse().ok()
}

impl Dialer for ConnectProxy {
    fn label(&self) -> String {
        format!("connect {}:{}", self.host, self.port)
    }

    fn dial<'a>(&'a self, to: &'a HubAddress) -> BoxFuture<'a, Result<BoxedCarrier, DialError>> {
        Box::pin(async move {
            let mut stream = connect(|| self.label(), &self.host, self.port).await?;
            timeout(DIAL_TIMEOUT, self.handshake(&mut stream, to))
                .await
                .map_err(|_| DialError::Timeout {
                    way: self.label(),
                    to: to.to_string(),
                })??;
            Ok(Box::new(stream) as BoxedCarrier)
        })
    }
}

/// Ways out in the order of preference. The last that worked is tried first for [`REPROBE_AFTER`]; then the better ones
/// again.
pub struct Ways {
    dialers: Vec<Arc<dyn Dialer>>,
    beside: Option<(HubAddress, SocketAddr)>,
    born: Instant,
    current: AtomicUsize,
    /// Milliseconds after `born` at which `current` was chosen over better ones.
    chosen: AtomicU64,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.dialers.iter().map(|d| d.label()))
            .finish()
    }
}

impl Default for Ways {
    fn default() -> Self {
        Self::new(vec![Arc::new(Direct)])
    }
}

impl Ways {
    /// Ways in the order given; direct alone when there are none.
    pub fn new(mut dialers: Vec<Arc<dyn Dialer>>) -> Self {
        if dialers.is_empty() {
            dialers.push(Arc::new(Direct));
        }
        Self {
            dialers,
            beside: None,
            born: Instant::now(),
            current: AtomicUsize::new(0),
            chosen: AtomicU64::new(0),
        }
    }

    /// The hub that others reach as `hub` listens on this machine at `at`: it is dialled there and nowhere else.
    pub fn beside(mut self, hub: HubAddress, at: SocketAddr) -> Self {
        self.beside = Some((hub, at));
        self
    }

    /// The way that worked last.
    pub fn current(&self) -> String {
        self.dialers[self.current.load(Ordering::Relaxed)].label()
    }

    /// Makes a carrier by the first way that works. Cancel safe.
    pub async fn dial(&self, to: &HubAddress) -> Result<BoxedCarrier, DialError> {
        if let Some((_, at)) = self.beside.as_ref().filter(|(hub, _)| hub == to) {
            let stream = connect(|| "on this machine".into(), &at.ip().to_string(), at.port()).await?;
            return Ok(Box::new(stream));
        }
        let mut errors = Vec::new();
        for i in self.order() {
            match self.dialers[i].dial(to).await {
                Ok(carrier) => {
                    self.remember(i);
                    return Ok(carrier);
                }
                Err(e) => errors.push(e),
            }
        }
        match errors.len() {
            1 => Err(errors.remove(0)),
            _ => Err(DialError::All {
                to: to.to_string(),
                errors,
            }),
        }
    }

    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let current = self.current.load(Ordering::Relaxed);
        let age = self.now().saturating_sub(self.chosen.load(Ordering::Relaxed));
        let first = (age < REPROBE_AFTER.as_millis() as u64).then_some(current);
        let all = 0..self.dialers.len();
        first.into_iter().chain(all.filter(move |&i| Some(i) != first))
    }

    fn remember(&self, i: usize) {
        let before = self.current.swap(i, Ordering::Relaxed);
        let age = self.now().saturating_sub(self.chosen.load(Ordering::Relaxed));
        if before != i || age >= REPROBE_AFTER.as_millis() as u64 {
            self.chosen.store(self.now(), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A dialer that counts and fails or works as told.
    struct Told {
        works: std::sync::atomic::AtomicBool,
        asked: AtomicUsize,
        port: u16,
    }

    impl Dialer for Told {
        fn label(&self) -> String {
            "told".into()
        }
        fn dial<'a>(&'a self, to: &'a HubAddress) -> BoxFuture<'a, Result<BoxedCarrier, DialError>> {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::SeqCst);
                if self.works.load(Ordering::SeqCst) {
                    let s = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
                    return Ok(Box::new(s) as BoxedCarrier);
                }
                Err(DialError::Timeout {
                    way: self.label(),
                    to: to.to_string(),
                })
            })
        }
    }

    fn told(works: bool, port: u16) -> Arc<Told> {
        Arc::new(Told {
            works: works.into(),
            asked: AtomicUsize::new(0),
            port,
        })
    }

    #[tokio::test]
    async fn the_way_that_worked_is_remembered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (bad, good) = (told(false, port), told(true, port));
        let ways = Ways::new(vec![bad.clone(), good.clone()]);
        let hub: HubAddress = "hub.test:8443".parse().unwrap();
        for _ in 0..3 {
            ways.dial(&hub).await.map(|_| ()).unwrap();
        }
        assert_eq!(
            bad.asked.load(Ordering::SeqCst),
            1,
            "the failing way is not tried each time"
        );
        assert_eq!(good.asked.load(Ordering::SeqCst), 3);
        good.works.store(false, Ordering::SeqCst);
        bad.works.store(true, Ordering::SeqCst);
        ways.dial(&hub).await.map(|_| ()).unwrap();
        assert_eq!(
            bad.asked.load(Ordering::SeqCst),
            2,
            "when it fails the others are tried"
        );
    }

    #[tokio::test]
    async fn the_hub_beside_is_dialled_where_it_listens_and_others_by_the_ways_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let out = told(true, at.port());
        let hub: HubAddress = "node.beta.test:8443".parse().unwrap();
        let ways = Ways::new(vec![out.clone()]).beside(hub.clone(), at);
        ways.dial(&hub).await.map(|_| ()).unwrap();
        assert_eq!(out.asked.load(Ordering::SeqCst), 0);
        let other = "hub.test:8443".parse().unwrap();
        ways.dial(&other).await.map(|_| ()).unwrap();
        assert_eq!(out.asked.load(Ordering::SeqCst), 1);
    }

    async fn proxy_saying(answer: &'static [u8]) -> (ConnectProxy, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = tokio::spawn(async move {
            let (mut s, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(s.read_u8().await.unwrap());
            }
            s.write_all(answer).await.unwrap();
            head
        });
        let credentials = Some(Basic {
            user: "u".into(),
            password: Zeroizing::new("secret".into()),
        });
        (
            ConnectProxy {
                host: "127.0.0.1".into(),
                port,
                credentials,
            },
            seen,
        )
    }

    #[tokio::test]
    async fn connect_takes_the_head_and_nothing_more() {
        let (proxy, seen) = proxy_saying(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nrest").await;
        let mut c = proxy
            .dial(&"hub.test:8443".parse().unwrap())
            .await
            .map_err(|e| e.to_string())
            .unwrap();
        let mut rest = [0; 4];
        c.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
        let head = String::from_utf8(seen.await.unwrap()).unwrap();
        assert!(head.starts_with("CONNECT hub.test:8443 HTTP/1.1\r\nHost: hub.test:8443\r\n"));
        assert!(head.contains("Proxy-Authorization: Basic dTpzZWNyZXQ=\r\n"));
    }

    #[test]
    fn who_gave_no_password_is_told_of_it_and_odd_schemes_are_not_repeated() {
        assert!(proxy_advice(407, &[], false).contains("give the gateway"));
        let odd = b"HTTP/1.1 407 x\r\nProxy-Authenticate: \x1b[2J\r\nProxy-Authenticate:\r\nProxy-Authenticate: A\r\nProxy-Authenticate: A b\r\n\r\n";
        assert_eq!(schemes(odd), ["A"]);
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_named_with_advice_and_without_the_password() {
        for (answer, word) in [
            (
                &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..],
                "the password in password_file",
            ),
            (
                &b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n"[..],
                "it takes Negotiate and NTLM only",
            ),
            (
                &b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: basic realm=\"x\"\r\n\r\n"[..],
                "is the user right",
            ),
            (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "allow CONNECT"),
            (&b"SSH-2.0-OpenSSH\r\n\r\n"[..], "is it an HTTP proxy"),
        ] {
            let (proxy, _seen) = proxy_saying(answer).await;
            let e = proxy
                .dial(&"hub.test:8443".parse().unwrap())
                .await
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(e.contains(word), "{e}");
            assert!(!e.contains("secret") && !format!("{proxy:?}").contains("secret"));
        }
    }
}
