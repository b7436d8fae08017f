//! A front joined to exports by a stand-in for the tunnel: HTTP/2 over an in-memory pipe, as between two gateways.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawser_gateway::{
    callbacks::Callbacks,
    calls::CallMetrics,
    config::GatewayConfig,
    export::Exporter,
    front::Front,
    links::routes::{Routes, Service},
    seam::{Body, Calls, EndToEnd, Exports, HttpLease, Links, SendError},
};
use hawser_proto::{Fault, NodeId, Place, ServiceId, control::Protocol, session::RequestId};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

pub const LONG: Duration = Duration::from_secs(10);

/// Domain acme calls services of domain beta.
pub struct World {
    pub front: Front,
    pub exporter: Exporter,
    pub fake: Arc<Fake>,
    pub registry: Registry,
}

pub struct Fake {
    exporter: Exporter,
    routes: Routes,
    session: Mutex<Option<http2::SendRequest<Body>>>,
    /// So many requests are given back unsent.
    pub give_back: AtomicUsize,
    pub leases: AtomicUsize,
}

pub fn node(s: &str) -> NodeId {
    s.parse().unwrap()
}

pub fn config(front: &str, export: &str) -> GatewayConfig {
    let front = if front.contains("[proxy]") {
        front.to_owned()
    } else {
        format!("{front}\n[proxy]\nlisten=[\"127.0.0.1:0\"]\n")
    };
    toml::from_str(&format!("{front}\n{export}")).unwrap()
}

/// One HTTP export `web` at this origin, open to acme.
pub fn web(origin: SocketAddr) -> String {
    format!(
        "[[export]]\nname=\"web\"\nhttp=\"http://{origin}\"\nallow=[{{domains=[\"acme\"]}}]\nresponse_timeout=\"1s\"\n"
    )
}

impl World {
    pub async fn new(front: &str, export: &str) -> Self {
        let plan = config(front, export).check().unwrap();
        let mut registry = Registry::default();
        let metrics = CallMetrics::register(&mut registry);
        let exporter = Exporter::start(
            node("spiffe://beta/gateway/gw2"),
            &plan.exports,
            Callbacks::off(node("spiffe://beta/gateway/gw2")),
            metrics.clone(),
        )
        .unwrap();
        let registered = exporter.registrations().borrow().clone();
        let services = registered.iter().map(|r| {
            let id: ServiceId = format!("{}.beta", r.name).parse().unwrap();
            (
                id,
                Service {
                    protocol: r.protocol,
                    description: String::new(),
                    gateways: Vec::new(),
                },
            )
        });
        let mut routes = Routes::default();
        routes.services = services.collect::<BTreeMap<_, _>>();
        let fake = Arc::new(Fake {
            exporter: exporter.clone(),
            routes,
            session: Mutex::default(),
            give_back: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
        });
        let links = Links::new(fake.clone());
        let front = Front::start(
            &node("spiffe://acme/gateway/gw1"),
            &plan.front,
            links,
            Callbacks::off(node("spiffe://acme/gateway/gw1")),
            metrics,
        )
        .unwrap();
        Self {
            front,
            exporter,
            fake,
            registry,
        }
    }

    pub async fn web(origin: SocketAddr) -> Self {
        Self::new("", &web(origin)).await
    }

    pub fn proxy(&self) -> SocketAddr {
        self.front.proxy_addrs()[0]
    }

    pub async fn raw(&self) -> Raw {
        Raw::connect(self.proxy()).await
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

impl Fake {
    async fn session(&self) -> http2::SendRequest<Body> {
        let mut session = self.session.lock().await;
        if let Some(sender) = &*session {
            return sender.clone();
        }
        let (a, b) = tokio::io::duplex(64 * 1024);
        let exporter = self.exporter.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = exporter.http(&node("spiffe://acme/gateway/gw1"), request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.enable_connect_protocol().max_header_list_size(64 * 1024);
            let _ = builder.serve_connection(TokioIo::new(b), service).await;
        });
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(a))
            .await
            .unwrap();
        tokio::spawn(connection);
        session.insert(sender).clone()
    }
}

impl Calls for Fake {
    fn http<'a>(&'a self, service: &'a ServiceId) -> BoxFuture<'a, Result<HttpLease, Fault>> {
        Box::pin(async move {
            if self.routes.protocol(service) != Some(Protocol::Http) {
                return Err(unknown(service));
            }
            self.leases.fetch_add(1, Ordering::SeqCst);
            let give_back = self
                .give_back
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok();
            let mut sender = self.session().await;
            Ok(HttpLease::new(
                node("spiffe://beta/gateway/gw2"),
                move |request| {
                    Box::pin(async move {
                        let broken = || {
                            Fault::new(
                                Place::Hub,
                                502,
                                "session-broken",
                                "the session broke",
                                "try again",
                            )
                        };
                        if give_back {
                            return Err(SendError {
                                fault: broken(),
                                request: Some(Box::new(request)),
                            });
                        }
                        match sender.try_send_request(request).await {
                            Ok(r) => Ok(r.map(|b| b.map_err(Into::into).boxed_unsync())),
                            Err(mut e) => Err(SendError {
                                fault: broken(),
                                request: e.take_message().map(Box::new),
                            }),
                        }
                    })
                },
            ))
        })
    }

    fn tcp<'a>(&'a self, service: &'a ServiceId, _: RequestId) -> BoxFuture<'a, Result<EndToEnd, Fault>> {
        Box::pin(async move { Err(unknown(service)) })
    }

    fn routes(&self) -> Arc<Routes> {
        Arc::new(self.routes.clone())
    }
}

fn unknown(service: &ServiceId) -> Fault {
    Fault::new(
        Place::Hub,
        404,
        "service-unknown",
        format!("nobody exports {service}"),
        "see `hawser services`",
    )
}

/// A client that says exactly what it is told to.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(to: SocketAddr) -> Self {
        Self(TcpStream::connect(to).await.unwrap())
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads until `end` has come; the text up to and with it.
    pub async fn until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let read = async {
            while !got.ends_with(end.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(b) => got.push(b),
                    Err(_) => break,
                }
            }
        };
        let in_time = tokio::time::timeout(LONG, read).await.is_ok();
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(
            in_time && text.ends_with(end),
            "{end:?} did not come; got {text:?}"
        );
        text
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads to the end; the error, if the end is one.
    pub async fn rest(&mut self) -> (String, Option<std::io::ErrorKind>) {
        let mut got = Vec::new();
        let end = tokio::time::timeout(LONG, self.0.read_to_end(&mut got))
            .await
            .expect("no end came");
        (
            String::from_utf8_lossy(&got).into_owned(),
            end.err().map(|e| e.kind()),
        )
    }
}

/// An origin that speaks raw bytes; `serve` gets each connection and its number.
pub async fn raw_origin<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Raw, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Raw(tcp), number));
        }
    });
    address
}

/// An origin in HTTP/1.1 and HTTP/2.
pub async fn origin<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let serve = serve.clone();
            tokio::spawn(async move {
                let service = service_fn(move |r| {
                    let answer = serve(r);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(tcp), service)
                    .await;
            });
        }
    });
    address
}

pub fn body(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into())
        .map_err(|e| match e {})
        .boxed_unsync()
}

/// Answers with the request as it came: request line, headers, body, trailers.
pub async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    text += &lines(&parts.headers);
    let (data, trailers) = match incoming.collect().await {
        Ok(all) => {
            let trailers = all.trailers().cloned();
            (all.to_bytes(), trailers)
        }
        Err(e) => (Bytes::from(format!("broken: {e}")), None),
    };
    text += &format!("body={}\n", String::from_utf8_lossy(&data));
    text += &lines(&trailers.unwrap_or_default());
    Response::new(body(text))
}

fn lines(headers: &HeaderMap) -> String {
    headers
        .iter()
        .map(|(n, v)| format!("{n}: {}\n", String::from_utf8_lossy(v.as_bytes())))
        .collect()
}

/// A client's HTTP/2 connection with prior knowledge.
pub async fn h2(to: SocketAddr) -> http2::SendRequest<Body> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(tcp))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

pub async fn text(body: impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>) -> String {
    String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned()
}
