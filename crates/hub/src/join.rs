//! Those who hold a one-time token and no certificate yet: a domain to be admitted, a node to be paired with its issuer.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use hawser_identity::token;
use hawser_proto::{DomainName, UnixTime, control::ToGateway};
use hawser_session::hop::{Half, JoinReply};

use crate::{
    admission::{self, AdmissionError, Application},
    data::{self, Comer, End},
    door::Place,
    pairing::Side,
    refusal::Refusal,
    shared::Shared,
};

/// A domain asks to be admitted.
pub(crate) async fn admit(shared: Arc<Shared>, from: SocketAddr, application: Application, reply: JoinReply) {
    let domain = application.domain.clone();
    let answered = match decide(&shared, &application).await {
        Ok(()) => reply.ready().await,
        Err(error) => {
            shared.metrics.refused(error.reason());
            match &error {
                AdmissionError::Store(error) => {
                    tracing::error!(%domain, %error, "cannot admit a domain: the database failed");
                }
                AdmissionError::Unknown if !shared.guesses.now() => {
                    tracing::debug!(%domain, %from, %error, "refused to admit a domain");
                }
                error => tracing::warn!(%domain, %from, %error, "refused to admit a domain"),
            }
            reply.refuse(error.fault()).await
        }
    };
    if let Err(error) = answered {
        tracing::debug!(%from, %error, "could not answer who asked for admission");
    }
}

async fn decide(shared: &Shared, application: &Application) -> Result<(), AdmissionError> {
    let _writing = shared.writing.lock().await;
    let pin = shared.identity.pin();
    let root = admission::admit(&shared.ledger, &pin, UnixTime::now(), application).await?;
    tracing::info!(domain = %application.domain, %root, "admitted a domain");
    // In force before the domain hears of it, so that its gateways can connect at once.
    if let Err(error) = shared.refresh_while_writing().await {
        tracing::error!(%error, "cannot read the database: what was admitted is in force once it can be read");
    }
    Ok(())
}

/// A node asks to be paired with an issuer of its domain.
pub(crate) async fn pair(
    shared: Arc<Shared>,
    from: SocketAddr,
    domain: DomainName,
    secret: [u8; 32],
    half: Half,
    place: Place,
) {
    let hash = token::hash(&secret);
    let granted = shared
        .switch()
        .join(Instant::now(), UnixTime::now(), &domain, &hash);
    let refusal = match granted {
        Ok(granted) => {
            let dial = ToGateway::Dial {
                ticket: granted.accepting,
                peer: None,
                join: Some(hash),
            };
            if granted.peer_handle.queue.try_send(dial).is_ok() {
                shared.metrics.granted.inc();
                tracing::info!(%from, %domain, issuer = %granted.peer, "pairing a joiner");
                let comer = Comer {
                    end: End::Hop(half),
                    party: None,
                    place: Some(place),
                };
                let sessions = shared.sessions.clone();
                sessions.spawn(data::come(
                    shared,
                    granted.pair,
                    Side::Dialling,
                    granted.expires,
                    comer,
                ));
                return;
            }
            shared.switch().tickets.void(granted.pair);
            Refusal::GatewayBusy((*granted.peer).clone())
        }
        Err(refusal) => refusal,
    };
    if shared.guesses.now() {
        tracing::warn!(%from, %domain, reason = refusal.reason(), "refused a joiner");
    } else {
        tracing::debug!(%from, %domain, reason = refusal.reason(), "refused a joiner");
    }
    data::refuse(&shared, half, &refusal).await;
}
