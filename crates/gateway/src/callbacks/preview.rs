//! What becomes of a recorded message by a configuration, without a running gateway: the same rules and the same judgement, and an
//! example in the place of each address.

use std::{net::IpAddr, sync::Arc};

use hawser_callback::{
    Direction, Place, Replace, Secret, Secrets, Verdict,
    recorded::{Account, Recorded},
};
use hawser_proto::{DomainName, ServiceId, UnixTime};
use http::{header::HOST, uri::Authority};

use super::{leaving::Sealer, seal::Seal};
use crate::{
    config::{CallbackMode, GatewayPlan},
    front::target::Destination,
};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The message does not say for which service it is.
    #[error(
        "the message's Host names no service under .{0}: say which one it is for by --service NAME.DOMAIN"
    )]
    NoService(String),
    /// Calls back are off.
    #[error(
        "calls back are off: enabled = false in [gateway.callbacks], or mode = \"off\" in the rule for {0}"
    )]
    Off(ServiceId),
    /// A capability could not be sealed.
    #[error(transparent)]
    Seal(#[from] hawser_callback::CapabilityError),
}

/// Where calls back are supposed to be taken in the examples.
const BASE: &str = "http://gateway.example:3128";

/// What becomes of `message` for a service (else for the one that it names), sent by `client`, as it leaves the domain `own`.
pub fn preview(
    plan: &GatewayPlan,
    own: DomainName,
    service: Option<ServiceId>,
    client: Option<IpAddr>,
    message: &Recorded,
) -> Result<(ServiceId, Account), PreviewError> {
    let suffix = plan.front.suffix.clone();
    let named = || {
        let host = message
            .headers
            .get(HOST)?
            .to_str()
            .ok()?
            .parse::<Authority>()
            .ok()?;
        match suffix.destination(&host) {
            Destination::Service(service) => Some(service),
            _ => None,
        }
    };
    let service = service
        .or_else(named)
        .ok_or_else(|| PreviewError::NoService(suffix.to_string()))?;
    let rule = plan.callbacks.rule(&service);
    if !plan.callbacks.enabled || rule.mode == CallbackMode::Off {
        return Err(PreviewError::Off(service));
    }
    let secrets = Secrets::new(vec![Secret::random()?]);
    let sealer = Sealer {
        seal: Seal {
            secrets: secrets.into(),
            own,
            peer: service.domain.clone(),
            service: service.clone(),
            expires: UnixTime::now().plus(plan.callbacks.expire),
            longest: rule.longest,
            shared: None,
        },
        targets: plan.callbacks.targets.clone(),
        more: rule.targets.clone(),
        // An address that is nobody's: then only what is listed passes.
        client: client.unwrap_or(IpAddr::from([0, 0, 0, 0])),
        suffix,
        keep: rule.mode == CallbackMode::Keep,
        base: BASE.into(),
        grants: Arc::default(),
    };
    let mut example = Example {
        sealer,
        to_service: message.direction == Direction::Request,
    };
    let account = message.account(&rule.rules, &mut example);
    Ok((service, account))
}

/// Answers are judged by the gateway that knows the service; what is shown of them is where addresses stand.
struct Example {
    sealer: Sealer,
    to_service: bool,
}

impl Replace for Example {
    fn replace(&mut self, place: &Place, original: &str) -> Verdict {
        if self.to_service {
            return self.sealer.replace(place, original);
        }
        let sealed = original
            .parse()
            .ok()
            .and_then(|address| self.sealer.seal.address(BASE, address, None).ok());
        match sealed {
            Some((sealed, _)) if *place != Place::To => Verdict::With(sealed),
            _ => Verdict::Keep,
        }
    }
}
