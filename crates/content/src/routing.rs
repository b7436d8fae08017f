//! What an event's extensions say about its way: to whom, how urgently, until when.

use std::{collections::BTreeSet, time::Duration};

use hawser_proto::{
    UnixTime,
    broker::{
        UserName,
        envelope::{Mode, Urgency},
    },
};
use minicbor::{Decode, Encode};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::Event;

/// Most recipients that one event names.
pub const MAX_RECIPIENTS: usize = 64;
/// Longest `collapsekey` in bytes.
pub const MAX_COLLAPSE: usize = 128;
/// Longest life of an event.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Someone to whom an event goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Address {
    /// `user:NAME`
    #[n(0)]
    User(#[n(0)] UserName),
    /// `group:NAME`: all its members.
    #[n(1)]
    Group(#[n(0)] UserName),
}

/// When a delivery counts as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum AckPolicy {
    /// Every device of a user gets it.
    #[n(0)]
    #[default]
    Each,
    /// An acknowledgement by one device of a user withdraws it from the others.
    #[n(1)]
    Any,
}

/// How an event is to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Routing {
    /// To whom; at least one.
    #[n(0)]
    pub recipients: BTreeSet<Address>,
    /// How urgent.
    #[n(1)]
    pub urgency: Urgency,
    /// `ttl` in seconds. `None`: the publisher leaves it open.
    #[n(2)]
    pub ttl: Option<u64>,
    /// `expirytime`. With a `ttl`, too, the earlier one counts.
    #[n(3)]
    pub expires: Option<UnixTime>,
    /// A later event with the same key takes the place of this one while it is undelivered.
    #[n(4)]
    pub collapse: Option<String>,
    /// How the content comes. `None`: as its size and the domain's policy say.
    #[n(5)]
    pub mode: Option<Mode>,
    /// When it counts as done.
    #[n(6)]
    pub ack: AckPolicy,
}

impl Routing {
    /// When it ends: by `ttl` and `expirytime`, and by `default` where neither is there. Not before `now`.
    pub fn ends(&self, now: UnixTime, default: Duration) -> UnixTime {
        let by_ttl = self.ttl.map(|seconds| now.plus(Duration::from_secs(seconds)));
        let ends = by_ttl.into_iter().chain(self.expires).min();
        let limit = now.plus(MAX_TTL);
        ends.unwrap_or(now.plus(default)).clamp(now, limit)
    }
}

/// Why an event's extensions make no sense. The publisher's fault; HTTP status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// To nobody.
    #[error(
        "to whom? Add the extension recipient (header ce-recipient): user:NAME, group:NAME, or several with commas between"
    )]
    Nobody,
    /// To too many.
    #[error("more than {MAX_RECIPIENTS} recipients: use a group")]
    TooMany,
    /// An extension is not what it must be.
    #[error("the extension {name} is {value:?}: expected {expected}")]
    Extension {
        /// Its name.
        name: &'static str,
        /// Its value, shortened.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Reads what an event's extensions ask for. Others than these mean nothing here.
pub fn routing(event: &Event) -> Result<Routing, RoutingError> {
    let get = |name: &str| event.extensions.get(name).map(String::as_str);
    Ok(Routing {
        recipients: recipients(get("recipient").unwrap_or_default())?,
        urgency: get("urgency").map_or(Ok(Urgency::Normal), urgency)?,
        ttl: get("ttl").map(ttl).transpose()?,
        expires: get("expirytime").map(expires).transpose()?,
        collapse: get("collapsekey").map(collapse).transpose()?,
        mode: get("delivery").map(mode).transpose()?,
        ack: get("ackpolicy").map_or(Ok(AckPolicy::Each), ack)?,
    })
}

fn wrong(name: &'static str, value: &str, expected: &'static str) -> RoutingError {
    RoutingError::Extension {
        name,
        value: value.chars().take(80).collect(),
        expected,
    }
}

fn recipients(list: &str) -> Result<BTreeSet<Address>, RoutingError> {
    const EXPECTED: &str = "user:NAME or group:NAME, where NAME has 1 to 128 of a-z, 0-9 and . _ @ + -";
    let mut recipients = BTreeSet::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (kind, name) = item
            .split_once(':')
            .ok_or_else(|| wrong("recipient", item, EXPECTED))?;
        let name = name.parse().map_err(|_| wrong("recipient", item, EXPECTED))?;
        recipients.insert(match kind {
            "user" => Address::User(name),
            "group" => Address::Group(name),
            _ => return Err(wrong("recipient", item, EXPECTED)),
        });
        if recipients.len() > MAX_RECIPIENTS {
            return Err(RoutingError::TooMany);
        }
    }
    match recipients.is_empty() {
        true => Err(RoutingError::Nobody),
        false => Ok(recipients),
    }
}

fn urgency(text: &str) -> Result<Urgency, RoutingError> {
    match text {
        "very-low" => Ok(Urgency::VeryLow),
        "low" => Ok(Urgency::Low),
        "normal" => Ok(Urgency::Normal),
        "high" => Ok(Urgency::High),
        _ => Err(wrong("urgency", text, "very-low, low, normal or high")),
    }
}

fn ttl(text: &str) -> Result<u64, RoutingError> {
    text.parse()
        .ok()
        .filter(|&seconds| seconds <= MAX_TTL.as_secs())
        .ok_or_else(|| wrong("ttl", text, "seconds, at most 2592000 (30 days)"))
}

fn expires(text: &str) -> Result<UnixTime, RoutingError> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| u64::try_from(time.unix_timestamp()).ok())
        .map(UnixTime)
        .ok_or_else(|| {
            wrong(
                "expirytime",
                text,
                "a time as in RFC 3339, like 2026-01-31T12:00:00Z",
            )
        })
}

fn collapse(text: &str) -> Result<String, RoutingError> {
    match (1..=MAX_COLLAPSE).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(wrong("collapsekey", text, "1 to 128 bytes")),
    }
}

fn mode(text: &str) -> Result<Mode, RoutingError> {
    match text {
        "inline" => Ok(Mode::Inline),
        "fetch" => Ok(Mode::Fetch),
        "notice" => Ok(Mode::Notice),
        _ => Err(wrong("delivery", text, "inline, fetch or notice")),
    }
}

fn ack(text: &str) -> Result<AckPolicy, RoutingError> {
    match text {
        "each" => Ok(AckPolicy::Each),
        "any" => Ok(AckPolicy::Any),
        _ => Err(wrong("ackpolicy", text, "each or any")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(extensions: &[(&str, &str)]) -> Result<Routing, RoutingError> {
        routing(&Event {
            id: "1".into(),
            source: "/a".into(),
            event_type: "t".into(),
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            data: Vec::new(),
            extensions: extensions
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        })
    }

    #[test]
    fn every_extension_is_read() {
        let routing = with(&[
            ("recipient", "user:alice, group:ops,user:alice"),
            ("urgency", "high"),
            ("ttl", "60"),
            ("expirytime", "1970-01-01T00:01:00+00:00"),
            ("collapsekey", "door"),
            ("delivery", "fetch"),
            ("ackpolicy", "any"),
            ("other", "ignored"),
        ])
        .unwrap();
        assert_eq!(routing.recipients.len(), 2);
        assert_eq!((routing.urgency, routing.ttl), (Urgency::High, Some(60)));
        assert_eq!(routing.expires, Some(UnixTime(60)));
        assert_eq!(routing.collapse.as_deref(), Some("door"));
        assert_eq!((routing.mode, routing.ack), (Some(Mode::Fetch), AckPolicy::Any));
    }

    #[test]
    fn the_earlier_end_counts_and_none_is_past_or_for_ever() {
        let now = UnixTime(1000);
        let ends = |extensions: &[(&str, &str)]| {
            let all = [&[("recipient", "user:a")], extensions].concat();
            with(&all).unwrap().ends(now, Duration::from_secs(100)).0
        };
        assert_eq!(ends(&[]), 1100);
        assert_eq!(ends(&[("ttl", "60")]), 1060);
        assert_eq!(ends(&[("ttl", "0")]), 1000);
        assert_eq!(
            ends(&[("ttl", "60"), ("expirytime", "1970-01-01T00:17:00Z")]),
            1020
        );
        assert_eq!(ends(&[("expirytime", "1970-01-01T00:00:00Z")]), 1000);
        assert_eq!(
            ends(&[("expirytime", "2970-01-01T00:00:00Z")]),
            1000 + MAX_TTL.as_secs()
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(with(&[]), Err(RoutingError::Nobody));
        assert_eq!(with(&[("recipient", " , ")]), Err(RoutingError::Nobody));
        let many: Vec<String> = (0..=MAX_RECIPIENTS).map(|n| format!("user:u{n}")).collect();
        assert_eq!(
            with(&[("recipient", &many.join(","))]),
            Err(RoutingError::TooMany)
        );
        for (name, value) in [
            ("recipient", "alice"),
            ("recipient", "role:alice"),
            ("recipient", "user:Alice"),
            ("urgency", "HIGH"),
            ("ttl", "-1"),
            ("ttl", "99999999"),
            ("expirytime", "tomorrow"),
            ("expirytime", "1960-01-01T00:00:00Z"),
            ("collapsekey", ""),
            ("delivery", "push"),
            ("ackpolicy", "none"),
        ] {
            let mut all = vec![("recipient", "user:a")];
            all.retain(|(n, _)| *n != name);
            all.push((name, value));
            let error = with(&all).unwrap_err();
            assert!(
                matches!(&error, RoutingError::Extension { name: n, .. } if *n == name),
                "{error}"
            );
        }
    }
}
