//! Taking in a message, and telling its sender what became of it.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    digest::{Context as Digest, SHA256},
    rand,
};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use hawser_proto::{Fault, NodeId, Place, session::RequestId};
use hawser_store::{
    StoreError,
    spool::{Accepted, Entry, Id, Message, State, Twin},
};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, LOCATION},
    request,
};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Spool, attempt::IDEMPOTENCY_KEY, head::Head};
use crate::{
    config::QueuePlan,
    inspect::now,
    problem::empty,
    seam::{Body, BoxError},
};

/// What comes before an id in the path of a message's state.
const PATH: &str = "/.hawser/queue/";
/// Longest silence of a sender within a message's body.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest text by which messages are kept in order; of longer ones a hash is taken.
const LONGEST_KEY: usize = 200;

/// A message that came, and where it goes.
pub(crate) struct Offer<'a> {
    /// The queue.
    pub(crate) queue: &'a str,
    /// Its target, within the queue.
    pub(crate) lane: &'a str,
    /// What it stays in order with, if nothing else is configured.
    pub(crate) key: Option<&'a str>,
    /// The gateway that passed it on.
    pub(crate) peer: &'a NodeId,
    /// Under which it is logged.
    pub(crate) id: RequestId,
    /// What the path of its state begins with.
    pub(crate) below: &'a str,
}

impl Spool {
    /// Keeps a message. The answer is there when it is on disk.
    pub(crate) async fn accept<B>(
        &self,
        plan: &QueuePlan,
        offer: Offer<'_>,
        request: Request<B>,
    ) -> Result<Response<Body>, Fault>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        if declared(&parts.headers).is_some_and(|n| n > plan.body_limit) {
            return Err(too_large(plan.body_limit));
        }
        let (body, _room) = self.collect(body, plan.body_limit).await?;
        parts.headers.remove(EXPECT);
        parts.headers.insert(CONTENT_LENGTH, body.len().into());
        let (queue, accepted) = (Arc::<str>::from(offer.queue), now());
        let id = fresh();
        let message = Message {
            id,
            queue: queue.clone(),
            lane: offer.lane.into(),
            key: key(plan, &offer, &parts.headers),
            from: offer.peer.domain.as_str().into(),
            twin: twin(&offer, &parts, &body),
            accepted,
            expires: accepted.saturating_add(u64::try_from(plan.expire.as_millis()).unwrap_or(u64::MAX)),
            head: Head::of(offer.id, offer.peer, &parts).bytes(),
            body: body.to_vec(),
        };
        let told = |id: Id| -> Response<Body> {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::ACCEPTED;
            let location = format!("{}{PATH}{}", offer.below, HEXLOWER.encode(&id));
            if let Ok(location) = HeaderValue::try_from(location) {
                response.headers_mut().insert(LOCATION, location);
            }
            response
        };
        let waiting = super::Waiting {
            number: 0,
            id,
            queue: queue.clone(),
            lane: message.lane.clone(),
            key: message.key.clone(),
            attempts: 0,
            next: accepted,
            expires: message.expires,
        };
        // Once it is on disk it is to be delivered, whether or not its sender waits for the answer.
        let (spool, bounds) = (self.clone(), plan.bounds);
        let kept = tokio::spawn(async move {
            let kept = spool.0.backend.accept(message, bounds).await;
            if let Ok(Accepted::Kept { number }) = kept {
                spool.schedule().add(super::Waiting { number, ..waiting });
                spool.0.metrics.accepted(&queue);
                spool.0.wake.notify_one();
            }
            kept
        });
        let kept = kept.await.unwrap_or(Err(StoreError::Closed));
        match kept.map_err(|error| not_kept(&error))? {
            Accepted::Kept { .. } => Ok(told(id)),
            Accepted::Already(first) => Ok(told(first)),
            Accepted::Differs => Err(differs()),
            Accepted::Full => Err(full(offer.queue)),
        }
    }

    /// What became of a message, for the domain that sent it.
    pub(crate) async fn state(&self, peer: &NodeId, id: Id) -> Result<Response<Body>, Fault> {
        let found = self.0.backend.find(id).await.map_err(|error| not_kept(&error))?;
        let mine = found.filter(|e| *e.from == *peer.domain.as_str());
        let view = view(&mine.ok_or_else(unknown)?);
        let mut response = Response::new(hawser_session::full(Bytes::from(view.to_string())));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// A whole body, within bounds of size and time. The room that it takes is given back with the permit.
    async fn collect<B>(&self, body: B, limit: usize) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Fault>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = std::pin::pin!(body);
        let (mut whole, mut room) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        loop {
            let frame = timeout(SILENCE, body.frame()).await.map_err(|_| silent())?;
            let Some(frame) = frame else {
                return Ok((whole.freeze(), room));
            };
            let frame = frame.map_err(|_| broken())?;
            let Ok(data) = frame.into_data() else {
                return Err(trailers());
            };
            if whole.len() + data.len() > limit {
                return Err(too_large(limit));
            }
            let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = self.0.receiving.clone().try_acquire_many_owned(more);
            let more = more.map_err(|_| busy())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            whole.extend_from_slice(&data);
        }
    }
}

/// The message whose state is asked for by a path, and what comes before.
pub(crate) fn asked(path: &str) -> Option<(&str, Id)> {
    let (below, id) = path.rsplit_once(PATH)?;
    Some((below, parse(id)?))
}

/// An id, as people see it.
pub(super) fn parse(text: &str) -> Option<Id> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// What senders, and people, are told of a message.
pub(super) fn view(entry: &Entry) -> serde_json::Value {
    let mut view = json!({
        "id": HEXLOWER.encode(&entry.id),
        "queue": &*entry.queue,
        "accepted": time(entry.accepted),
        "expires": time(entry.expires),
        "attempts": entry.attempts,
    });
    let more = match entry.state {
        State::Waiting { next } => json!({ "state": "waiting", "next": time(next) }),
        State::Delivered { status, at } => json!({ "state": "delivered", "status": status, "at": time(at) }),
        State::Dead { at } => json!({ "state": "dead", "at": time(at) }),
    };
    if let (Some(view), serde_json::Value::Object(more)) = (view.as_object_mut(), more) {
        view.extend(more);
        if let Some(why) = &entry.why {
            view.insert("why".into(), why.as_str().into());
        }
    }
    view
}

/// RFC 3339, of milliseconds since 1970.
fn time(ms: u64) -> String {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    at.map_or_else(String::new, |at| humantime::format_rfc3339_millis(at).to_string())
}

fn fresh() -> Id {
    let mut id = [0; 16];
    // Without randomness TLS would have failed long before; the same id twice is refused by the database.
    let _ = rand::fill(&mut id);
    id
}

fn declared(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn key(plan: &QueuePlan, offer: &Offer<'_>, headers: &HeaderMap) -> Option<Arc<str>> {
    let named = plan.order_by.as_ref().and_then(|name| headers.get(name));
    let key = match (named, &plan.order_by) {
        (Some(value), _) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        (None, Some(_)) => return None,
        (None, None) => offer.key?.to_owned(),
    };
    let key = match key.len() > LONGEST_KEY {
        true => HEXLOWER.encode(&hash(&[key.as_bytes()])),
        false => key,
    };
    // Domains do not hold up each other.
    Some(format!("{} {key}", offer.peer.domain).into())
}

/// By which the message is known if it comes again.
fn twin(offer: &Offer<'_>, parts: &request::Parts, body: &[u8]) -> Option<Twin> {
    let key = parts.headers.get(IDEMPOTENCY_KEY)?;
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    Some(Twin {
        name: hash(&[
            offer.peer.domain.as_str().as_bytes(),
            offer.lane.as_bytes(),
            key.as_bytes(),
        ]),
        content: hash(&[parts.method.as_str().as_bytes(), target.as_bytes(), body]),
    })
}

/// SHA-256 over parts, each with its length before it.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Digest::new(&SHA256);
    for part in parts {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

fn refused(status: u16, code: &str, detail: impl Into<String>, advice: &str) -> Fault {
    Fault::new(Place::ServerGateway, status, code, detail, advice)
}

fn too_large(limit: usize) -> Fault {
    refused(
        413,
        "message-too-large",
        format!("the queue takes messages of at most {limit} bytes"),
        "send less, or ask the service's owner for a higher body_limit",
    )
}

fn silent() -> Fault {
    refused(
        408,
        "message-silent",
        format!("nothing more of the message came for {} s", SILENCE.as_secs()),
        "send it again",
    )
}

fn broken() -> Fault {
    refused(
        400,
        "request-broken",
        "the message broke off before its end; it is not kept",
        "send it again",
    )
}

fn trailers() -> Fault {
    refused(
        501,
        "message-trailers",
        "a message with trailers cannot be kept for later",
        "send it without trailers, or ask the service's owner to take this path out of the queue",
    )
}

fn busy() -> Fault {
    refused(
        503,
        "queue-busy",
        "too many messages are being received at once; this one is not kept",
        "send it again in a moment",
    )
}

fn full(queue: &str) -> Fault {
    refused(
        503,
        "queue-full",
        format!("the queue {queue} holds as much as it may; this message is not kept"),
        "send it again later; the service's owner sees why with `hawser queue`",
    )
}

fn differs() -> Fault {
    refused(
        422,
        "idempotency-key-reused",
        "another message was accepted with this Idempotency-Key",
        "give each message a key of its own",
    )
}

fn unknown() -> Fault {
    refused(
        404,
        "message-unknown",
        "no message of your domain is known here by this id: it was delivered over a day ago, or another gateway of the domain has it",
        "ask again to reach another gateway, if the domain has several",
    )
}

fn not_kept(error: &StoreError) -> Fault {
    tracing::warn!(%error, "the queue's database failed");
    refused(
        503,
        "queue-failed",
        "the gateway's database failed; the message is not kept",
        "send it again later; the gateway's log says more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = fresh();
        assert_eq!(parse(&HEXLOWER.encode(&id)), Some(id));
        let path = format!("{PATH}{}", HEXLOWER.encode(&id));
        assert_eq!(asked(&path), Some(("", id)));
        let below = format!("/.hawser/cb/acme/1.x{path}");
        assert_eq!(asked(&below), Some(("/.hawser/cb/acme/1.x", id)));
        for bad in [
            "",
            "/.hawser/queue/",
            "/.hawser/queue/12",
            &path.to_uppercase(),
            &format!("{path}/x"),
        ] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
