//! A request on its way out of the clients' domain: the addresses in it by which it wants to be called back are replaced.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use hawser_callback::{
    Address, Direction, Place as Found, Plan, Refusal, Replace, Report, Rules, Verdict, Why,
};
use hawser_proto::{Fault, Place, ServiceId};
use http::{Request, Uri, request};
use tracing::{debug, info, warn};

use super::{
    Callbacks,
    edit::{self, EditError},
    replica::RecordId,
    seal::Seal,
    subscriptions::Watched,
    targets::{Pin, Targets},
};
use crate::{
    config::{CallbackMode, CallbackRule},
    front::target::{Destination, Suffix},
    seam::{BASE, Body, Links},
};

/// A request as it leaves.
pub(crate) struct Left {
    pub(crate) request: Request<Body>,
    /// What was seen in it.
    pub(crate) report: Report,
    /// It is about a subscription.
    pub(crate) watched: Option<Watched>,
}

/// A request's own circumstances.
pub(crate) struct Leaving<'a> {
    /// Whom it goes to.
    pub(crate) service: &'a ServiceId,
    /// Who sends it.
    pub(crate) client: IpAddr,
    /// Names under it need no replacing: they are the same everywhere.
    pub(crate) suffix: &'a Suffix,
}

impl Callbacks {
    /// The request as it leaves. Cancel safe: what was read of it is lost with its client.
    pub(crate) async fn leaving(
        &self,
        links: &Links,
        cx: Leaving<'_>,
        mut request: Request<Body>,
    ) -> Result<Left, Fault> {
        let unchanged = |request| Left {
            request,
            report: Report::default(),
            watched: None,
        };
        let mut report = Report::default();
        if let Some(base) = self.base_header() {
            request.headers_mut().insert(BASE, base);
        }
        let Some(rule) = self.rule(cx.service) else {
            return Ok(unchanged(request));
        };
        let plan = edit::plan(&rule.rules, Direction::Request, request.headers(), request.body());
        let head = !rule.rules.headers.is_empty() || !rule.rules.query.is_empty();
        if matches!(plan, Plan::Untouched) && !head {
            return Ok(unchanged(request));
        }
        let Some(base) = links.base(cx.service).await? else {
            debug!(service = %cx.service, "its domain has no address for calls back: messages pass as they are");
            return Ok(unchanged(request));
        };
        let mut sealer = self.sealer(&rule, &cx, base);
        let grants = sealer.grants.clone();
        let (mut parts, body) = request.into_parts();
        if head {
            report = in_head(&rule.rules, &mut parts, &mut sealer)?;
        }
        let body = match plan {
            Plan::Untouched => body,
            Plan::Refuse(refusal) => return Err(refused(refusal)),
            Plan::Edit(editor) => {
                let edited = edit::through(editor, Box::new(sealer), &mut parts.headers, body).await;
                let (body, seen) = edited.map_err(failed)?;
                report.merge(seen);
                body
            }
        };
        tell(cx.service, &report);
        self.save(&rule, &report).await;
        let grants = std::mem::take(&mut *grants.lock().unwrap_or_else(PoisonError::into_inner));
        let watched = Watched::of(&report, &cx.service.domain, &parts.uri, grants);
        if let Some(watched) = &watched {
            self.asking(watched).await;
        }
        Ok(Left {
            request: Request::from_parts(parts, body),
            report,
            watched,
        })
    }

    /// Where addresses were made that stand in a table: returns when they are on disk.
    pub(super) async fn save(&self, rule: &CallbackRule, report: &Report) {
        if let (Some(shared), Some(_), true) = (&self.0.shared, rule.longest, report.changed())
            && let Err(error) = shared.save().await
        {
            warn!(%error, "short addresses for calls back are not on disk yet");
        }
    }

    fn sealer(&self, rule: &CallbackRule, cx: &Leaving<'_>, base: Arc<str>) -> Sealer {
        Sealer {
            seal: self.seal(cx.service.domain.clone(), cx.service.clone(), rule.longest),
            targets: self.0.plan.load().targets.clone(),
            more: rule.targets.clone(),
            client: cx.client,
            suffix: cx.suffix.clone(),
            keep: rule.mode == CallbackMode::Keep,
            base,
            grants: Arc::default(),
        }
    }
}

/// Seals the addresses of one request.
pub(super) struct Sealer {
    pub(super) seal: Seal,
    pub(super) targets: Targets,
    pub(super) more: Targets,
    pub(super) client: IpAddr,
    pub(super) suffix: Suffix,
    pub(super) keep: bool,
    pub(super) base: Arc<str>,
    /// Of the addresses of a subscription.
    pub(super) grants: Arc<Mutex<Vec<RecordId>>>,
}

impl Replace for Sealer {
    fn replace(&mut self, place: &Found, original: &str) -> Verdict {
        let Ok(address) = original.parse::<Address>() else {
            // No http: nothing that a gateway could deliver to.
            return Verdict::Keep;
        };
        let under_suffix = address
            .authority()
            .parse()
            .is_ok_and(|a| !matches!(self.suffix.destination(&a), Destination::Elsewhere(_)));
        if *place == Found::To || under_suffix || self.keep {
            return Verdict::Keep;
        }
        let pin = match self.targets.judge(&self.more, &address, self.client) {
            Ok(Pin::To(ip)) => Some(ip),
            Ok(Pin::Resolve) => None,
            // `From` says who, and need not be reachable; other endpoint references may well be somebody else's.
            Err(_) if matches!(place, Found::From | Found::Endpoint(_)) => return Verdict::Keep,
            Err(error) => return Verdict::Refuse(error.to_string()),
        };
        match self.seal.address(&self.base, address, pin) {
            Ok((sealed, grant)) => {
                if matches!(place, Found::NotifyTo | Found::EndTo) {
                    let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
                    grants.push(grant);
                }
                Verdict::With(sealed)
            }
            Err(error) => Verdict::Refuse(error),
        }
    }
}

/// Replaces addresses in headers and query.
fn in_head(rules: &Rules, parts: &mut request::Parts, sealer: &mut Sealer) -> Result<Report, Fault> {
    let mut report = hawser_callback::headers(rules, &mut parts.headers, sealer).map_err(refused)?;
    if let Some(mut target) = parts.uri.path_and_query().cloned() {
        report.merge(hawser_callback::query(rules, &mut target, sealer).map_err(refused)?);
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(target);
        parts.uri = Uri::from_parts(uri).map_err(|_| refused(Refusal::Unfit("the query".into())))?;
    }
    Ok(report)
}

fn tell(service: &ServiceId, report: &Report) {
    for left in report.left.iter().filter(|left| left.why == Why::Signed) {
        info!(%service, why = %left.why, "addresses for calls back stay as they are");
    }
}

fn failed(error: EditError) -> Fault {
    match error {
        EditError::Refused(refusal) => refused(refusal),
        EditError::Broken(why) => Fault::new(
            Place::ClientGateway,
            400,
            "request-broken",
            format!("the request's body broke off: {why}"),
            "send it again",
        ),
    }
}

fn refused(refusal: Refusal) -> Fault {
    Fault::new(
        Place::ClientGateway,
        refusal.status(),
        "callback-refused",
        refusal.to_string(),
        "see docs/callbacks.md; `hawser callbacks test FILE` shows what becomes of a recorded request",
    )
}
