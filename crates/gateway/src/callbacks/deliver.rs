//! A call back that has come to the clients' domain: its capability is opened, and the original address called.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use hawser_callback::{Address, AddressError, CapabilityError, Grant, Report};
use hawser_proto::{Fault, NodeId, Place, UnixTime};
use http::{Request, Response, Uri, uri::Scheme};
use tokio::{net::lookup_host, time::timeout};
use tracing::debug;

use super::{
    Callbacks, path,
    replica::{Fact, Record, RecordId},
    short::Token,
    targets::Targets,
    to::{self, To},
};
use crate::{
    calls::Side,
    config::{CallbacksPlan, HostHeader, OriginUrl, OriginVersion},
    export::{Context, forward, origin::Origin, patience::Progress},
    seam::{Body, BoxError, OPEN},
};

/// Most addresses to whom connections are kept.
const MAX_ORIGINS: usize = 256;

/// Connections with those who are called back, by address and where that leads.
#[derive(Default)]
pub(super) struct Origins(HashMap<(OriginUrl, IpAddr), (Arc<Origin>, Instant)>);

impl Origins {
    fn get(&mut self, key: (OriginUrl, IpAddr), plan: &CallbacksPlan) -> Result<Arc<Origin>, Fault> {
        if let Some((origin, used)) = self.0.get_mut(&key) {
            *used = Instant::now();
            return Ok(origin.clone());
        }
        let made = Origin::new(
            &key.0,
            Some(key.1),
            OriginVersion::Auto,
            HostHeader::Origin,
            plan.ca.as_deref(),
            plan.connect_timeout,
        );
        let origin = Arc::new(made.map_err(|e| unreachable(e.to_string()))?);
        if self.0.len() >= MAX_ORIGINS {
            let oldest = self
                .0
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, _)| key.clone());
            oldest.and_then(|key| self.0.remove(&key));
        }
        self.0.insert(key, (origin.clone(), Instant::now()));
        Ok(origin)
    }
}

impl Callbacks {
    /// Delivers a call back that the proved gateway `peer` passed on; what was seen in it goes to `seen`.
    /// Its address had to be good at the time `at`.
    pub(crate) async fn deliver<B>(
        &self,
        cx: &Context,
        peer: &NodeId,
        request: Request<B>,
        at: UnixTime,
        seen: &mut Report,
    ) -> Result<Response<Body>, Fault>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let plan = self.0.plan.load_full();
        let called = self.called(peer, &request, at).await?;
        let url = origin_url(&called.address)?;
        let ip = self.find(&plan, &called, &url).await?;
        debug!(%peer, to = %url, sealed = called.capability.is_some(), "delivering a call back");
        let origin = {
            let mut origins = self.0.origins.lock().unwrap_or_else(PoisonError::into_inner);
            origins.get((url, ip), &plan)?
        };
        let (mut parts, body) = request.into_parts();
        forward::prepare(cx, peer, &mut parts);
        parts.uri = uri(&called.address)?;
        let progress = Progress::default();
        let body = cx.metrics.request_body(Side::Export, body);
        let to = To::Client {
            capability: called.capability,
            original: called.address.as_str().to_owned(),
        };
        let restored = to::restored(&mut parts.headers, body, to).await;
        let (body, report) = restored.map_err(|e| {
            refused(
                400,
                "callback-malformed",
                &e.to_string(),
                "see what the service sends",
            )
        })?;
        self.heard(&peer.domain, called.grant.as_ref(), &report).await;
        *seen = report;
        let sent = origin.send(Request::from_parts(parts, progress.follow(body)));
        let wait = plan.response_timeout;
        let response = forward::head(progress.wait(sent, wait).await, wait)?;
        Ok(forward::pass(cx, response))
    }

    /// Whom a call back is for, if it may be made and its address was good at the time `at`.
    pub(crate) async fn called<B>(
        &self,
        peer: &NodeId,
        request: &Request<B>,
        at: UnixTime,
    ) -> Result<Called, Fault> {
        let plan = self.0.plan.load_full();
        if !plan.enabled {
            return Err(refused(
                403,
                "callbacks-off",
                "calls back to this domain are turned off",
                "set enabled = true in [gateway.callbacks]",
            ));
        }
        match request.headers().contains_key(OPEN) {
            true => self.open(&plan, peer, request.uri()),
            false => self.sealed(&plan, peer, request.uri(), at).await,
        }
    }

    /// An address that was sealed here.
    async fn sealed(
        &self,
        plan: &CallbacksPlan,
        peer: &NodeId,
        uri: &Uri,
        now: UnixTime,
    ) -> Result<Called, Fault> {
        let (named, appended) = path::capability(uri.path(), &self.0.own.domain).ok_or_else(malformed)?;
        let sealed = match (Token::parse(named), &self.0.shared) {
            (Some(token), Some(shared)) => shared.whole(token).await.ok_or_else(unknown)?,
            _ => named.to_owned(),
        };
        let grant = self.0.secrets.load().read(&sealed);
        let grant = grant
            .and_then(|g| g.for_peer(&peer.domain).map(|()| g))
            .map_err(|e| not_opened(&e))?;
        match self
            .0
            .shared
            .as_ref()
            .and_then(|s| s.look(|r| good(r.get(&grant.id)?)))
        {
            Some(None) => return Err(ended()),
            Some(Some(until)) if now < until => {}
            _ => grant.at(now.0).map_err(|e| not_opened(&e))?,
        }
        let more = grant.caller.as_ref().map(|s| plan.rule(s).targets.clone());
        Ok(Called {
            address: join(&grant, appended, uri.query())?,
            pin: grant.pin,
            more: more.unwrap_or_default(),
            capability: Some(named.to_owned()),
            grant: Some(grant.id),
        })
    }

    /// An address as it is, which an operator opened to the peer's domain.
    fn open(&self, plan: &CallbacksPlan, peer: &NodeId, uri: &Uri) -> Result<Called, Fault> {
        let address = format!(
            "http://{}{}",
            uri.authority().map_or("", |a| a.as_str()),
            uri.path()
        );
        let address = match uri.query() {
            Some(query) => format!("{address}?{query}"),
            None => address,
        };
        let address: Address = address.parse().map_err(|e: AddressError| {
            refused(
                400,
                "callback-path-refused",
                &e.to_string(),
                "call a plain http:// address",
            )
        })?;
        let to_peer = plan
            .open
            .iter()
            .filter(|(domains, _)| domains.contains(&peer.domain));
        let opened = to_peer
            .map(|(_, targets)| targets)
            .find(|t| t.lists(address.host(), address.port()));
        let Some(targets) = opened else {
            return Err(refused(
                403,
                "address-not-open",
                &format!(
                    "{} is not open to services of {}",
                    address.authority(),
                    peer.domain
                ),
                "list it in a [[gateway.callbacks.open]] of the called domain's gateway",
            ));
        };
        // A name is resolved when it is called, and held against the same list.
        let ip = address.host().parse::<IpAddr>().ok();
        Ok(Called {
            pin: ip,
            address,
            more: targets.clone(),
            capability: None,
            grant: None,
        })
    }

    /// Where the host is: pinned when the address was sealed, or a listed name that is resolved now.
    async fn find(&self, plan: &CallbacksPlan, called: &Called, url: &OriginUrl) -> Result<IpAddr, Fault> {
        let ip = match called.pin {
            Some(ip) => ip,
            None => {
                let found = timeout(
                    plan.connect_timeout,
                    lookup_host((url.host().to_owned(), url.port())),
                )
                .await;
                let found = found.map_err(|_| unreachable("its name was not resolved in time".into()))?;
                let mut found = found.map_err(|e| unreachable(format!("its name leads nowhere: {e}")))?;
                let good = found.find(|a| plan.targets.resolved(&called.more, a.ip(), a.port()));
                good.ok_or_else(near)?.ip()
            }
        };
        if self.listens(SocketAddr::new(ip, url.port())) {
            return Err(near());
        }
        Ok(ip)
    }

    /// Whether an address is one on which this gateway takes clients' calls: a call back to it could do what the client may,
    /// and the caller may not.
    fn listens(&self, address: SocketAddr) -> bool {
        let listening = self.0.listening.load();
        listening.iter().any(|own| {
            let here = || TcpListener::bind((address.ip(), 0)).is_ok();
            own.port() == address.port()
                && (own.ip() == address.ip() || (own.ip().is_unspecified() && here()))
        })
    }
}

/// What is called.
pub(crate) struct Called {
    pub(crate) address: Address,
    /// Where its host is, unless it is a listed name.
    pin: Option<IpAddr>,
    /// What its name may lead to, besides what the plan says.
    more: Targets,
    /// What stands for it in messages.
    capability: Option<String>,
    /// By which it is called.
    grant: Option<RecordId>,
}

/// What is known of a grant besides what stands in its capability.
fn good(record: &Record) -> Option<Option<UnixTime>> {
    match record.fact {
        Fact::Good { until } => Some(until),
        _ => None,
    }
}

/// The original address with what the service appended.
fn join(grant: &Grant, path: &str, query: Option<&str>) -> Result<Address, Fault> {
    let appended = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    grant.original.join(&appended).map_err(|e| {
        refused(
            400,
            "callback-path-refused",
            &e.to_string(),
            "append plain segments and a query to the address, or nothing",
        )
    })
}

fn origin_url(address: &Address) -> Result<OriginUrl, Fault> {
    let scheme = if address.is_tls() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    format!("{scheme}://{}", address.authority())
        .parse()
        .map_err(|e: String| unreachable(e))
}

/// As the origin's sender wants it: the scheme of clear text, since the origin knows its own.
fn uri(address: &Address) -> Result<Uri, Fault> {
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(address.authority())
        .path_and_query(address.path_and_query())
        .build()
        .map_err(|e| unreachable(e.to_string()))
}

fn refused(status: u16, code: &str, detail: &str, advice: &str) -> Fault {
    Fault::new(Place::ServerGateway, status, code, detail, advice)
}

fn malformed() -> Fault {
    refused(
        404,
        "callback-unknown",
        "the path is no address for calls back to this domain",
        "call the address as it stood in the message, and append to it only",
    )
}

fn unknown() -> Fault {
    refused(
        410,
        "callback-unknown",
        "the short address for calls back is not known here: it has expired, or never was one",
        "take the address from a newer message of the client",
    )
}

fn ended() -> Fault {
    refused(
        410,
        "callback-ended",
        "the address for calls back was ended: the subscription that it was given for is over, or an operator ended it",
        "let the client subscribe again",
    )
}

fn not_opened(error: &CapabilityError) -> Fault {
    let status = if matches!(error, CapabilityError::Expired { .. }) {
        410
    } else {
        403
    };
    refused(
        status,
        "callback-refused",
        &error.to_string(),
        "take the address from a newer message of the client",
    )
}

fn near() -> Fault {
    refused(
        403,
        "callback-target-refused",
        "the address leads to the gateway itself, its host or its link",
        "if that is meant, list it as IP:PORT under `targets` in [gateway.callbacks]",
    )
}

fn unreachable(why: String) -> Fault {
    Fault::new(
        Place::Origin,
        502,
        "callback-unreachable",
        format!("the client cannot be called back: {why}"),
        "is the address that it named right, and reachable from its gateway?",
    )
}
