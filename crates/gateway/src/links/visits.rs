//! Clients from outside: dials in where a hub says that one has come, and hands what it says to [`crate::ingress`].

use std::sync::Arc;

use hawser_proto::{HostName, hop::Ticket};
use hawser_session::hop::{HopError, Side};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    accept::Serving,
    hub::Hub,
    live::Live,
    metrics::{Metrics, Session},
};
use crate::ingress::{Ingress, VisitError};

/// Most clients whose TLS is under way at one time. Not those of the tunnel: strangers take no room from gateways.
const MAX_ANSWERING: usize = 256;
/// Most clients at one time.
const MAX_VISITS: usize = 4096;

/// Lets clients from outside in.
pub(crate) struct Visits {
    pub(crate) ingress: Arc<Ingress>,
    live: Live,
    metrics: Metrics,
    drain: CancellationToken,
    serving: Arc<std::sync::atomic::AtomicUsize>,
    answering: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Hop(#[from] HopError),
    #[error(transparent)]
    Visit(#[from] VisitError),
}

impl Visits {
    /// Nobody is there. `drain` and `serving` are those of the sessions with other gateways.
    pub(crate) fn new(
        ingress: Arc<Ingress>,
        live: Live,
        metrics: Metrics,
        drain: CancellationToken,
        serving: Arc<std::sync::atomic::AtomicUsize>,
    ) -> Self {
        Self {
            ingress,
            live,
            metrics,
            drain,
            serving,
            answering: Arc::new(Semaphore::new(MAX_ANSWERING)),
            room: Arc::new(Semaphore::new(MAX_VISITS)),
        }
    }

    /// A client has come. Served in a task of its own; where there is no room it is passed over, and its ticket expires.
    pub(crate) fn come(self: &Arc<Self>, hub: &Arc<Hub>, ticket: Ticket, name: HostName) {
        let places = (
            self.answering.clone().try_acquire_owned(),
            self.room.clone().try_acquire_owned(),
        );
        let (Ok(answering), Ok(room)) = places else {
            debug!(hub = %hub.key, %name, "too many clients from outside; one more was passed over");
            return;
        };
        let (visits, hub) = (self.clone(), hub.clone());
        tokio::spawn(async move {
            let opened = visits.open(&hub, ticket, name.clone()).await;
            drop(answering);
            match opened {
                Ok((visit, handler)) => {
                    let _serving = Serving::begin(&visits.serving);
                    let label = Session {
                        kind: "visit",
                        side: "accepted",
                    };
                    visits.metrics.sessions.get_or_create(&label).inc();
                    handler.visit(visit).await;
                }
                // What any stranger can cause, but for the one thing that the operator can mend.
                Err(error @ Error::Visit(VisitError::Name { .. })) => {
                    warn!(hub = %hub.key, %error, "refused a client from outside");
                }
                Err(error) => debug!(hub = %hub.key, %name, %error, "a client from outside came to nothing"),
            }
            drop(room);
        });
    }

    async fn open(
        &self,
        hub: &Hub,
        ticket: Ticket,
        name: HostName,
    ) -> Result<(crate::ingress::Visit, Arc<dyn crate::ingress::Handler>), Error> {
        let carrier = hub.client.session(ticket, Side::Accepting).await?;
        let (carrier, _) = self.live.enlist(carrier);
        Ok(self.ingress.open(name, carrier, self.drain.clone()).await?)
    }
}
