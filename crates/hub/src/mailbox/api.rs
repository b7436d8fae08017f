//! What devices ask of the mailbox over HTTP. Every request but a preflight carries a proof by the registered key (DPoP,
//! RFC 9449), and the device's handle. Pages of any origin may ask: there are no cookies to abuse.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::stream;
use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle, ItemId,
        api::{Acks, Ask, Batch, Granted, Queued},
        mailbox::GRANT_LIFE,
        statement::{Acknowledgement, FetchRequest, MAX_STATEMENT, Signed},
    },
};
use hawser_seal::dpop::{self, DpopError};
use hawser_session::{Body, BoxError, empty, full};
use hawser_store::{
    StoreError,
    mailbox::{Ack, Acked, MAX_SEQUENCE, Page},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{self, HeaderName},
    request,
};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Mailbox, NoStream,
    devices::NotIn,
    feed::{self, Next},
    fetch::Reading,
    problem::Problem,
    serve::Visit,
    stream::{PAGE_BYTES, PAGE_ITEMS, Stream},
};

/// Header fields of ours.
const DPOP: HeaderName = HeaderName::from_static("dpop");
const DEVICE: HeaderName = HeaderName::from_static("hawser-device");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Largest body of a request in bytes, and how long it may take.
const MAX_BODY: usize = 128 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Acknowledgements in one request, and the bytes of one.
const MAX_ACKS: usize = 256;
const MAX_ACK: usize = 512;
/// Longest wait of a request for envelopes.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Seconds after which a device may try again when the mailbox has too much to do.
const AGAIN: u32 = 5;

/// Who proved to be there.
struct Proven {
    device: DeviceHandle,
    thumbprint: [u8; 32],
    domain: Arc<str>,
}

/// Answers a request. A stream takes the connection over instead, and then this never ends.
pub(super) async fn answer(
    mailbox: Arc<Mailbox>,
    visit: Arc<Visit>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answered = match *request.method() {
        Method::OPTIONS => Ok(preflight()),
        _ => respond(&mailbox, &visit, request).await,
    };
    mailbox.metrics.request(
        answered
            .as_ref()
            .map_or_else(|problem| problem.reason, |_| "done"),
    );
    let mut response = match answered {
        Ok(response) => response,
        Err(problem) => {
            tracing::debug!(
                reason = problem.reason,
                detail = problem.detail,
                "refused a device"
            );
            let mut response = problem.response();
            if problem.dpop.is_some() && visit.failed() {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "date, retry-after, www-authenticate",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn preflight() -> Response<Body> {
    let mut response = nothing();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "dpop, hawser-device, last-event-id, content-type",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What there is.
enum Wanted {
    Stream,
    Envelopes,
    Acks,
    Items,
    Grant([u8; 16]),
}

async fn respond(
    mailbox: &Arc<Mailbox>,
    visit: &Visit,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let wanted = wanted(request.method(), request.uri().path())?;
    let (parts, body) = request.into_parts();
    let proven = mailbox.prove(&parts)?;
    visit.proved();
    match wanted {
        Wanted::Stream => {
            let above = number(parts.headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes))?;
            let stream = mailbox.stream(&proven, above)?;
            visit.take(stream);
            std::future::pending().await
        }
        Wanted::Envelopes => mailbox.envelopes(&proven, parts.uri.query().unwrap_or("")).await,
        Wanted::Acks => mailbox.acks(&proven, &read(body).await?).await,
        Wanted::Items => mailbox.items(&proven, &read(body).await?).await,
        Wanted::Grant(grant) => mailbox.granted(&proven, grant),
    }
}

fn wanted(method: &Method, path: &str) -> Result<Wanted, Problem> {
    let (allowed, wanted) = match path {
        "/v1/stream" => (Method::GET, Wanted::Stream),
        "/v1/envelopes" => (Method::GET, Wanted::Envelopes),
        "/v1/acks" => (Method::POST, Wanted::Acks),
        "/v1/items" => (Method::POST, Wanted::Items),
        _ => match path.strip_prefix("/v1/grants/").map(str::parse::<ItemId>) {
            // Sixteen random bytes, as an item is.
            Some(Ok(ItemId(grant))) => (Method::GET, Wanted::Grant(grant)),
            Some(Err(_)) => return Err(no_grant()),
            None => {
                let detail = "expected /v1/stream, envelopes, acks, items or grants";
                return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", detail));
            }
        },
    };
    if allowed != *method {
        let detail = format!("expected {allowed}");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail));
    }
    Ok(wanted)
}

impl Mailbox {
    /// Who asks, by its proof.
    fn prove(&self, parts: &request::Parts) -> Result<Proven, Problem> {
        let handle = one(&parts.headers, &DEVICE)?;
        let proof = one(&parts.headers, &DPOP)?;
        let unknown = || {
            Problem::unproved(
                "invalid_token",
                "device-unknown",
                "no device with this handle and key is admitted here: enrol it, or wait until its domain is connected",
            )
        };
        let device: DeviceHandle = handle.parse().map_err(|_| unknown())?;
        // So that strangers cannot make us check signatures.
        if !self.devices().knows(&device) {
            return Err(unknown());
        }
        let url = format!("{}{}", self.url, parts.uri.path());
        let now = UnixTime::now();
        let proof = dpop::check(proof, parts.method.as_str(), &url, None, now).map_err(|e| refused(&e))?;
        let domain = self
            .devices()
            .let_in(&device, &proof.thumbprint)
            .map_err(|not_in| match not_in {
                NotIn::Unknown => unknown(),
                not_in => not_allowed(not_in),
            })?;
        self.replays().admit(&proof, now).map_err(|e| refused(&e))?;
        Ok(Proven {
            device,
            thumbprint: proof.thumbprint,
            domain,
        })
    }

    fn stream(self: &Arc<Self>, proven: &Proven, above: u64) -> Result<Stream, Problem> {
        let presence = self
            .arrive(proven.device, &proven.thumbprint)
            .map_err(|e| no_stream(&e))?;
        self.explained(proven, above);
        Ok(Stream {
            mailbox: self.clone(),
            device: proven.device,
            presence,
            above,
        })
    }

    /// In line with everything else; nobody waits for it.
    fn explained(&self, proven: &Proven, above: u64) {
        if above > 0 {
            drop(self.store.explained(proven.device.0, above));
        }
    }

    /// Whatever waits, or what comes within the time that the device waits.
    async fn envelopes(self: &Arc<Self>, proven: &Proven, query: &str) -> Result<Response<Body>, Problem> {
        let (above, wait) = (parameter(query, "after")?, parameter(query, "wait")?);
        let until = Instant::now() + Duration::from_secs(wait).min(MAX_WAIT);
        let presence = self
            .arrive(proven.device, &proven.thumbprint)
            .map_err(|e| no_stream(&e))?;
        self.explained(proven, above);
        loop {
            presence.feed.live();
            let page = Page {
                after: 0,
                above,
                now: UnixTime::now().0,
                items: PAGE_ITEMS,
                bytes: PAGE_BYTES,
            };
            let items = self
                .store
                .read(proven.device.0, page)
                .await
                .map_err(|e| store(&e))?;
            if let Some(end) = presence.feed.ended() {
                return Err(ended(end));
            }
            if !items.is_empty() || Instant::now() >= until {
                let batch = Batch {
                    items: items.iter().map(queued).collect(),
                };
                items.iter().for_each(|item| self.written(&proven.device, item));
                return Ok(json(&batch));
            }
            // The time being over is seen above.
            while presence.feed.next() == Next::Nothing
                && timeout_at(until, presence.feed.changed()).await.is_ok()
            {}
        }
    }

    async fn acks(&self, proven: &Proven, body: &[u8]) -> Result<Response<Body>, Problem> {
        let acks: Acks = parse(body)?;
        if acks.acks.len() > MAX_ACKS {
            let detail = format!(
                "{} acknowledgements: expected at most {MAX_ACKS}",
                acks.acks.len()
            );
            return Err(Problem::bad("too-many", detail));
        }
        let acks: Vec<Ack> = acks
            .acks
            .iter()
            .map(|text| acknowledgement(text, &proven.device))
            .collect::<Result<_, _>>()?;
        {
            // What is acknowledged need not be reported as sent.
            let mut sent = self.sent();
            for ack in &acks {
                sent.remove(&(proven.device.0, ack.sequence));
            }
        }
        let count = acks.len() as u64;
        let done = self.store.acknowledge(proven.device.0, acks).await;
        match done.map_err(|e| store(&e))? {
            Acked::Kept => {
                self.metrics.acknowledged.inc_by(count);
                self.tell(&proven.domain);
                Ok(nothing())
            }
            Acked::Full => Err(Problem::busy(
                "reports-full",
                "too many acknowledgements wait for the domain: keep these, and send them again",
                AGAIN,
            )),
            Acked::Gone => Err(not_allowed(NotIn::Revoked)),
        }
    }

    async fn items(self: &Arc<Self>, proven: &Proven, body: &[u8]) -> Result<Response<Body>, Problem> {
        let ask: Ask = parse(body)?;
        let request = bytes(&ask.request, MAX_STATEMENT)?;
        Signed::<FetchRequest>::parse(&request).map_err(|e| Problem::bad("malformed", e.to_string()))?;
        let (grant, size) = self.fetch(&proven.domain, proven.device, request).await?;
        Ok(json(&Granted {
            grant: ItemId(grant).to_string(),
            size,
            expires_in: GRANT_LIFE.as_secs(),
        }))
    }

    fn granted(&self, proven: &Proven, grant: [u8; 16]) -> Result<Response<Body>, Problem> {
        let now = std::time::Instant::now();
        let grant = self.grants().take(proven.device, grant);
        let grant = grant.filter(|g| g.good(now)).ok_or_else(no_grant)?;
        let size = grant.size;
        let pieces = stream::try_unfold(Reading::new(grant), |mut reading| async {
            let piece = reading.next().await?;
            Ok::<_, BoxError>(piece.map(|bytes| (Frame::data(bytes), reading)))
        });
        let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, size.into());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        Ok(response)
    }
}

fn acknowledgement(text: &str, device: &DeviceHandle) -> Result<Ack, Problem> {
    let record = bytes(text, MAX_ACK)?;
    let said: Acknowledgement = Signed::parse(&record)
        .and_then(|signed| signed.unverified())
        .map_err(|e| Problem::bad("malformed", e.to_string()))?;
    if said.device != *device {
        return Err(Problem::bad(
            "other-device",
            "an acknowledgement by another device",
        ));
    }
    if !(1..=MAX_SEQUENCE).contains(&said.sequence) {
        return Err(Problem::bad(
            "malformed",
            format!("no envelope has the number {}", said.sequence),
        ));
    }
    Ok(Ack {
        sequence: said.sequence,
        record,
    })
}

fn queued(item: &hawser_store::mailbox::Item) -> Queued {
    let text = URL_SAFE_NO_PAD.encode(&item.body);
    match item.skip {
        true => Queued::Skip(text),
        false => Queued::Envelope(text),
    }
}

async fn read(body: Incoming) -> Result<Vec<u8>, Problem> {
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("a body over {MAX_BODY} bytes"),
        )),
        Ok(Err(error)) => Err(Problem::bad("malformed", error.to_string())),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "late",
            format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|e| Problem::bad("malformed", e.to_string()))
}

fn bytes(text: &str, most: usize) -> Result<Vec<u8>, Problem> {
    if text.len() > most * 4 / 3 + 1 {
        return Err(Problem::bad(
            "too-large",
            format!("a statement over {most} bytes"),
        ));
    }
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Problem::bad("malformed", "expected base64url without padding"))
}

/// The value of a field that stands there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|v| v.to_str().ok()).ok_or_else(|| {
        Problem::unproved(
            "invalid_dpop_proof",
            "proof-missing",
            format!("expected one header field {name}"),
        )
    })
}

fn number(text: Option<&[u8]>) -> Result<u64, Problem> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Ok(0);
    };
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
    number.ok_or_else(|| Problem::bad("malformed", "expected the number of an envelope"))
}

fn parameter(query: &str, name: &str) -> Result<u64, Problem> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    number(
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.as_bytes()),
    )
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    let mut response = Response::new(full(serde_json::to_vec(value).unwrap_or_default()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn nothing() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn no_grant() -> Problem {
    let detail =
        "no such answer: it was read, its time is over, or it is another device's; ask for the item again";
    Problem::new(StatusCode::NOT_FOUND, "grant-unknown", detail)
}

fn refused(error: &DpopError) -> Problem {
    let reason = match error {
        DpopError::Busy => return Problem::busy("busy", error.to_string(), AGAIN),
        DpopError::Time { .. } => "clock",
        DpopError::Replayed => "proof-replayed",
        _ => "proof-invalid",
    };
    Problem::unproved(error.code(), reason, error.to_string())
}

fn not_allowed(why: NotIn) -> Problem {
    let (reason, detail) = match why {
        NotIn::Unknown => ("device-unknown", "this device is not admitted here"),
        NotIn::Revoked => ("revoked", "this device is revoked: it gets nothing any more"),
        NotIn::Domain => ("domain-barred", "this device's domain may not use this hub"),
    };
    Problem::new(StatusCode::FORBIDDEN, reason, detail)
}

fn no_stream(error: &NoStream) -> Problem {
    match error {
        NoStream::NotIn(why) => not_allowed(*why),
        NoStream::Full => {
            let mut problem = Problem::busy(
                "too-many-streams",
                "as many streams are open as may be: end one",
                AGAIN,
            );
            problem.status = StatusCode::TOO_MANY_REQUESTS;
            problem
        }
    }
}

fn ended(end: feed::End) -> Problem {
    match end {
        feed::End::Revoked => not_allowed(NotIn::Revoked),
        feed::End::NotAllowed => not_allowed(NotIn::Unknown),
        feed::End::Stopped => Problem::busy("stopping", "the hub is shutting down", AGAIN),
    }
}

fn store(error: &StoreError) -> Problem {
    match error {
        StoreError::Busy(_) => {}
        error => tracing::error!(%error, "the mailbox's database failed"),
    }
    Problem::busy("busy", "the mailbox cannot do this now", AGAIN)
}
