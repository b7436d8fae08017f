//! `wsa:To` as the receiver of a message knows itself, where its sender knows it by another address.

use hawser_callback::{Address, Direction, Overflow, Place as Found, Plan, Replace, Report, Rules, Verdict};
use hawser_proto::{Fault, Place, ServiceId, ServiceName};
use http::{HeaderMap, Request, uri::Authority};

use super::{
    Callbacks,
    edit::{self, EditError},
};
use crate::{config::OriginUrl, seam::Body};

/// Who receives it.
pub(super) enum To {
    /// A client that is called back at an address in which this capability stands for the original.
    Client {
        capability: Option<String>,
        original: String,
    },
    /// A service that its callers know by this host.
    Service { called: Authority, url: OriginUrl },
}

impl Replace for To {
    fn replace(&mut self, place: &Found, original: &str) -> Verdict {
        if *place != Found::To {
            return Verdict::Keep;
        }
        match self {
            To::Client {
                capability: Some(capability),
                original: known,
            } if original.contains(capability.as_str()) => Verdict::With(known.clone()),
            To::Service { called, url } => match original.parse::<Address>() {
                Ok(address) if address.authority().eq_ignore_ascii_case(called.as_str()) => {
                    Verdict::With(format!("{url}{}", address.path_and_query()))
                }
                _ => Verdict::Keep,
            },
            To::Client { .. } => Verdict::Keep,
        }
    }
}

/// The message as its receiver expects it. What cannot be looked through passes as it is.
pub(super) async fn restored(
    headers: &mut HeaderMap,
    body: Body,
    to: To,
) -> Result<(Body, Report), EditError> {
    let rules = Rules {
        overflow: Overflow::Pass,
        ..Rules::default()
    };
    let Plan::Edit(editor) = edit::plan(&rules, Direction::Request, headers, &body) else {
        return Ok((body, Report::default()));
    };
    edit::through(editor, Box::new(to), headers, body).await
}

impl Callbacks {
    /// A request for the exported service `name`, whose origin sees its own host (`host = "origin"`): then it is called by that in
    /// SOAP messages, too.
    pub(crate) async fn arriving(
        &self,
        name: &ServiceName,
        url: &OriginUrl,
        request: Request<Body>,
    ) -> Result<Request<Body>, Fault> {
        let service = ServiceId {
            name: name.clone(),
            domain: self.0.own.domain.clone(),
        };
        let looked_through = self.rule(&service).is_some_and(|rule| rule.rules.soap);
        let Some(called) = request.uri().authority().filter(|_| looked_through).cloned() else {
            return Ok(request);
        };
        let (mut parts, body) = request.into_parts();
        let url = url.clone();
        let restored = restored(&mut parts.headers, body, To::Service { called, url }).await;
        let (body, _) = restored.map_err(|e| {
            Fault::new(
                Place::ServerGateway,
                400,
                "request-malformed",
                e.to_string(),
                "see what the client sends",
            )
        })?;
        Ok(Request::from_parts(parts, body))
    }
}
