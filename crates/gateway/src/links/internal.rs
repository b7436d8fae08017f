//! What gateways ask each other inside an HTTP session, for the authority [`INTERNAL`]: signs of life, and revocation lists
//! that a hub might withhold.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use hawser_proto::{NodeId, Role, UnixTime, frame::MAX_FRAME};
use hawser_session::{
    collect,
    end_to_end::Binding,
    http::{HttpSession, INTERNAL, PING_PATH, Slot},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ETAG, IF_NONE_MATCH},
};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use minicbor::bytes::ByteVec;
use std::time::Duration;
use tokio::time::timeout;
use tracing::debug;

use super::{live::Live, trust::Keeper};
use crate::{
    callbacks::shared::{MAX_MESSAGE, Shared},
    config::OriginUrl,
    seam::{Body, SERVICE},
};

/// Where revocation lists are taken in (POST: 204, or 422 when it is not a good one), and where those of the gateway's own
/// domain are to be had (GET: a CBOR array of byte strings with an entity tag, or 304).
pub(crate) const REVOCATIONS_PATH: &str = "/revocations";
/// Where it is to be had (GET) where services of the gateway's domain call back: 200 with `http://HOST:PORT`, or 204 if they
/// cannot.
pub(crate) const BASE_PATH: &str = "/callbacks";
/// Where a gateway of the same domain tells what it knows of addresses for calls back (POST: 204 when it is kept here).
pub(crate) const SHARED_PATH: &str = "/callbacks/known";
/// Where the peer names sessions that it has with this gateway (POST: their bindings, each 32 bytes). Whoever names one has its other
/// end, and has just been proved by fresher certificates than it was made with: it may go on as long as these. 200 with the bindings of
/// those that do.
pub(crate) const SESSIONS_PATH: &str = "/sessions";
/// Most sessions that are named at once.
const MAX_NAMED: usize = 4096;
/// Longest base that is taken, in bytes.
const MAX_BASE: usize = 512;
/// Longest wait for it.
const BASE_WAIT: Duration = Duration::from_secs(5);
/// Longest entity tag that is kept.
const MAX_TAG: usize = 64;
/// Longest wait for a list to come in, and for one to be taken.
const LIST_WAIT: Duration = Duration::from_secs(10);

/// Whether a request is for the gateway itself. A client's own request always names a service, whatever its authority.
pub(crate) fn is_internal<B>(request: &Request<B>) -> bool {
    request.uri().host() == Some(INTERNAL) && !request.headers().contains_key(SERVICE)
}

/// What this gateway has to say of itself.
pub(crate) struct Here {
    pub(crate) own: NodeId,
    /// Where services of its domain call back.
    pub(crate) base: Option<String>,
    /// What the gateways of its domain know together.
    pub(crate) shared: Option<Shared>,
    /// The sessions that there are, and that on which it is asked.
    pub(crate) live: Live,
    pub(crate) binding: Binding,
}

/// Answers it.
pub(crate) fn answer<B>(
    peer: NodeId,
    keeper: Keeper,
    here: Here,
    request: Request<B>,
) -> BoxFuture<'static, Response<Body>>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::seam::BoxError>,
{
    Box::pin(async move {
        match (request.method(), request.uri().path()) {
            (&Method::GET, PING_PATH) => status(StatusCode::NO_CONTENT),
            (&Method::POST, SHARED_PATH) => match here.shared {
                Some(shared) if here.own.domain == peer.domain && peer.role == Role::Gateway => {
                    let told = Limited::new(request.into_body(), MAX_MESSAGE).collect();
                    let Ok(Ok(told)) = timeout(LIST_WAIT, told).await else {
                        return status(StatusCode::BAD_REQUEST);
                    };
                    match shared.heard(&told.to_bytes()).await {
                        true => status(StatusCode::NO_CONTENT),
                        false => status(StatusCode::UNPROCESSABLE_ENTITY),
                    }
                }
                _ => status(StatusCode::FORBIDDEN),
            },
            (&Method::POST, SESSIONS_PATH) => {
                let named = Limited::new(request.into_body(), MAX_NAMED * size_of::<Binding>()).collect();
                let Ok(Ok(named)) = timeout(LIST_WAIT, named).await else {
                    return status(StatusCode::BAD_REQUEST);
                };
                let (named, rest) = named_in(&named.to_bytes());
                let Some(fresh) = here.live.peer_of(&here.binding).filter(|_| rest == 0) else {
                    return status(StatusCode::UNPROCESSABLE_ENTITY);
                };
                let done = here.live.prolong(&fresh, &named, UnixTime::now());
                debug!(%peer, sessions = done.len(), "sessions were authenticated again");
                Response::new(hawser_session::full(done.concat()))
            }
            (&Method::GET, BASE_PATH) => match here.base {
                Some(base) => Response::new(hawser_session::full(base)),
                None => status(StatusCode::NO_CONTENT),
            },
            (&Method::GET, REVOCATIONS_PATH) => own_lists(&keeper.own_lists(), request.headers()),
            (&Method::POST, REVOCATIONS_PATH) => {
                let list = Limited::new(request.into_body(), MAX_FRAME).collect();
                let Ok(Ok(list)) = timeout(LIST_WAIT, list).await else {
                    return status(StatusCode::BAD_REQUEST);
                };
                match keeper.accept(list.to_bytes().to_vec()).await {
                    Ok(()) => status(StatusCode::NO_CONTENT),
                    Err(error) => {
                        debug!(%peer, %error, "a gateway sent a revocation list that is of no use");
                        status(StatusCode::UNPROCESSABLE_ENTITY)
                    }
                }
            }
            _ => status(StatusCode::NOT_FOUND),
        }
    })
}

/// Names sessions with the peer of a session that is fresher; those that the peer lets go on.
pub(crate) async fn name(slot: Slot, bindings: &[Binding]) -> Option<Vec<Binding>> {
    let bindings = &bindings[..bindings.len().min(MAX_NAMED)];
    let request = Request::post(format!("http://{INTERNAL}{SESSIONS_PATH}"))
        .body(hawser_session::full(bindings.concat()))
        .ok()?;
    let answer = async {
        let response = slot.send(request).await.ok()?;
        let status = response.status();
        let body = collect(response.into_body(), size_of_val(bindings)).await.ok()?;
        Some((status, body))
    };
    let (status, body) = timeout(LIST_WAIT, answer).await.ok()??;
    let (named, rest) = named_in(&body);
    (status == StatusCode::OK && rest == 0).then_some(named)
}

/// Bindings one after the other, and how many bytes are none.
fn named_in(bytes: &[u8]) -> (Vec<Binding>, usize) {
    let (named, rest) = bytes.as_chunks();
    (named.to_vec(), rest.len())
}

/// Tells a gateway of the own domain what is known here of addresses for calls back; false when it did not take it.
pub(crate) async fn share(slot: Slot, message: Vec<u8>) -> bool {
    let request =
        Request::post(format!("http://{INTERNAL}{SHARED_PATH}")).body(hawser_session::full(message));
    let Ok(request) = request else { return false };
    matches!(timeout(LIST_WAIT, slot.send(request)).await, Ok(Ok(answer)) if answer.status().is_success())
}

/// Sends a list on a session; false when the peer did not take it.
pub(crate) async fn tell(session: &HttpSession, list: Vec<u8>) -> bool {
    let request =
        Request::post(format!("http://{INTERNAL}{REVOCATIONS_PATH}")).body(hawser_session::full(list));
    let (Some(slot), Ok(request)) = (session.reserve(), request) else {
        return false;
    };
    matches!(timeout(LIST_WAIT, slot.send(request)).await, Ok(Ok(answer)) if answer.status().is_success())
}

/// Asks for the lists of the peer's domain; nothing if they are those of the entity tag `known`, or cannot be had. Whoever
/// speaks with an honest gateway learns in this way what a hub withholds.
pub(crate) async fn ask(session: HttpSession, known: Option<String>) -> Option<(String, Vec<Vec<u8>>)> {
    let mut request = Request::get(format!("http://{INTERNAL}{REVOCATIONS_PATH}"));
    if let Some(known) = known {
        request = request.header(IF_NONE_MATCH, known);
    }
    let (slot, request) = (session.reserve()?, request.body(hawser_session::empty()).ok()?);
    let (tag, body) = timeout(LIST_WAIT, answered(slot, request)).await.ok()??;
    let lists: Vec<ByteVec> = minicbor::decode(&body).ok()?;
    Some((tag, lists.into_iter().map(Into::into).collect()))
}

/// Asks where services of the peer's domain call back. `None` is no answer, `Some(None)` that they cannot.
pub(crate) async fn base(slot: Slot) -> Option<Option<String>> {
    let request = Request::get(format!("http://{INTERNAL}{BASE_PATH}"))
        .body(hawser_session::empty())
        .ok()?;
    let answer = async {
        let response = slot.send(request).await.ok()?;
        let status = response.status();
        Some((status, collect(response.into_body(), MAX_BASE).await.ok()?))
    };
    let (status, body) = timeout(BASE_WAIT, answer).await.ok()??;
    if status != StatusCode::OK {
        // One that does not know the question knows no calls back.
        return Some(None);
    }
    let base = std::str::from_utf8(&body).ok()?;
    let good = base.parse::<OriginUrl>().is_ok();
    Some(good.then(|| base.to_owned()))
}

/// Entity tag and body of an answer, if it is one with lists.
async fn answered(slot: Slot, request: Request<Body>) -> Option<(String, Vec<u8>)> {
    let response = slot.send(request).await.ok()?;
    let tag = response.headers().get(ETAG)?.to_str().ok()?.to_owned();
    if response.status() != StatusCode::OK || tag.len() > MAX_TAG {
        return None;
    }
    let lists = collect(response.into_body(), MAX_FRAME).await.ok()?;
    Some((tag, lists.to_vec()))
}

fn own_lists(lists: &[Vec<u8>], asked: &HeaderMap) -> Response<Body> {
    let lists: Vec<ByteVec> = lists.iter().cloned().map(ByteVec::from).collect();
    let Ok(body) = minicbor::to_vec(&lists) else {
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let tag = HEXLOWER.encode(&hash.as_ref()[..16]);
    let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) else {
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut response = if asked.get(IF_NONE_MATCH) == Some(&tag) {
        status(StatusCode::NOT_MODIFIED)
    } else {
        Response::new(hawser_session::full(body))
    };
    response.headers_mut().insert(ETAG, tag);
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(hawser_session::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sent_once_and_again_when_they_change() {
        let first = own_lists(&[vec![1], vec![2]], &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let mut asked = HeaderMap::new();
        asked.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(
            own_lists(&[vec![1], vec![2]], &asked).status(),
            StatusCode::NOT_MODIFIED
        );
        assert_eq!(own_lists(&[vec![1], vec![3]], &asked).status(), StatusCode::OK);
    }

    #[test]
    fn a_client_cannot_reach_the_gateway_itself_by_naming_its_authority() {
        let plain = Request::get("http://hawser.internal/ping").body(()).unwrap();
        assert!(is_internal(&plain));
        let from_client = Request::get("http://hawser.internal/ping")
            .header(SERVICE, "orders")
            .body(())
            .unwrap();
        assert!(!is_internal(&from_client));
        assert!(!is_internal(
            &Request::get("http://orders.acme.hawser/ping").body(()).unwrap()
        ));
    }
}
