//! Subscriptions of WS-Eventing, as they pass: a renewed one makes its addresses last, an ended one ends them. A service's answer
//! decides, since it may refuse.
//!
//! `Renew` and `Unsubscribe` do not name the addresses that `Subscribe` gave. So what the service answered to that is kept: where its
//! subscription manager is, and by which reference parameters it tells subscriptions apart.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use hawser_callback::{Direction, Place, Plan, Report, Rules, SubscriptionStep, Verdict};
use hawser_proto::{DomainName, UnixTime};
use http::{Response, Uri};
use minicbor::bytes::ByteArray;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{debug, info, warn};

use super::{
    Callbacks, edit, path,
    replica::{Asked, Fact, Record, RecordId, Step, Subscription},
    shared::Shared,
};
use crate::{problem::broken, seam::Body};

/// Longest time that an address lasts from the last renewal on, whatever the service grants.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// How much longer an address lasts than its subscription: for what is on its way, and for clocks.
const GRACE: Duration = Duration::from_secs(60);
/// How long the answer to a message may take to come, where it comes by a call of its own.
const ANSWER: Duration = Duration::from_secs(600);

/// A message about a subscription on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    asked: Asked,
    message_id: Option<String>,
}

impl Watched {
    /// By what was seen in a request to a service of `domain`, and the grants that were made for it.
    pub(super) fn of(report: &Report, domain: &DomainName, uri: &Uri, grants: Vec<RecordId>) -> Option<Self> {
        let soap = report.soap.as_deref()?;
        let said = soap.subscription.as_deref()?;
        let step = match said.step {
            SubscriptionStep::Subscribe if !grants.is_empty() => Step::Subscribe,
            SubscriptionStep::Renew => Step::Renew,
            SubscriptionStep::Unsubscribe => Step::Unsubscribe,
            _ => return None,
        };
        let about = Subscription {
            manager: manager(domain, uri),
            references: said.references.iter().map(|r| reference(r)).collect(),
            grants: grants.into_iter().map(Into::into).collect(),
        };
        Some(Self {
            asked: Asked {
                step,
                domain: domain.clone(),
                about,
            },
            message_id: soap.message_id.clone(),
        })
    }
}

impl Callbacks {
    /// A message about a subscription leaves: its answer may come by a call of its own, at any gateway of the domain.
    pub(crate) async fn asking(&self, watched: &Watched) {
        let (Some(shared), Some(id)) = (&self.0.shared, &watched.message_id) else {
            return;
        };
        let record = Record {
            id: message(&watched.asked.domain, id),
            fact: Fact::Asked(watched.asked.clone()),
            forget: UnixTime::now().plus(ANSWER),
        };
        keep(shared, [record]).await;
    }

    /// The answer to a message about a subscription, unchanged.
    pub(crate) async fn subscribed(&self, watched: &Watched, response: Response<Body>) -> Response<Body> {
        let Some(shared) = &self.0.shared else {
            return response;
        };
        let succeeded = response.status().is_success();
        let (mut parts, body) = response.into_parts();
        let Plan::Edit(editor) = edit::plan(&Rules::default(), Direction::Response, &parts.headers, &body)
        else {
            return Response::from_parts(parts, body);
        };
        let keep_all = Box::new(|_: &Place, _: &str| Verdict::Keep);
        match edit::through(editor, keep_all, &mut parts.headers, body).await {
            Ok((body, report)) => {
                if succeeded {
                    answered(shared, &watched.asked, &report).await;
                }
                Response::from_parts(parts, body)
            }
            Err(error) => Response::from_parts(parts, broken(error.into())),
        }
    }

    /// A call back was delivered by `grant`: it may be the answer to a message about a subscription, or tell that one has ended.
    pub(super) async fn heard(&self, from: &DomainName, grant: Option<&RecordId>, report: &Report) {
        let (Some(shared), Some(soap)) = (&self.0.shared, report.soap.as_deref()) else {
            return;
        };
        let step = soap.subscription.as_deref().map(|s| s.step);
        if let (Some(SubscriptionStep::Ended), Some(grant)) = (step, grant) {
            let ended = shared.look(|r| r.of_grant(grant).cloned());
            if let Some(ended) = ended {
                info!(%from, "a service ended a subscription");
                end(shared, &ended).await;
            }
        }
        for id in &soap.relates_to {
            let asked = shared.look(|r| match r.get(&message(from, id))?.fact.clone() {
                Fact::Asked(asked) => Some(asked),
                _ => None,
            });
            if let Some(asked) = asked {
                answered(shared, &asked, report).await;
            }
        }
    }
}

/// A service has answered.
async fn answered(shared: &Shared, asked: &Asked, report: &Report) {
    let Some(soap) = report.soap.as_deref() else {
        return;
    };
    let said = soap.subscription.as_deref();
    let now = UnixTime::now();
    let until = said.and_then(|s| expiry(s.expires.as_deref()?, now));
    match (asked.step, said.map(|s| s.step)) {
        (Step::Subscribe, Some(SubscriptionStep::Subscribed)) => {
            let Some(manager) = said.and_then(|s| s.manager.as_deref()?.parse().ok()) else {
                return;
            };
            let subscription = Subscription {
                manager: self::manager(&asked.domain, &manager),
                references: said
                    .map(|s| s.references.iter().map(|r| reference(r)).collect())
                    .unwrap_or_default(),
                grants: asked.about.grants.clone(),
            };
            let kept = Record {
                id: name(&subscription),
                forget: now.plus(LONGEST + GRACE),
                fact: Fact::Subscription(subscription.clone()),
            };
            debug!(domain = %asked.domain, "a subscription began");
            keep(shared, lasting(shared, &subscription, until).chain([kept])).await;
        }
        (Step::Renew, Some(SubscriptionStep::Renewed)) => {
            let Some(record) = shared.meant(&asked.about) else {
                return;
            };
            if let Fact::Subscription(subscription) = &record.fact {
                debug!(domain = %asked.domain, "a subscription was renewed");
                let kept = Record {
                    forget: now.plus(LONGEST + GRACE),
                    ..record.clone()
                };
                keep(shared, lasting(shared, subscription, until).chain([kept])).await;
            }
        }
        // The answer has an empty body.
        (Step::Unsubscribe, None) if soap.operation.as_deref() != Some("Fault") => {
            let Some(record) = shared.meant(&asked.about) else {
                return;
            };
            if let Fact::Subscription(subscription) = &record.fact {
                info!(domain = %asked.domain, "a subscription ended: so do its addresses for calls back");
                end(shared, subscription).await;
            }
        }
        _ => {}
    }
}

/// The subscription's addresses last at least until then.
fn lasting(
    shared: &Shared,
    subscription: &Subscription,
    until: Option<UnixTime>,
) -> impl Iterator<Item = Record> {
    let until = until.map(|until| until.plus(GRACE));
    let both = move |grant: &ByteArray<16>, until| {
        let good = Record {
            id: **grant,
            fact: Fact::Good { until: Some(until) },
            forget: until,
        };
        [Some(good), shared.short_until(**grant, until)]
    };
    let grants = subscription.grants.iter();
    let all = grants.filter_map(move |grant| Some(both(grant, until?)));
    all.flatten().flatten()
}

/// The subscription's addresses lead nowhere from now on.
async fn end(shared: &Shared, subscription: &Subscription) {
    let ended = subscription.grants.iter().map(|grant| ended(**grant));
    keep(shared, ended.collect::<Vec<_>>()).await;
}

/// The grant of this id is good no more.
pub(super) fn ended(grant: RecordId) -> Record {
    Record {
        id: grant,
        fact: Fact::Good { until: None },
        // No capability is good for longer.
        forget: UnixTime::now().plus(Duration::from_secs(91 * 86_400)),
    }
}

async fn keep(shared: &Shared, records: impl IntoIterator<Item = Record>) {
    for record in records {
        if let Err(error) = shared.note(record) {
            warn!(%error, "a subscription's addresses are good until they expire by themselves");
        }
    }
    if let Err(error) = shared.save().await {
        warn!(%error, "what is known of a subscription is not on disk yet");
    }
}

/// A subscription manager, by the address at which clients call it.
fn manager(domain: &DomainName, address: &Uri) -> [u8; 16] {
    let path = address.path_and_query().map_or("/", |p| p.as_str());
    // One that is a sealed address itself is told from all others by that.
    let host = match path::is_one(path) {
        true => String::new(),
        false => address
            .authority()
            .map_or("", |a| a.as_str())
            .to_ascii_lowercase(),
    };
    hash(&["manager", domain.as_str(), &host, path])
}

fn message(domain: &DomainName, id: &str) -> RecordId {
    hash(&["message", domain.as_str(), id])
}

fn reference(text: &str) -> u64 {
    let hash = hash(&["reference", text]);
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

/// A name that all gateways give it.
fn name(subscription: &Subscription) -> RecordId {
    let parts: Vec<_> = subscription
        .grants
        .iter()
        .flat_map(|g| g.iter().copied())
        .chain(subscription.manager)
        .chain(subscription.references.iter().flat_map(|r| r.to_be_bytes()))
        .collect();
    let hash = digest(&SHA256, &parts);
    std::array::from_fn(|i| hash.as_ref()[i])
}

fn hash(parts: &[&str]) -> [u8; 16] {
    let whole = parts.join("\0");
    let hash = digest(&SHA256, whole.as_bytes());
    std::array::from_fn(|i| hash.as_ref()[i])
}

/// When something of this `Expires` ends: `xs:dateTime` or `xs:duration` (XML Schema part 2), at most [`LONGEST`] from `now`.
fn expiry(text: &str, now: UnixTime) -> Option<UnixTime> {
    let span = match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => {
            let at = u64::try_from(at.unix_timestamp()).ok()?;
            now.until(UnixTime(at))
        }
        Err(_) => duration(text)?,
    };
    Some(now.plus(span.min(LONGEST)))
}

/// An `xs:duration`; a month counts as 30 days and a year as 365, which is [`LONGEST`] at least.
fn duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (date, time) = rest.split_once('T').unwrap_or((rest, ""));
    let day = 86_400.0;
    let units = |part: &str, units: &[(char, f64)]| {
        let (mut rest, mut sum) = (part, 0.0);
        while !rest.is_empty() {
            let at = rest.find(|c: char| c.is_ascii_alphabetic())?;
            let unit = rest[at..].chars().next()?;
            let (_, seconds) = units.iter().find(|(name, _)| *name == unit)?;
            let number = &rest[..at];
            let digits = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            sum += number.parse::<f64>().ok().filter(|_| digits)? * seconds;
            rest = &rest[at + 1..];
        }
        Some(sum)
    };
    let seconds = units(
        date,
        &[
            ('Y', 365.0 * day),
            ('M', 30.0 * day),
            ('W', 7.0 * day),
            ('D', day),
        ],
    )? + units(time, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)])?;
    if rest.is_empty() || rest.ends_with('T') {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(1e12)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_dates_are_read() {
        let now = UnixTime(1_800_000_000);
        let left = |text| expiry(text, now).map(|at| now.until(at).as_secs());
        for (text, seconds) in [
            ("PT10M", Some(600)),
            ("P1DT2H3M4.5S", Some(86_400 + 7384)),
            ("P2W", Some(14 * 86_400)),
            ("P1Y", Some(30 * 86_400)),
            ("PT0S", Some(0)),
            ("2027-01-15T08:00:01Z", Some(1)),
            ("2027-01-15T09:00:10+01:00", Some(10)),
            ("2020-01-01T00:00:00Z", Some(0)),
            ("P", None),
            ("PT", None),
            ("-PT1S", None),
            ("P1S", None),
            ("PT1", None),
            ("PTeS", None),
            ("PT1e9S", None),
            ("tomorrow", None),
        ] {
            assert_eq!(left(text), seconds, "{text}");
        }
    }

    /// What a SOAP message says, with this subscription in it.
    fn said(operation: Option<&str>, subscription: Option<hawser_callback::Subscription>) -> Report {
        let soap = hawser_callback::Soap {
            version: hawser_callback::SoapVersion::V1_2,
            action: None,
            message_id: Some("urn:1".into()),
            relates_to: vec!["urn:1".into()],
            to: None,
            signed: false,
            operation: operation.map(str::to_owned),
            subscription: subscription.map(Box::new),
        };
        Report {
            soap: Some(Box::new(soap)),
            ..Report::default()
        }
    }

    fn of(step: SubscriptionStep, references: &[&str], expires: &str) -> hawser_callback::Subscription {
        hawser_callback::Subscription {
            step,
            manager: Some("http://alarms.beta.hawser/manager".into()),
            references: references.iter().map(|r| (*r).to_owned()).collect(),
            expires: Some(expires.into()),
        }
    }

    async fn shared(dir: &std::path::Path) -> Shared {
        let store = hawser_store::Store::open(dir).unwrap();
        Shared::open(dir, &store).await.unwrap()
    }

    fn asked(step: SubscriptionStep, references: &[&str], grants: &[RecordId]) -> Watched {
        let uri = Uri::from_static("http://alarms.beta.hawser/manager");
        let report = said(None, Some(of(step, references, "")));
        Watched::of(&report, &"beta".parse().unwrap(), &uri, grants.to_vec()).unwrap()
    }

    fn good(shared: &Shared, grant: RecordId) -> Option<Option<UnixTime>> {
        shared.look(|r| match r.get(&grant)?.fact {
            Fact::Good { until } => Some(until),
            _ => None,
        })
    }

    #[tokio::test]
    async fn a_renewed_subscription_lasts_and_an_ended_one_does_not_but_only_if_the_service_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path()).await;
        let (one, two) = ([1; 16], [2; 16]);
        use SubscriptionStep::*;
        for (grant, identifier) in [(one, "Identifier=1"), (two, "Identifier=2")] {
            let response = said(
                Some("SubscribeResponse"),
                Some(of(Subscribed, &[identifier], "PT10M")),
            );
            answered(&shared, &asked(Subscribe, &[], &[grant]).asked, &response).await;
            let left = UnixTime::now().until(good(&shared, grant).unwrap().unwrap());
            assert!(
                left > Duration::from_secs(600) && left < Duration::from_secs(700),
                "{left:?}"
            );
        }
        let renew = asked(Renew, &["Trace=9", "Identifier=1"], &[]).asked;
        answered(&shared, &renew, &said(Some("Fault"), None)).await;
        let before = good(&shared, one);
        let renewed = said(Some("RenewResponse"), Some(of(Renewed, &[], "P5D")));
        answered(&shared, &renew, &renewed).await;
        assert!(good(&shared, one) > before);
        assert_eq!(
            good(&shared, two).unwrap(),
            before.unwrap(),
            "the other one is as it was"
        );

        let unsubscribe = asked(Unsubscribe, &["Identifier=1"], &[]).asked;
        answered(&shared, &unsubscribe, &said(Some("Fault"), None)).await;
        assert_ne!(good(&shared, one), Some(None), "the service refused");
        answered(&shared, &unsubscribe, &said(None, None)).await;
        assert_eq!(good(&shared, one), Some(None));
        assert_ne!(good(&shared, two), Some(None));
        answered(&shared, &renew, &renewed).await;
        assert_eq!(good(&shared, one), Some(None), "what has ended stays so");
    }

    #[tokio::test]
    async fn answers_that_come_by_a_call_of_their_own_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = hawser_store::Store::open(dir.path()).unwrap();
        let plan: crate::config::GatewayConfig =
            toml::from_str(&format!("state = {:?}", dir.path())).unwrap();
        let own = "spiffe://acme/gateway/gw1".parse().unwrap();
        let callbacks = Callbacks::start(own, &plan.check().unwrap(), &store)
            .await
            .unwrap();
        let shared = callbacks.shared().unwrap();
        let beta = "beta".parse().unwrap();
        use SubscriptionStep::*;
        callbacks.asking(&asked(Subscribe, &[], &[[1; 16]])).await;
        let response = said(
            Some("SubscribeResponse"),
            Some(of(Subscribed, &["Identifier=1"], "PT10M")),
        );
        callbacks.heard(&"gamma".parse().unwrap(), None, &response).await;
        assert_eq!(good(&shared, [1; 16]), None, "another domain's word");
        callbacks.heard(&beta, None, &response).await;
        assert!(matches!(good(&shared, [1; 16]), Some(Some(_))));
        let end = said(Some("SubscriptionEnd"), Some(of(Ended, &[], "")));
        callbacks.heard(&beta, Some(&[9; 16]), &end).await;
        assert!(
            matches!(good(&shared, [1; 16]), Some(Some(_))),
            "another one's end"
        );
        callbacks.heard(&beta, Some(&[1; 16]), &end).await;
        assert_eq!(good(&shared, [1; 16]), Some(None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "\\PC{0,40}", digits in "P[0-9YMDTHS.]{0,30}") {
            let now = UnixTime(1_800_000_000);
            for text in [text, digits] {
                if let Some(at) = expiry(&text, now) {
                    prop_assert!(now.until(at) <= LONGEST);
                }
            }
        }
    }
}
