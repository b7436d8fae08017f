//! `[gateway.export.queue]` and `[gateway.callbacks.queue]`: messages that are accepted now and delivered when their target is there.

use std::{fmt, time::Duration};

use hawser_proto::DomainName;
use hawser_store::spool::Bounds;
use http::{HeaderMap, HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AllowConfig, plan::Complaints};
use crate::{export::policy::Policy, spool::schedule::Pace};

/// Messages that are accepted now and delivered when their target is there. What the methods and paths name is answered with 202 and
/// the address of its state once it is on disk; everything else is called as ever.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Methods of the messages. Default: ["POST"].
    pub methods: Vec<String>,
    /// Their paths, as in `allow`. Default: all.
    pub paths: Vec<String>,
    /// Header whose value says what must stay in order: messages with the same value are delivered in the order in which they were
    /// accepted, one at a time. Default: of calls back those to the same address stay in order; of others none.
    pub order_by: Option<String>,
    /// After this time what was not delivered is given up, as in "24h"; from "1s" to "30d". Default: "24h".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expire: Duration,
    /// Pause after the first failure; it doubles with each further one. From "100ms" to "1h". Default: "1s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub retry_first: Duration,
    /// Longest pause between attempts; from "100ms" to "1d". Default: "5m".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub retry_longest: Duration,
    /// Messages under way at once to one target; 1 to 256. Default: 8.
    pub at_once: usize,
    /// Largest body of a message in bytes; at most 67108864. Default: 1048576.
    pub body_limit: usize,
    /// Most messages that wait or are dead; further ones are refused with 503. Default: 10000.
    pub messages: u64,
    /// Most bytes of these. Default: 268435456.
    pub bytes: u64,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for QueueConfig {
    fn default() -> Self {
        let pace = Pace::default();
        Self {
            methods: vec!["POST".into()],
            paths: Vec::new(),
            order_by: None,
            expire: DAY,
            retry_first: pace.first,
            retry_longest: pace.longest,
            at_once: pace.at_once,
            body_limit: 1 << 20,
            messages: 10_000,
            bytes: 256 << 20,
        }
    }
}

/// A queue, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePlan {
    takes: Policy,
    /// Header whose value says what must stay in order.
    pub order_by: Option<HeaderName>,
    /// After this time a message is given up.
    pub expire: Duration,
    /// How often messages are tried.
    pub pace: Pace,
    /// Largest body in bytes.
    pub body_limit: usize,
    /// Most messages and bytes.
    pub bounds: Bounds,
}

impl QueuePlan {
    /// Whether a message from this domain is kept and delivered later.
    pub(crate) fn takes(
        &self,
        domain: &DomainName,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> bool {
        self.takes.request(domain, method, path, headers).is_ok()
    }
}

impl fmt::Display for QueuePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in self.takes.rules() {
            write!(f, "{}, ", rule.what())?;
        }
        if let Some(header) = &self.order_by {
            write!(f, "in order by {header}, ")?;
        }
        write!(f, "given up after {}", humantime::format_duration(self.expire))
    }
}

pub(super) fn check(key: &str, c: &QueueConfig, bad: &mut Complaints) -> Option<QueuePlan> {
    let at = |name: &str| format!("{key}.{name}");
    let all = AllowConfig {
        domains: vec!["*".into()],
        methods: c.methods.clone(),
        paths: c.paths.clone(),
    };
    if c.methods.is_empty() {
        bad.add(
            &at("methods"),
            "is empty: name the methods of the messages, as in [\"POST\"]",
        );
    }
    let takes = bad.take(key, Policy::new(&[all]));
    let order_by = c.order_by.as_ref().and_then(|name| {
        let parsed = name.parse::<HeaderName>();
        bad.take(
            &at("order_by"),
            parsed.map_err(|_| format!("{name:?} is no header name")),
        )
    });
    let (second, short) = (Duration::from_secs(1), Duration::from_millis(100));
    bad.between(&at("expire"), c.expire, second, DAY * 30);
    bad.between(&at("retry_first"), c.retry_first, short, second * 3600);
    bad.between(&at("retry_longest"), c.retry_longest, short, DAY);
    if c.retry_longest < c.retry_first {
        bad.add(&at("retry_longest"), "is shorter than retry_first");
    }
    bad.between(&at("at_once"), c.at_once, 1, 256);
    bad.between(&at("body_limit"), c.body_limit, 1, 64 << 20);
    bad.between(&at("messages"), c.messages, 1, 10_000_000);
    bad.between(&at("bytes"), c.bytes, 1024, 1 << 40);
    Some(QueuePlan {
        takes: takes?,
        order_by,
        expire: c.expire,
        pace: Pace {
            first: c.retry_first,
            longest: c.retry_longest,
            at_once: c.at_once,
        },
        body_limit: c.body_limit,
        bounds: Bounds {
            messages: c.messages,
            bytes: c.bytes,
        },
    })
}
