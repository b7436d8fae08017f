//! What this gateway exports: policy, health, and forwarding to origins. Implements [`Exports`] for the tunnel's side.

pub mod dial;
pub(crate) mod forward;
pub mod health;
pub mod interface;
pub mod origin;
pub mod path;
pub(crate) mod patience;
pub mod policy;
mod queue;
pub(crate) mod replay;
mod upgrade;
mod visit;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hawser_callback::Report;
use hawser_proto::{
    Fault, NodeId, Place, ServiceName,
    control::{Protocol, Registration},
    session::RequestId,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{net::TcpStream, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    dial::{ConnectorError, dial},
    interface::Interface,
    origin::Origin,
    queue::Kept,
};
use crate::{
    callbacks::{self, Callbacks, answers::Asked},
    calls::{Call, CallMetrics, Side},
    config::{ExportPlan, OriginPlan},
    headers::{Pseudonym, fresh_request_id, parse_request_id},
    problem::{Asker, answer},
    seam::{Body, Exports, FAULT, REQUEST_ID, SERVICE},
    spool::Spool,
};

pub(crate) use self::visit::{User, Visitor};

/// Whom a call comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Caller<'a> {
    /// A gateway, as TLS proved.
    Gateway(&'a NodeId),
    /// Somebody outside, by a published name.
    Visitor(&'a Visitor),
}

/// The services that this gateway exports. Cheap to clone.
#[derive(Clone)]
pub struct Exporter(Arc<Inner>);

struct Inner {
    cx: Context,
    callbacks: Callbacks,
    /// What is delivered later; none until it is known.
    spool: OnceLock<Spool>,
    table: ArcSwap<BTreeMap<ServiceName, Arc<Export>>>,
    registrations: watch::Sender<Vec<Registration>>,
}

/// What calls need besides their export.
pub(crate) struct Context {
    pub(crate) own: NodeId,
    pseudonym: Pseudonym,
    pub(crate) metrics: CallMetrics,
    tasks: TaskTracker,
    /// Cuts the streams that outlive their answer's head.
    cut: CancellationToken,
}

struct Export {
    plan: ExportPlan,
    kind: Kind,
    interface: Option<Interface>,
    healthy: AtomicBool,
}

enum Kind {
    /// Only its description can be read.
    Clients,
    Http {
        origin: Box<Origin>,
        response_timeout: Duration,
    },
    Tcp {
        host: String,
        port: u16,
    },
}

/// Why an export cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Its origin cannot be called.
    #[error("export {name}: {source}")]
    Origin {
        /// Its name.
        name: ServiceName,
        /// Why.
        source: ConnectorError,
    },
    /// Its description cannot be read.
    #[error("export {name}: interface: {why}")]
    Interface {
        /// Its name.
        name: ServiceName,
        /// Why.
        why: String,
    },
}

impl Exporter {
    /// Exports `plans` as the gateway `own`. Must be called within a Tokio runtime.
    pub fn start(
        own: NodeId,
        plans: &[ExportPlan],
        callbacks: Callbacks,
        metrics: CallMetrics,
    ) -> Result<Self, ExportError> {
        let pseudonym = Pseudonym::new(format!("export.{}.{}", own.name, own.domain));
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        let exporter = Self(Arc::new(Inner {
            cx: Context {
                own,
                pseudonym,
                metrics,
                tasks,
                cut,
            },
            callbacks,
            spool: OnceLock::new(),
            table: ArcSwap::default(),
            registrations: watch::Sender::new(Vec::new()),
        }));
        exporter.reload(plans)?;
        Ok(exporter)
    }

    /// Exports these from now on. An export whose plan is unchanged keeps its connections and health; calls under way end as
    /// they began. On an error nothing changes.
    pub fn reload(&self, plans: &[ExportPlan]) -> Result<(), ExportError> {
        let before = self.0.table.load();
        let mut table = BTreeMap::new();
        let mut fresh = Vec::new();
        for plan in plans {
            let export = match before.get(&plan.name) {
                Some(same) if same.plan == *plan => same.clone(),
                _ => {
                    let export = Arc::new(Export::new(plan)?);
                    fresh.push(export.clone());
                    export
                }
            };
            table.insert(plan.name.clone(), export);
        }
        self.0.table.store(Arc::new(table));
        self.0.register();
        for export in fresh {
            self.watch(&export);
        }
        Ok(())
    }

    /// Keeps in `spool` from now on what queues take, and delivers it. To be called once.
    pub(crate) fn queue(&self, spool: Spool) {
        if self.0.spool.set(spool.clone()).is_ok() {
            let by: Weak<Inner> = Arc::downgrade(&self.0);
            spool.run(by);
        }
    }

    /// Waits at most `wait` for the streams of upgraded calls, then cuts them. Not cancel safe: the rest stays uncut.
    pub async fn drain(&self, wait: Duration) {
        self.0.cx.tasks.close();
        if tokio::time::timeout(wait, self.0.cx.tasks.wait()).await.is_err() {
            self.0.cx.cut.cancel();
            self.0.cx.tasks.wait().await;
        }
    }

    /// The check ends when the export has gone from the table and its last call has ended.
    fn watch(&self, export: &Arc<Export>) {
        let Some(plan) = export.plan.health.clone() else {
            return;
        };
        let inner: Weak<Inner> = Arc::downgrade(&self.0);
        tokio::spawn(health::watch(
            Arc::downgrade(export),
            plan,
            move |export, healthy| {
                export.healthy.store(healthy, Ordering::Release);
                if let Some(inner) = inner.upgrade() {
                    inner.register();
                }
            },
        ));
    }
}

impl Inner {
    fn register(&self) {
        let mut all: Vec<_> = self.table.load().values().map(|e| e.registration()).collect();
        all.extend(self.callbacks.is_on().then(back));
        self.registrations.send_if_modified(|now| {
            let changed = *now != all;
            *now = all;
            changed
        });
    }

    fn export(&self, service: &ServiceName) -> Option<Arc<Export>> {
        self.table.load().get(service).cloned()
    }

    async fn http(self: Arc<Self>, peer: NodeId, mut request: Request<Incoming>) -> Response<Body> {
        let headers = request.headers();
        let asker = Asker::of(request.method(), headers);
        let id = text(headers, REQUEST_ID)
            .and_then(parse_request_id)
            .unwrap_or_else(fresh_request_id);
        let service = text(headers, SERVICE).and_then(|s| s.parse::<ServiceName>().ok());
        let what = format!(
            "{}{}",
            service.as_ref().map_or("?", ServiceName::as_str),
            callbacks::path::shown(request.uri().path())
        );
        let mut call = Call::begin(
            &self.cx.metrics,
            Side::Export,
            id,
            peer.to_string(),
            request.method().clone(),
            what,
        );
        call.peer(&peer.domain);
        if let Some(state) = self.state(&peer, &request).await {
            call.trace(&mut request);
            let response = state.unwrap_or_else(|fault| faulty(&fault, id, asker));
            return call.follow(response, None);
        }
        if service.as_ref().is_some_and(ServiceName::is_callbacks) {
            call.service(ServiceName::CALLBACKS);
            call.trace(&mut request);
            let mut seen = Report::default();
            let delivered = self.back(&peer, id, request, &mut seen).await;
            call.seen(&seen);
            let response = delivered.unwrap_or_else(|fault| faulty(&fault, id, asker));
            return call.follow(response, None);
        }
        let export = match &service {
            Some(name) => self.export(name).ok_or_else(|| unknown(name)),
            None => Err(unnamed()),
        };
        let mut request: Request<Body> = request.map(|body| body.map_err(Into::into).boxed_unsync());
        if let Ok(export) = &export {
            call.service(&export.plan.name);
            request = call.record(export.plan.inspect.as_ref(), &peer, request);
        }
        // It is recorded as it came.
        call.trace(&mut request);
        let call = Arc::new(Mutex::new(Some(call)));
        let answered = match export {
            Ok(export) => self.call(&export, &peer, id, request, call.clone()).await,
            Err(fault) => Err(fault),
        };
        let response = answered.unwrap_or_else(|fault| faulty(&fault, id, asker));
        match call.lock().ok().and_then(|mut call| call.take()) {
            Some(call) => call.follow(response, None),
            None => response,
        }
    }

    async fn call(
        &self,
        export: &Arc<Export>,
        peer: &NodeId,
        id: RequestId,
        request: Request<Body>,
        answered: upgrade::Answered,
    ) -> Result<Response<Body>, Fault> {
        let request = match self.keep(export, peer, id, request).await? {
            Kept::Kept(response) => return Ok(response),
            Kept::Not(request) => request,
        };
        let asked = Asked::by(request.headers(), request.uri());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let response = forward::serve(
            &self.cx,
            &self.callbacks,
            export,
            Caller::Gateway(peer),
            request,
            answered,
        )
        .await?;
        let OriginPlan::Http { url, .. } = &export.plan.origin else {
            return Ok(response);
        };
        let response = match interface::may_ask_for_one(&method, &uri) {
            true => interface::served(url, &uri, response).await,
            false => response,
        };
        let service = (&export.plan.name, url);
        Ok(self.callbacks.answered(service, peer, asked, response).await)
    }

    async fn tcp(
        self: Arc<Self>,
        peer: NodeId,
        service: ServiceName,
        id: RequestId,
    ) -> Result<TcpStream, Fault> {
        let outcome = async {
            let export = self.export(&service).ok_or_else(|| unknown(&service))?;
            export.plan.policy.domain(&peer.domain)?;
            let Kind::Tcp { host, port } = &export.kind else {
                return Err(not_tcp(&service));
            };
            dial(host, *port, export.plan.connect_timeout).await.map_err(|e| {
                tracing::debug!(request = %id, error = %e, "the origin took no connection");
                e.fault()
            })
        }
        .await;
        let error = outcome.as_ref().err().map(ToString::to_string);
        tracing::debug!(request = %id, who = %peer, what = %service, error, "connection");
        outcome
    }
}

impl Exports for Exporter {
    fn http(&self, peer: &NodeId, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.0.clone().http(peer.clone(), request))
    }

    fn tcp(
        &self,
        peer: &NodeId,
        service: &ServiceName,
        request: RequestId,
    ) -> BoxFuture<'static, Result<TcpStream, Fault>> {
        Box::pin(self.0.clone().tcp(peer.clone(), service.clone(), request))
    }

    fn base(&self) -> Option<String> {
        self.0.callbacks.base()
    }

    fn registrations(&self) -> watch::Receiver<Vec<Registration>> {
        self.0.registrations.subscribe()
    }
}

impl Export {
    fn new(plan: &ExportPlan) -> Result<Self, ExportError> {
        let kind = match &plan.origin {
            OriginPlan::Http {
                url,
                version,
                host,
                ca,
                response_timeout,
            } => {
                let origin = Origin::new(url, None, *version, *host, ca.as_deref(), plan.connect_timeout)
                    .map_err(|source| ExportError::Origin {
                        name: plan.name.clone(),
                        source,
                    })?;
                Kind::Http {
                    origin: Box::new(origin),
                    response_timeout: *response_timeout,
                }
            }
            OriginPlan::Clients => Kind::Clients,
            OriginPlan::Tcp { host, port } => Kind::Tcp {
                host: host.clone(),
                port: *port,
            },
        };
        let interface = plan.interface.as_ref().map(Interface::new).transpose();
        let interface = interface.map_err(|why| ExportError::Interface {
            name: plan.name.clone(),
            why,
        })?;
        // What is checked is unhealthy until its first check, which runs at once.
        Ok(Self {
            plan: plan.clone(),
            kind,
            interface,
            healthy: AtomicBool::new(plan.health.is_none()),
        })
    }

    fn registration(&self) -> Registration {
        Registration {
            name: self.plan.name.clone(),
            protocol: match self.kind {
                Kind::Http { .. } | Kind::Clients => Protocol::Http,
                Kind::Tcp { .. } => Protocol::Tcp,
            },
            healthy: self.healthy.load(Ordering::Acquire),
            description: self.plan.description.clone(),
        }
    }
}

/// Calls back, as hubs know them.
fn back() -> Registration {
    Registration {
        name: ServiceName::callbacks(),
        protocol: Protocol::Http,
        healthy: true,
        description: String::new(),
    }
}

fn faulty(fault: &Fault, id: RequestId, asker: Asker) -> Response<Body> {
    let mut response = answer(fault, id, asker);
    response
        .headers_mut()
        .insert(FAULT, HeaderValue::from_static("1"));
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

fn unnamed() -> Fault {
    Fault::new(
        Place::ClientGateway,
        400,
        "service-missing",
        "the calling gateway named no service",
        "is it of another version? Bring both gateways to the same",
    )
}

fn unknown(service: &ServiceName) -> Fault {
    Fault::new(
        Place::ServerGateway,
        404,
        "service-unknown",
        format!("the gateway exports no service {service}"),
        "see `hawser services` for what can be called",
    )
}

fn not_tcp(service: &ServiceName) -> Fault {
    Fault::new(
        Place::ServerGateway,
        400,
        "service-is-http",
        format!("{service} is an HTTP service"),
        "call it through the proxy, or import it with protocol = \"auto\"",
    )
}
