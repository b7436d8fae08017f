//! A hub and gateways in one process, on loopback: real TLS, real sockets, real databases.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hawser_gateway::{Gateway, admin, config::GatewayConfig, seam::Body};
use hawser_hub::{Allow, Hub, HubConfig, Limits, Publish};
use hawser_identity::{HubAddress, HubIdentity, Joins};
use hawser_proto::{NodeName, ServiceId};
use hawser_session::carrier::Ways;
use hawser_store::Store;
pub use hawser_testkit::net::free_port;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Slack for whatever should happen soon, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
pub const DAY: Duration = Duration::from_secs(86400);

pub struct World {
    pub dir: tempfile::TempDir,
    pub hub: Hub,
    pub address: HubAddress,
    config: HubConfig,
}

impl World {
    /// A hub where each of `allow` may call all services of the other: `("acme", "beta")`.
    pub async fn new(allow: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hub, config) = hub(&dir.path().join("hub"), allow).await;
        let address = config.public.parse().unwrap();
        Self {
            dir,
            hub,
            address,
            config,
        }
    }

    pub fn state(&self, gateway: &str) -> PathBuf {
        self.dir.path().join(gateway)
    }

    /// Makes a domain and has it admitted at the hub.
    pub async fn domain(&self, domain: &str, gateway: &str, life: Duration) -> PathBuf {
        let dir = self.state(&format!("{domain}-{gateway}"));
        let new = admin::NewDomain {
            domain: domain.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            given: admin::Given::Nothing,
            life,
        };
        admin::init_domain(&dir, &new).await.unwrap();
        join_hub(&self.dir.path().join("hub"), &self.address, &dir, domain).await;
        dir
    }

    /// Joins a further gateway by a token of the domain's issuer.
    pub async fn join(&self, issuer: &Path, name: &str) -> PathBuf {
        self.join_as(issuer, name, Joins::Gateway).await
    }

    /// Joins a further gateway, or a host.
    pub async fn join_as(&self, issuer: &Path, name: &str, joins: Joins) -> PathBuf {
        let token = admin::make_join_token(issuer, joins, Duration::from_secs(600))
            .await
            .unwrap();
        let dir = self.state(&format!("{}-{name}", token.domain));
        let name: NodeName = name.parse().unwrap();
        // The hub must have heard of the offer.
        within(async {
            while admin::join_with_token(&dir, &name, &token, &Ways::default())
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        dir
    }

    /// The hub lets this domain alone publish, and these names only.
    pub async fn publish(&self, domain: &str, names: &[&str]) {
        let mut config = self.config.clone();
        config.publish = vec![Publish {
            domain: domain.into(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        }];
        self.hub.reload(config).await.unwrap();
    }

    pub async fn restart_hub(&mut self) {
        let path = self.dir.path().join("hub");
        let mut other = self.config.clone();
        other.state = path;
        // The old one goes with its port first.
        let config = self.config.clone();
        let spare = hub(&self.dir.path().join("spare"), &[]).await.0;
        drop(std::mem::replace(&mut self.hub, spare));
        self.hub = retry(|| Hub::start(config.clone(), "test", Box::leak(Box::default()))).await;
    }
}

pub async fn hub(dir: &Path, allow: &[(&str, &str)]) -> (Hub, HubConfig) {
    let port = free_port();
    let config = HubConfig {
        listen: vec![format!("127.0.0.1:{port}")],
        state: dir.to_owned(),
        public: format!("127.0.0.1:{port}"),
        drain: Duration::from_secs(1),
        allow: allow
            .iter()
            .map(|(from, to)| Allow {
                from: from.to_string(),
                to: to.to_string(),
                services: vec!["*".into()],
                callbacks: true,
            })
            .collect(),
        publish: Vec::new(),
        limits: Limits::default(),
        mailbox: None,
    };
    let hub = Hub::start(config.clone(), "test hub", &mut Registry::default())
        .await
        .unwrap();
    (hub, config)
}

pub async fn join_hub(hub: &Path, address: &HubAddress, gateway: &Path, domain: &str) {
    let identity = HubIdentity::load_or_create(hub).unwrap();
    let store = Store::open(hub).unwrap();
    let life = Duration::from_secs(600);
    let token = hawser_hub::make_token(&store, &identity, address.clone(), domain.parse().unwrap(), life)
        .await
        .unwrap();
    admin::join_with_hub_token(gateway, &token, &Ways::default())
        .await
        .unwrap();
}

async fn retry<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut f: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        match f().await {
            Ok(t) => return t,
            Err(e) if start.elapsed() > SOON => panic!("{e:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Two domains accept each other.
pub async fn peer(a: &Path, b: &Path) {
    admin::accept_peer(a, &admin::peer_token(b).unwrap())
        .await
        .unwrap();
    admin::accept_peer(b, &admin::peer_token(a).unwrap())
        .await
        .unwrap();
}

/// A gateway with these tables in its configuration, and certificates of this life.
pub async fn gateway(dir: &Path, tables: &str, life: Duration) -> Gateway {
    log();
    let mut config: GatewayConfig = toml::from_str(tables).unwrap();
    config.state = dir.to_owned();
    let mut plan = config.check().unwrap();
    plan.certificate_life = life;
    Gateway::start_plan(plan, "test gateway", &mut Registry::default())
        .await
        .unwrap()
}

pub fn export_http(name: &str, origin: SocketAddr, domain: &str) -> String {
    format!(
        "[[export]]\nname = \"{name}\"\nhttp = \"http://{origin}\"\nallow = [{{ domains = [\"{domain}\"] }}]\n"
    )
}

pub fn export_tcp(name: &str, origin: SocketAddr, domain: &str) -> String {
    format!("[[export]]\nname = \"{name}\"\ntcp = \"{origin}\"\nallow = [{{ domains = [\"{domain}\"] }}]\n")
}

/// Waits until `gateway` sees `service` at `count` healthy gateways.
pub async fn sees(gateway: &Gateway, service: &str, count: usize) {
    let service: ServiceId = service.parse().unwrap();
    eventually(|| {
        let services = gateway.services();
        let found = services.iter().find(|s| s.service == service);
        found.map_or(0, |s| s.gateways.iter().filter(|g| g.healthy).count()) == count
    })
    .await;
}

pub async fn eventually(mut what: impl FnMut() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("not in time")
}

/// GET (or POST with a body) of a service through the tunnel.
pub async fn call(gateway: &Gateway, service: &str, body: Option<&str>) -> Result<Response<Body>, String> {
    let service: ServiceId = service.parse().unwrap();
    let lease = gateway.links().http(&service).await.map_err(|e| e.to_string())?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{service}.hawser/hello"))
        .header("hawser-service", service.name.as_str())
        .header("hawser-request-id", "000102030405060708090a0b0c0d0e0f")
        .body(match body {
            Some(text) => hawser_session::full(text.to_owned()),
            None => hawser_session::empty(),
        })
        .unwrap();
    lease.send(request).await.map_err(|e| e.to_string())
}

pub async fn text(response: Response<Body>) -> Result<String, String> {
    let bytes = response
        .into_body()
        .collect()
        .await
        .map_err(|e| e.to_string())?
        .to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The text of a call that succeeds.
pub async fn get(gateway: &Gateway, service: &str) -> Result<String, String> {
    let response = call(gateway, service, None).await?;
    if response.status() != 200 {
        return Err(format!("status {}", response.status()));
    }
    text(response).await
}

/// A web server that says its name and counts its requests.
pub struct Origin {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Origin {
    pub async fn new(name: &'static str) -> Self {
        Self::slow(name, Duration::ZERO).await
    }

    /// One that takes its time before it answers.
    pub async fn slow(name: &'static str, time: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        counted.fetch_add(1, Ordering::SeqCst);
                        async move {
                            let body = request
                                .into_body()
                                .collect()
                                .await
                                .map(|b| b.to_bytes())
                                .unwrap_or_default();
                            tokio::time::sleep(time).await;
                            let said = String::from_utf8_lossy(&body).into_owned();
                            Ok::<_, Infallible>(Response::new(hawser_session::full(format!("{name}{said}"))))
                        }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A TCP server that returns what it gets, until the other side ends.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// Connects to a local import, says `text`, ends, and reads all that comes back.
pub async fn echoed(import: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(import).await?;
    socket.write_all(text.as_bytes()).await?;
    socket.shutdown().await?;
    let mut back = String::new();
    socket.read_to_string(&mut back).await?;
    Ok(back)
}

fn log() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = std::env::var("RUST_LOG") {
            let _ = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_test_writer()
                .try_init();
        }
    });
}
