//! One attempt to deliver a message, and what follows from it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hawser_proto::{Fault, Place};
use hawser_store::spool::{Change, Entry, Id};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Deliver, Spool, chance, head::Head};
use crate::{inspect::now, seam::Body};

/// By which a receiver knows a message that it has had already (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Bytes of an answer that are read, so that its connection serves again.
const ANSWER: usize = 64 * 1024;
/// How long that may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Bytes of a reason that are kept.
const REASON: usize = 500;

/// A message that is tried.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) entry: Entry,
    pub(crate) head: Head,
    pub(crate) body: Bytes,
}

/// What came of it: what the target answered, or why there is no answer.
pub(crate) type Outcome = Result<Response<Body>, Fault>;

/// What follows from it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Delivered(u16),
    /// Try this one again later, when the target wishes.
    Later(Option<Duration>, String),
    /// Nobody is there.
    Away(String),
    /// It will never be taken.
    Refused(String),
}

pub(super) async fn one(spool: Spool, by: Arc<dyn Deliver>, number: u64, id: Id) {
    let stored = match spool.stored(id).await {
        Ok(Some(stored)) => stored,
        Ok(None) => {
            // It was discarded meanwhile.
            spool.schedule().done(number);
            return;
        }
        Err(why) => {
            warn!(message = %HEXLOWER.encode(&id), why, "cannot read a message that is to be delivered; will try again");
            spool.schedule().failed(number, now(), None, chance());
            return;
        }
    };
    let queue = stored.entry.queue.clone();
    let verdict = match by.deliver(stored).await {
        Ok(response) => answered(response).await,
        Err(fault) => faulty(&fault),
    };
    debug!(message = %HEXLOWER.encode(&id), %queue, ?verdict, "tried to deliver a message");
    match verdict {
        Verdict::Delivered(status) => {
            let change = Change::Delivered { status, at: now() };
            spool.change(id, change).await;
            spool.0.metrics.delivered(&queue);
            spool.schedule().done(number);
        }
        Verdict::Refused(why) => {
            let change = Change::GivenUp {
                at: now(),
                tried: true,
                why: shorten(&why),
            };
            spool.change(id, change).await;
            spool.schedule().done(number);
        }
        Verdict::Later(wish, why) => {
            let next = spool.schedule().failed(number, now(), wish, chance());
            spool.note(id, next, &why, &queue).await;
        }
        Verdict::Away(why) => {
            let next = spool.schedule().away(number, now(), chance());
            spool.note(id, next, &why, &queue).await;
        }
    }
    spool.0.wake.notify_one();
}

impl Spool {
    async fn stored(&self, id: Id) -> Result<Option<Stored>, String> {
        let found = self.0.backend.find(id).await.map_err(|e| e.to_string())?;
        let content = self.0.backend.content(id).await.map_err(|e| e.to_string())?;
        let (Some(entry), Some(content)) = (found, content) else {
            return Ok(None);
        };
        let head = Head::read(&content.head).map_err(|e| e.to_string())?;
        Ok(Some(Stored {
            entry,
            head,
            body: content.body.into(),
        }))
    }

    async fn note(&self, id: Id, next: u64, why: &str, queue: &Arc<str>) {
        self.0.metrics.failed(queue);
        let why = shorten(why);
        self.change(id, Change::Failed { next, why }).await;
    }
}

/// What a receiver is told, so that it knows a message that comes again.
pub(crate) fn name(headers: &mut HeaderMap, id: &Id) {
    if !headers.contains_key(&IDEMPOTENCY_KEY)
        && let Ok(value) = HeaderValue::try_from(format!("\"{}\"", HEXLOWER.encode(id)))
    {
        headers.insert(IDEMPOTENCY_KEY, value);
    }
}

async fn answered(response: Response<Body>) -> Verdict {
    let status = response.status();
    let wish = wish(response.headers());
    let mut body = response.into_body();
    let mut left = ANSWER;
    let _ = timeout(ANSWER_TIME, async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    })
    .await;
    let why = format!("the target answered {status}");
    match status {
        _ if status.is_success() => Verdict::Delivered(status.as_u16()),
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Verdict::Refused(why),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Later(wish, why)
        }
        _ if status.is_server_error() => Verdict::Later(wish, why),
        _ => Verdict::Refused(why),
    }
}

fn faulty(fault: &Fault) -> Verdict {
    let why = fault.to_string();
    match (fault.place, fault.code.as_str()) {
        // It was there, and may be again for another message.
        (Place::Origin, "origin-timeout" | "origin-broken") => Verdict::Later(None, why),
        (Place::Origin, _) => Verdict::Away(why),
        _ if fault.status >= 500 => Verdict::Away(why),
        _ => Verdict::Refused(why),
    }
}

/// How long a target asks to be left alone (RFC 9110, 10.2.3).
fn wish(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    until.duration_since(std::time::SystemTime::now()).ok()
}

fn shorten(why: &str) -> String {
    why.chars().take(REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::empty;

    async fn verdict(status: u16, retry_after: Option<&str>) -> Verdict {
        let mut response = Response::builder().status(status);
        if let Some(wish) = retry_after {
            response = response.header(RETRY_AFTER, wish);
        }
        answered(response.body(empty()).unwrap()).await
    }

    #[tokio::test]
    async fn answers_are_final_or_passing() {
        for delivered in [200, 202, 204] {
            assert_eq!(verdict(delivered, None).await, Verdict::Delivered(delivered));
        }
        for refused in [301, 400, 403, 404, 410, 422, 501] {
            assert!(
                matches!(verdict(refused, None).await, Verdict::Refused(_)),
                "{refused}"
            );
        }
        for later in [408, 425, 429, 500, 502, 503, 504] {
            assert!(
                matches!(verdict(later, None).await, Verdict::Later(None, _)),
                "{later}"
            );
        }
        let wish = Some(Duration::from_secs(7));
        assert!(matches!(verdict(503, Some("7")).await, Verdict::Later(w, _) if w == wish));
        assert!(matches!(
            verdict(429, Some("soon")).await,
            Verdict::Later(None, _)
        ));
        let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(600));
        assert!(matches!(
            verdict(503, Some(&date)).await,
            Verdict::Later(Some(_), _)
        ));
    }

    #[test]
    fn who_is_away_is_told_from_who_refuses() {
        let fault = |place, status, code| faulty(&Fault::new(place, status, code, "", ""));
        assert!(matches!(
            fault(Place::Origin, 502, "origin-unreachable"),
            Verdict::Away(_)
        ));
        assert!(matches!(
            fault(Place::Origin, 504, "origin-timeout"),
            Verdict::Later(..)
        ));
        assert!(matches!(
            fault(Place::Policy, 403, "path-not-allowed"),
            Verdict::Refused(_)
        ));
        assert!(matches!(
            fault(Place::ServerGateway, 410, "callback-ended"),
            Verdict::Refused(_)
        ));
        assert!(matches!(
            fault(Place::ServerGateway, 503, "queue-unserved"),
            Verdict::Away(_)
        ));
    }
}
