//! An answer on its way back to the clients' domain: addresses in it that the client is to call, such as that of a subscription's
//! manager, are replaced.

use std::net::IpAddr;

use hawser_callback::{Address, Direction, Place as Found, Plan, Replace, Verdict};
use hawser_proto::{NodeId, ServiceId, ServiceName};
use http::{HeaderMap, HeaderValue, Response, uri::Authority};
use tracing::{info, warn};

use super::{
    Callbacks, edit,
    seal::Seal,
    targets::{Pin, Targets},
};
use crate::{
    config::OriginUrl,
    problem::broken,
    seam::{BASE, Body},
};

/// What an answer's addresses are judged by.
pub(crate) struct Asked {
    /// Where services of the calling domain call back.
    base: Option<String>,
    /// The host that the client used.
    authority: Option<Authority>,
}

impl Asked {
    /// By the request's head, before the gateways' own headers are taken off.
    pub(crate) fn by(headers: &HeaderMap, uri: &http::Uri) -> Self {
        let base = headers.get(BASE).and_then(|v: &HeaderValue| v.to_str().ok());
        Self {
            base: base.filter(|b| b.parse::<OriginUrl>().is_ok()).map(str::to_owned),
            authority: uri.authority().cloned(),
        }
    }
}

impl Callbacks {
    /// The answer of the exported service `name`, fit for the domain of `peer`. What cannot be looked through passes as it is: the
    /// service has done its work.
    pub(crate) async fn answered(
        &self,
        (name, origin): (&ServiceName, &OriginUrl),
        peer: &NodeId,
        asked: Asked,
        response: Response<Body>,
    ) -> Response<Body> {
        let service = ServiceId {
            name: name.clone(),
            domain: self.0.own.domain.clone(),
        };
        let Some(rule) = self.rule(&service) else {
            return response;
        };
        let (mut parts, body) = response.into_parts();
        let plan = edit::plan(&rule.rules, Direction::Response, &parts.headers, &body);
        if rule.rules.headers.is_empty() && !matches!(plan, Plan::Edit(_)) {
            return Response::from_parts(parts, body);
        }
        let mut answerer = Answerer {
            seal: self.seal(peer.domain.clone(), service, rule.longest),
            targets: self.0.plan.load().targets.clone(),
            more: rule.targets.clone(),
            origin: origin.clone(),
            asked,
        };
        let mut headers = parts.headers.clone();
        match hawser_callback::headers(&rule.rules, &mut headers, &mut answerer) {
            Ok(report) => {
                self.save(&rule, &report).await;
                parts.headers = headers;
            }
            Err(error) => warn!(%name, %error, "addresses in an answer's headers stay as they are"),
        }
        let Plan::Edit(editor) = plan else {
            return Response::from_parts(parts, body);
        };
        let before = parts.headers.clone();
        match edit::through(editor, Box::new(answerer), &mut parts.headers, body).await {
            Ok((body, report)) => {
                self.save(&rule, &report).await;
                Response::from_parts(parts, body)
            }
            Err(error) => {
                warn!(%name, %error, "a service's answer cannot be looked through, and breaks off");
                parts.headers = before;
                Response::from_parts(parts, broken(error.into()))
            }
        }
    }
}

/// Replaces the addresses of one answer.
struct Answerer {
    seal: Seal,
    targets: Targets,
    more: Targets,
    origin: OriginUrl,
    asked: Asked,
}

impl Answerer {
    /// The service itself, under the name by which the client knows it.
    fn by_name(&self, address: &Address) -> Option<String> {
        let authority = self.asked.authority.as_ref()?;
        let same_host = address.host().eq_ignore_ascii_case(self.origin.host());
        let itself =
            (same_host && address.port() == self.origin.port()) || address.authority() == authority.as_str();
        itself.then(|| format!("http://{authority}{}", address.path_and_query()))
    }

    /// Another address of the same host, or one that an operator listed.
    fn pin(&self, place: &Found, address: &Address) -> Result<Option<IpAddr>, String> {
        let own = self.origin.host();
        let ip = own.parse::<IpAddr>().ok();
        if ip.is_none() && address.host().eq_ignore_ascii_case(own) {
            return Ok(None);
        }
        // An endpoint reference by another name may mean the service itself; a redirect, a link or a member of JSON means anybody.
        let elsewhere = matches!(
            place,
            Found::Header(_) | Found::Json(_) | Found::Sink | Found::Form(_) | Found::Query(_)
        );
        let named = address.host().parse::<IpAddr>().is_err();
        // Nobody's address: what is not the service's own host must be listed.
        let nobody = IpAddr::from([0, 0, 0, 0]);
        let service = ip.filter(|_| !(elsewhere && named)).unwrap_or(nobody);
        match self.targets.judge(&self.more, address, service) {
            Ok(Pin::To(ip)) => Ok(Some(ip)),
            Ok(Pin::Resolve) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Replace for Answerer {
    fn replace(&mut self, place: &Found, original: &str) -> Verdict {
        let Ok(address) = original.parse::<Address>() else {
            return Verdict::Keep;
        };
        if *place == Found::To {
            return Verdict::Keep;
        }
        if let Some(named) = self.by_name(&address) {
            return if named == original {
                Verdict::Keep
            } else {
                Verdict::With(named)
            };
        }
        let Some(base) = &self.asked.base else {
            return Verdict::Keep;
        };
        let pin = match self.pin(place, &address) {
            Ok(pin) => pin,
            Err(why) => {
                info!(service = %self.seal.service, %place, why, "an address in an answer stays as it is");
                return Verdict::Keep;
            }
        };
        match self.seal.address(base, address, pin) {
            Ok((sealed, _)) => Verdict::With(sealed),
            Err(_) => Verdict::Keep,
        }
    }
}
