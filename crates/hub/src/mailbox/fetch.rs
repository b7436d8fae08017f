//! Content that a device asks its domain for: the question goes to the gateway, the answer comes back in pieces, each asked for
//! when the device has taken the one before, so that nothing is held here.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hawser_proto::broker::{
    DeviceHandle,
    mailbox::{FetchAnswer, GRANT_LIFE},
};
use hawser_session::BoxError;
use http::StatusCode;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Mailbox, conversation::FETCH_TIMEOUT, link::Order, problem::Problem};

/// What one device asks for at a time, granted answers that it has not read included.
const MAX_ASKED: usize = 8;
/// Seconds after which a device may ask again.
const AGAIN: u32 = 5;

/// Granted answers that were not read yet.
#[derive(Default)]
pub(super) struct Grants(HashMap<(DeviceHandle, [u8; 16]), Grant>);

/// A granted answer.
pub(super) struct Grant {
    asked: Asked,
    /// In bytes.
    pub(super) size: u64,
    until: Instant,
}

impl Grant {
    /// Whether it can still be read.
    pub(super) fn good(&self, now: Instant) -> bool {
        now < self.until
    }
}

impl Grants {
    /// A device reads it: once.
    pub(super) fn take(&mut self, device: DeviceHandle, grant: [u8; 16]) -> Option<Grant> {
        self.0.remove(&(device, grant))
    }

    /// Takes out what is too old. To be dropped when nothing is locked.
    pub(super) fn purge(&mut self, now: Instant) -> Vec<Grant> {
        self.0.extract_if(|_, g| g.until <= now).map(|(_, g)| g).collect()
    }

    /// Takes out what is a device's. To be dropped when nothing is locked.
    pub(super) fn revoke(&mut self, device: &DeviceHandle) -> Vec<Grant> {
        self.0
            .extract_if(|(d, _), _| d == device)
            .map(|(_, g)| g)
            .collect()
    }
}

/// A place among what a device asks for, and what the gateway keeps for it: both are given up when this is dropped.
struct Asked {
    mailbox: Arc<Mailbox>,
    device: DeviceHandle,
    gateway: mpsc::Sender<Order>,
    fetch: Option<u64>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.mailbox.devices().asked(&self.device);
        if let Some(fetch) = self.fetch {
            // If it has no time, the gateway forgets by itself.
            let _ = self.gateway.try_send(Order::Over(fetch));
        }
    }
}

impl Mailbox {
    /// Asks the domain's gateway for what the device wants: the grant, and its size in bytes. Cancelled, nothing is kept.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        domain: &str,
        device: DeviceHandle,
        request: Vec<u8>,
    ) -> Result<([u8; 16], u64), Problem> {
        let away = || {
            Problem::busy(
                "gateway-away",
                "the domain is not connected at this moment",
                AGAIN,
            )
        };
        let gateway = self.links().get(domain).map(|link| link.orders.clone());
        let gateway = gateway.ok_or_else(away)?;
        if !self.devices().ask(&device, MAX_ASKED) {
            let detail = format!("{MAX_ASKED} answers are being waited for: read those first");
            return Err(Problem::busy("too-many-asked", detail, AGAIN));
        }
        let mut asked = Asked {
            mailbox: self.clone(),
            device,
            gateway,
            fetch: None,
        };
        let (reply, answer) = oneshot::channel();
        let order = Order::Ask {
            device,
            request,
            reply,
        };
        let busy = || {
            Problem::busy(
                "gateway-busy",
                "the domain is asked for too much at this moment",
                AGAIN,
            )
        };
        asked.gateway.try_send(order).map_err(|_| busy())?;
        let (fetch, answer) = match timeout(FETCH_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(busy()),
            Err(_) => {
                let detail = format!("the domain did not answer within {} s", FETCH_TIMEOUT.as_secs());
                return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "gateway-late", detail));
            }
        };
        match answer {
            FetchAnswer::Granted { grant, size } => {
                asked.fetch = Some(fetch);
                let grants = &mut self.grants().0;
                if grants.contains_key(&(device, grant)) {
                    // Dropped with the lock held it would be, otherwise.
                    return Err(self.twice(asked));
                }
                let until = Instant::now() + GRANT_LIFE;
                grants.insert((device, grant), Grant { asked, size, until });
                Ok((grant, size))
            }
            FetchAnswer::Refused { status, reason } => {
                let status = StatusCode::from_u16(status)
                    .ok()
                    .filter(|s| s.is_client_error() || s.is_server_error())
                    .unwrap_or(StatusCode::BAD_GATEWAY);
                Err(Problem::new(status, "refused", reason))
            }
        }
    }

    /// The gateway gave the same handle again.
    fn twice(&self, asked: Asked) -> Problem {
        tokio::spawn(async move { drop(asked) });
        let detail = "the domain granted two answers under one handle";
        Problem::new(StatusCode::BAD_GATEWAY, "gateway-broken", detail)
    }
}

/// A grant that is being read.
pub(super) struct Reading {
    grant: Grant,
    read: u64,
}

impl Reading {
    /// From its beginning.
    pub(super) fn new(grant: Grant) -> Self {
        Self { grant, read: 0 }
    }

    /// The next piece; none at the end. An error cuts the response, which then is shorter than its Content-Length.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        if self.read >= self.grant.size {
            return Ok(None);
        }
        let (reply, piece) = oneshot::channel();
        let fetch = self.grant.asked.fetch.ok_or("nothing was granted")?;
        let order = Order::Pull { fetch, reply };
        let pull = async {
            self.grant
                .asked
                .gateway
                .send(order)
                .await
                .map_err(|_| "the gateway has gone")?;
            piece.await.map_err(|_| "the gateway has gone")
        };
        let bytes = timeout(PIECE_TIMEOUT, pull)
            .await
            .map_err(|_| "the gateway is late")??;
        if bytes.is_empty() {
            return Err("the gateway gave up".into());
        }
        self.read += bytes.len() as u64;
        Ok(Some(bytes.into()))
    }
}

/// How long a gateway may take to bring a piece.
const PIECE_TIMEOUT: Duration = FETCH_TIMEOUT;
