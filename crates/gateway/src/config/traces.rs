//! `[gateway.traces]`: where spans of calls go.

use std::{path::PathBuf, time::Duration};

use http::{
    Uri,
    uri::{PathAndQuery, Scheme},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OriginUrl, plan::Complaints};
use crate::traces;

/// `[gateway.traces]`: a span for each HTTP call, to a collector that speaks OTLP over HTTP. With this table the trace context in
/// requests (`traceparent`, `tracestate`) names this gateway to whoever is called; without it, it passes unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector, "http://HOST:PORT" or "https://HOST:PORT", with a path if it is not "/v1/traces". No default.
    pub endpoint: String,
    /// PEM file with the certificate authorities that may vouch for an `https` collector. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// File with headers for the collector, such as a token: a line "Name: value" each. Read at start and reload. Default: none.
    #[serde(default)]
    pub headers_file: Option<PathBuf>,
    /// Part of the traces that begin at this gateway and are recorded, from 0.0 to 1.0. Of others the caller decides. Default: 1.0.
    #[serde(default)]
    pub sample: Share,
    /// Spans that wait for the collector; further ones are lost and counted. From 1 to 65536. Default: 4096.
    #[serde(default = "waiting")]
    pub queue: usize,
    /// Longest wait of a span for others to go with, as in "5s"; from "10ms" to "1m". Default: "5s".
    #[serde(default = "delay", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub delay: Duration,
}

/// A part of a whole, from 0.0 to 1.0.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Share(pub f64);

impl Default for Share {
    fn default() -> Self {
        Self(1.0)
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.0.total_cmp(&other.0).is_eq()
    }
}

impl Eq for Share {}

/// A checked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesPlan {
    /// Scheme and authority of the collector.
    pub collector: OriginUrl,
    /// Its path, and query if it has one.
    pub path: PathAndQuery,
    /// The authorities that may vouch for it.
    pub ca: Option<PathBuf>,
    /// Where its headers are.
    pub headers_file: Option<PathBuf>,
    /// Part of the traces that begin here.
    pub sample: Share,
    /// Spans that wait.
    pub queue: usize,
    /// Longest wait for more of them.
    pub delay: Duration,
}

impl TracesPlan {
    /// Whether what the file says goes over the network in clear.
    pub(super) fn tells_secrets(&self) -> bool {
        let near = ["localhost", "127.0.0.1", "::1"].contains(&self.collector.host());
        self.headers_file.is_some() && !self.collector.tls && !near
    }
}

pub(super) fn check(c: &TracesConfig, bad: &mut Complaints) -> Option<TracesPlan> {
    let key = |name: &str| format!("gateway.traces.{name}");
    let endpoint = bad.take(&key("endpoint"), endpoint(&c.endpoint));
    if !(0.0..=1.0).contains(&c.sample.0) {
        bad.add(
            &key("sample"),
            format_args!("{} is out of range: expected 0.0 to 1.0", c.sample.0),
        );
    }
    bad.between(&key("queue"), c.queue, 1, 1 << 16);
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(60));
    bad.between(&key("delay"), c.delay, least, most);
    let (collector, path) = endpoint?;
    if c.ca.is_some() && !collector.tls {
        bad.add(
            &key("ca"),
            "is for https collectors: write https, or leave it out",
        );
    }
    Some(TracesPlan {
        collector,
        path,
        ca: c.ca.clone(),
        headers_file: c.headers_file.clone(),
        sample: c.sample,
        queue: c.queue,
        delay: c.delay,
    })
}

fn endpoint(text: &str) -> Result<(OriginUrl, PathAndQuery), String> {
    let wanted =
        || format!("{text:?} is no collector: expected \"http://HOST:PORT\" or \"https://HOST:PORT\"");
    let parts = text.parse::<Uri>().map_err(|_| wanted())?.into_parts();
    let tls = match parts.scheme {
        Some(scheme) if scheme == Scheme::HTTP => false,
        Some(scheme) if scheme == Scheme::HTTPS => true,
        _ => return Err(wanted()),
    };
    let authority = parts.authority.ok_or_else(wanted)?;
    if authority.as_str().contains('@') {
        return Err("a collector's URL carries no user or password: write a header to headers_file".into());
    }
    Ok((OriginUrl { tls, authority }, traces::path(parts.path_and_query)))
}

fn waiting() -> usize {
    4096
}

fn delay() -> Duration {
    Duration::from_secs(5)
}
