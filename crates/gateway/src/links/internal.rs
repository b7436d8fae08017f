//! What gateways ask each other inside an HTTP session, for the authority [`INTERNAL`]: signs of life, and revocation lists
//! that a hub might withhold.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawser_proto::{NodeId, frame::MAX_FRAME};
use hawser_session::http::{HttpSession, INTERNAL, PING_PATH};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use std::time::Duration;
use tokio::time::timeout;
use tracing::debug;

use super::trust::Keeper;
use crate::seam::{Body, SERVICE};

/// Where revocation lists are taken in: POST, answered 204, or 422 when it is not a good one.
pub(crate) const REVOCATIONS_PATH: &str = "/revocations";
/// Longest wait for a list to come in, and for one to be taken.
const LIST_WAIT: Duration = Duration::from_secs(10);

/// Whether a request is for the gateway itself. A client's own request always names a service, whatever its authority.
pub(crate) fn is_internal<B>(request: &Request<B>) -> bool {
    request.uri().host() == Some(INTERNAL) && !request.headers().contains_key(SERVICE)
}

/// Answers it.
pub(crate) fn answer<B>(
    peer: NodeId,
    keeper: Keeper,
    request: Request<B>,
) -> BoxFuture<'static, Response<Body>>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::seam::BoxError>,
{
    Box::pin(async move {
        match (request.method(), request.uri().path()) {
            (&Method::GET, PING_PATH) => status(StatusCode::NO_CONTENT),
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

/// Sends a list on a session; false when the peer did not take it.
pub(crate) async fn tell(session: &HttpSession, list: Vec<u8>) -> bool {
    let request =
        Request::post(format!("http://{INTERNAL}{REVOCATIONS_PATH}")).body(hawser_session::full(list));
    let (Some(slot), Ok(request)) = (session.reserve(), request) else {
        return false;
    };
    matches!(timeout(LIST_WAIT, slot.send(request)).await, Ok(Ok(answer)) if answer.status().is_success())
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
