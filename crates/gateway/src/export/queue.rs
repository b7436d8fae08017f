//! Messages that an export's queue takes, or that of calls back: kept instead of delivered, and delivered later.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use hawser_callback::Report;
use hawser_proto::{Fault, NodeId, Place, ServiceName, UnixTime, session::RequestId};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Caller, Export, Inner, forward};
use crate::{
    callbacks,
    calls::{Call, Side},
    problem::empty,
    seam::Body,
    spool::{
        Deliver,
        accept::{Offer, asked},
        attempt::{self, Outcome, Stored},
    },
    websocket::Upgrade,
};

/// What became of a request that may be for a queue.
pub(super) enum Kept {
    /// It is kept.
    Kept(Response<Body>),
    /// It is for no queue.
    Not(Request<Body>),
}

impl Inner {
    /// Keeps a request, if its export has a queue that takes it.
    pub(super) async fn keep(
        &self,
        export: &Export,
        peer: &NodeId,
        id: RequestId,
        request: Request<Body>,
    ) -> Result<Kept, Fault> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let queue = export
            .plan
            .queue
            .as_ref()
            .filter(|queue| queue.takes(&peer.domain, method, path, headers));
        let (Some(queue), Some(spool), Upgrade::None) = (queue, self.spool.get(), Upgrade::of(&request))
        else {
            return Ok(Kept::Not(request));
        };
        export.plan.policy.request(&peer.domain, method, path, headers)?;
        let offer = Offer {
            queue: export.plan.name.as_str(),
            lane: &export.plan.origin.to_string(),
            key: None,
            peer,
            id,
            below: "",
        };
        spool.accept(queue, offer, request).await.map(Kept::Kept)
    }

    /// A call back: kept, if there is a queue that takes it, or delivered.
    pub(super) async fn back(
        &self,
        peer: &NodeId,
        id: RequestId,
        request: Request<Incoming>,
        seen: &mut Report,
    ) -> Result<Response<Body>, Fault> {
        let now = UnixTime::now();
        if let (Some(queue), Some(spool)) = (self.callbacks.queue(), self.spool.get()) {
            let called = self.callbacks.called(peer, &request, now).await?;
            let (address, method) = (&called.address, request.method());
            let target = address.path_and_query();
            let path = target.split('?').next().unwrap_or_default();
            if queue.takes(&peer.domain, method, path, request.headers()) {
                let lane = address.authority();
                let (key, below) = (format!("{lane}{path}"), request.uri().path().to_owned());
                let offer = Offer {
                    queue: ServiceName::CALLBACKS,
                    lane,
                    key: Some(&key),
                    peer,
                    id,
                    below: &below,
                };
                return spool.accept(&queue, offer, request).await;
            }
        }
        self.callbacks.deliver(&self.cx, peer, request, now, seen).await
    }

    /// What became of the message that a request asks for; none if it asks for none.
    pub(super) async fn state<B>(
        &self,
        peer: &NodeId,
        request: &Request<B>,
    ) -> Option<Result<Response<Body>, Fault>> {
        let spool = self.spool.get().filter(|_| *request.method() == Method::GET)?;
        let (below, id) = asked(request.uri().path())?;
        let is_one = below.is_empty() || callbacks::path::is_one(below);
        match is_one {
            true => Some(spool.state(peer, id).await),
            false => None,
        }
    }

    async fn again(&self, stored: Stored) -> Outcome {
        let (entry, head) = (&stored.entry, &stored.head);
        let unreadable = |e: &dyn std::fmt::Display| {
            Fault::new(
                Place::ServerGateway,
                400,
                "message-unreadable",
                e.to_string(),
                "see `hawser queue show`",
            )
        };
        let peer = head.peer().map_err(|e| unreadable(&e))?;
        let request = head.with(stored.body.clone());
        let mut request = request.map_err(|e| unreadable(&e))?;
        attempt::name(request.headers_mut(), &entry.id);
        let path = callbacks::path::shown(request.uri().path()).into_owned();
        let mut call = Call::begin(
            &self.cx.metrics,
            Side::Export,
            RequestId(head.request),
            peer.to_string(),
            request.method().clone(),
            format!("{}{path}", entry.queue),
        );
        call.service(&entry.queue);
        call.peer(&peer.domain);
        // What is kept carries the context of the call that brought it: each attempt is part of that.
        call.trace(&mut request);
        let answered = if *entry.queue == *ServiceName::CALLBACKS {
            let (at, mut seen) = (UnixTime(entry.accepted / 1000), Report::default());
            let delivered = self
                .callbacks
                .deliver(&self.cx, &peer, request, at, &mut seen)
                .await;
            call.seen(&seen);
            delivered
        } else {
            let name = entry.queue.parse::<ServiceName>().ok();
            match name.and_then(|name| self.export(&name)) {
                Some(export) => {
                    let no_stream = Arc::new(Mutex::new(None));
                    forward::serve(
                        &self.cx,
                        &self.callbacks,
                        &export,
                        Caller::Gateway(&peer),
                        request,
                        no_stream,
                    )
                    .await
                }
                None => Err(unserved(&entry.queue)),
            }
        };
        match answered {
            Ok(response) => Ok(call.follow(response, None)),
            Err(fault) => {
                call.failed(&fault);
                let mut response = Response::new(empty());
                *response.status_mut() =
                    StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_GATEWAY);
                drop(call.follow(response, None));
                Err(fault)
            }
        }
    }
}

impl Deliver for Inner {
    fn deliver(self: Arc<Self>, stored: Stored) -> BoxFuture<'static, Outcome> {
        Box::pin(async move { self.again(stored).await })
    }
}

fn unserved(queue: &str) -> Fault {
    Fault::new(
        Place::ServerGateway,
        503,
        "queue-unserved",
        format!("no service {queue} is exported any more"),
        "export it again, or discard its messages with `hawser queue discard`",
    )
}
