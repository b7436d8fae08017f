//! Where applications publish: `POST /v1/events` takes CloudEvents, `GET /v1/deliveries/{id}` says what became of them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use hawser_content::{AckPolicy, Address, cloudevents, routing};
use hawser_proto::{
    UnixTime,
    broker::{
        DeliveryId, ItemId, UserName,
        api::{Accepted, Delivery, Recipient},
        envelope::encoded,
    },
};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, WWW_AUTHENTICATE},
};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    core::Core,
    delivery::{self, Effects, Event, Row},
    directory::{Snapshot, sha256},
    metrics::count,
    outbox::{Inserted, Kept, OutboxError},
    web::{self, Answer, Problem},
};

/// Requests with a body of up to [`SMALL`] bytes that are taken at one time; further ones wait.
const AT_ONCE: usize = 256;
/// As [`AT_ONCE`], for larger bodies.
const LARGE_AT_ONCE: usize = 8;
const SMALL: u64 = 64 * 1024;
/// Most devices and users without a device that one event goes to.
const MAX_ROWS: usize = 10_000;
/// When to publish again after the outbox was full, in seconds.
const FULL: u32 = 30;

/// See the module page.
pub(crate) struct Publishing {
    core: Arc<Core>,
    ttl: Duration,
    small: Semaphore,
    large: Semaphore,
}

impl Publishing {
    /// `ttl`: of events that do not say.
    pub(crate) fn new(core: Arc<Core>, ttl: Duration) -> Self {
        Self {
            core,
            ttl,
            small: Semaphore::new(AT_ONCE),
            large: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    /// Serves one request. `certificate`: SHA-256 of the client's, where it proved to have one.
    pub(crate) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        certificate: Option<[u8; 32]>,
    ) -> Result<Answer, Problem> {
        let snapshot = self.core.snapshot.load_full();
        let application = application(&snapshot, request.headers(), certificate)?;
        let path = request.uri().path();
        if path == "/v1/events" {
            if request.method() != Method::POST {
                return Err(Problem::method("POST"));
            }
            return self.publish(&application, request).await.inspect_err(|_| {
                count(&self.core.metrics.published, "refused");
            });
        }
        let Some(id) = path.strip_prefix("/v1/deliveries/") else {
            return Err(Problem::not_found());
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method("GET, HEAD"));
        }
        let id = id.parse().map_err(|_| no_delivery())?;
        self.delivery(&application, id).await
    }

    async fn publish(&self, application: &UserName, request: Request<Incoming>) -> Result<Answer, Problem> {
        let length = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let places = match length {
            Some(length) if length <= SMALL => &self.small,
            _ => &self.large,
        };
        let _place = places.acquire().await.map_err(|_| closed())?;
        let (head, body) = request.into_parts();
        let body = web::body(body, cloudevents::MAX_BODY).await?;
        let batch = is_batch(&head.headers);
        let events = cloudevents::parse(&head.headers, &body)
            .map_err(|e| Problem::new(e.status(), "event", e.to_string()))?;
        drop(body);
        let now = UnixTime::now();
        let snapshot = self.core.snapshot.load_full();
        // All of a batch is checked before any of it is taken.
        let planned = events
            .into_iter()
            .map(|event| self.plan(application, &snapshot, event, now));
        let planned: Vec<_> = planned.collect::<Result<_, _>>()?;
        // Not given up half-way when the client goes away.
        let taken = tokio::spawn(take(self.core.clone(), planned, snapshot));
        let accepted = taken.await.map_err(|_| closed())??;
        if batch {
            return web::json(StatusCode::ACCEPTED, &accepted);
        }
        let one = accepted
            .first()
            .ok_or_else(|| Problem::new(400, "event", "there is no event"))?;
        let mut answer = web::json(StatusCode::ACCEPTED, one)?;
        if let Ok(location) = HeaderValue::try_from(format!("/v1/deliveries/{}", one.delivery)) {
            answer.headers_mut().insert(LOCATION, location);
        }
        Ok(answer)
    }

    /// What an event becomes: its row for each device of each recipient.
    fn plan(
        &self,
        application: &UserName,
        snapshot: &Snapshot,
        event: hawser_content::Event,
        now: UnixTime,
    ) -> Result<(Kept, Zeroizing<Vec<u8>>), Problem> {
        let routing = routing(&event).map_err(|e| Problem::new(422, "routing", e.to_string()))?;
        let expires = routing.ends(now, self.ttl);
        if expires <= now {
            return Err(Problem::new(422, "expired", "the event's time is over already"));
        }
        let users = users(snapshot, &routing.recipients)?;
        let mut rows = Vec::new();
        for user in users {
            let before = rows.len();
            let devices = snapshot.devices_of(&user);
            rows.extend(devices.map(|d| Row::new(user.clone(), Some(d.handle), now)));
            if rows.len() == before {
                rows.push(Row::new(user, None, now));
            }
            if rows.len() > MAX_ROWS {
                let detail =
                    format!("the event would go to more than {MAX_ROWS} devices: split its recipients");
                return Err(Problem::new(422, "recipients", detail));
            }
        }
        let random = |_| Problem::new(500, "internal", "the system gives no random numbers");
        let kept = Event {
            delivery: DeliveryId(hawser_seal::random().map_err(random)?),
            application: application.clone(),
            source: event.source.clone(),
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            accepted: now,
            expires,
            urgency: routing.urgency,
            mode: routing.mode,
            ack: match routing.ack {
                AckPolicy::Each => delivery::AckPolicy::Each,
                AckPolicy::Any => delivery::AckPolicy::Any,
            },
            collapse: routing.collapse,
            item: ItemId(hawser_seal::random().map_err(random)?),
        };
        let content = Zeroizing::new(encoded(&event));
        Ok((Kept { event: kept, rows }, content))
    }

    async fn delivery(&self, application: &UserName, id: DeliveryId) -> Result<Answer, Problem> {
        let live = self.core.machine().live(&id);
        let kept = match live {
            Some(kept) => Some(kept),
            None => self.core.outbox.kept(id).await.map_err(refused)?,
        };
        let kept = kept
            .filter(|kept| kept.event.application == *application)
            .ok_or_else(no_delivery)?;
        let snapshot = self.core.snapshot.load();
        let recipient = |row: Row| Recipient {
            name: row
                .device
                .and_then(|d| snapshot.device(&d))
                .map(|d| d.name.clone()),
            user: row.user,
            device: row.device,
            state: row.state,
            since: row.since,
            variant: row.variant,
            reason: row.reason,
            receipt: row.receipt,
        };
        let event = kept.event;
        let view = Delivery {
            delivery: id,
            source: event.source,
            id: event.id,
            event_type: event.event_type,
            accepted: event.accepted,
            expires: event.expires,
            urgency: event.urgency,
            recipients: kept.rows.into_iter().map(recipient).collect(),
        };
        web::json(StatusCode::OK, &view)
    }
}

/// Into the outbox, and then to the devices, in their order. Where one cannot be taken, the others are: publishing all again finds
/// them.
async fn take(
    core: Arc<Core>,
    planned: Vec<(Kept, Zeroizing<Vec<u8>>)>,
    planned_by: Arc<Snapshot>,
) -> Result<Vec<Accepted>, Problem> {
    let inserts = planned.into_iter().map(|(kept, content)| {
        let core = &core;
        async move { core.outbox.insert(&kept, content).await.map(|done| (done, kept)) }
    });
    let (mut new, mut answers) = (Vec::new(), Vec::new());
    for inserted in join_all(inserts).await {
        answers.push(inserted.map(|(done, kept)| match done {
            Inserted::Duplicate(delivery) => {
                count(&core.metrics.published, "duplicate");
                Accepted {
                    delivery,
                    duplicate: true,
                }
            }
            Inserted::New => {
                count(&core.metrics.published, "accepted");
                let delivery = kept.event.delivery;
                new.push(kept);
                Accepted {
                    delivery,
                    duplicate: false,
                }
            }
        }));
    }
    // They are on disk: whatever happens from here on, they are delivered, by a later start if need be.
    tokio::spawn(async move {
        let now = UnixTime::now();
        let accepted = core.change(|machine| {
            let mut effects = Effects::default();
            for kept in new {
                effects.append(machine.accept(kept, now));
            }
            ((), effects)
        });
        if let Err(e) = accepted.await {
            warn!(error = %e, "accepted events wait until the outbox works again");
        }
        if !Arc::ptr_eq(&planned_by, &core.snapshot.load()) {
            // A device may have gone or come in between.
            core.again.notify_one();
        }
    });
    answers
        .into_iter()
        .map(|answer| answer.map_err(refused))
        .collect()
}

/// Who asks: by bearer token, else by client certificate.
fn application(
    snapshot: &Snapshot,
    headers: &HeaderMap,
    certificate: Option<[u8; 32]>,
) -> Result<UserName, Problem> {
    let bearer = |value: &HeaderValue| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| sha256(token.trim().as_bytes()))
    };
    let found = match headers.get(AUTHORIZATION) {
        Some(value) => bearer(value).and_then(|hash| snapshot.application_by_token(&hash)),
        None => certificate.and_then(|hash| snapshot.application_by_certificate(&hash)),
    };
    found.cloned().ok_or_else(|| {
        let detail = "no application is known by this: send `Authorization: Bearer TOKEN` with the token that \
                      `hawser application add` printed, or use its client certificate";
        Problem::new(401, "unauthorized", detail).with(WWW_AUTHENTICATE, "Bearer")
    })
}

fn users(snapshot: &Snapshot, recipients: &BTreeSet<Address>) -> Result<BTreeSet<UserName>, Problem> {
    let unknown = |what: &str, name: &UserName| {
        let detail = format!("there is no {what} {name}: `hawser {what} list` shows those there are");
        Problem::new(422, "recipient", detail)
    };
    let mut users = BTreeSet::new();
    for recipient in recipients {
        match recipient {
            Address::User(name) if snapshot.has_user(name) => {
                users.insert(name.clone());
            }
            Address::User(name) => return Err(unknown("user", name)),
            Address::Group(name) => {
                users.extend(snapshot.members(name).ok_or_else(|| unknown("group", name))?);
            }
        }
    }
    Ok(users)
}

fn is_batch(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    kind.is_some_and(|k| {
        k.trim_start()
            .to_ascii_lowercase()
            .starts_with("application/cloudevents-batch")
    })
}

fn refused(e: OutboxError) -> Problem {
    match e {
        OutboxError::Full { .. } => Problem::later(429, "full", e.to_string(), FULL),
        e => {
            warn!(error = %e, "the outbox failed an application");
            Problem::later(503, "outbox", "the outbox cannot be used now: try again", 5)
        }
    }
}

fn closed() -> Problem {
    Problem::later(503, "closing", "the gateway is closing: try again", 5)
}

fn no_delivery() -> Problem {
    Problem::new(
        404,
        "not-found",
        "this application has no such delivery, or it is long over",
    )
}
