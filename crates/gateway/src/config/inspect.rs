//! `[gateway.inspect]` and `[gateway.export.inspect]`: which exchanges are recorded whole, and what of them is never shown.

use hawser_callback::JsonPointer;
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::Complaints;

/// `[gateway.inspect]`: what recorded exchanges may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InspectorConfig {
    /// Bytes of memory for all recorded heads and bodies together; the oldest recordings go first. Default: 33554432.
    pub memory_bytes: usize,
}

impl Default for InspectorConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 32 << 20,
        }
    }
}

/// `[gateway.export.inspect]`: records the service's exchanges in memory, for `hawser inspect show`, `replay` and `har`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InspectConfig {
    /// Bytes that are kept of each body; 0: heads alone. Default: 65536.
    pub body_bytes: usize,
    /// Headers whose values are masked when shown, besides those that are known to hold secrets. Default: [].
    pub mask_headers: Vec<String>,
    /// Names of query parameters, form fields, JSON members and XML elements whose values are masked when shown, besides those
    /// that are known to hold secrets. Default: [].
    pub mask_fields: Vec<String>,
    /// JSON Pointers (RFC 6901; "*" is any member or element) to values in JSON bodies that are masked when shown. Default: [].
    pub mask_json: Vec<String>,
}

impl Default for InspectConfig {
    fn default() -> Self {
        Self {
            body_bytes: 64 * 1024,
            mask_headers: Vec::new(),
            mask_fields: Vec::new(),
            mask_json: Vec::new(),
        }
    }
}

/// A checked table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InspectPlan {
    /// Bytes that are kept of each body.
    pub body_bytes: usize,
    /// More headers to mask.
    pub headers: Vec<HeaderName>,
    /// More fields to mask.
    pub fields: Vec<String>,
    /// Values in JSON to mask.
    pub json: Vec<JsonPointer>,
}

/// Least and most memory for recordings.
const MEMORY: (usize, usize) = (1 << 16, 1 << 32);
/// Most that can be kept of one body.
const MAX_BODY: usize = 64 << 20;

pub(super) fn memory(c: &InspectorConfig, bad: &mut Complaints) {
    bad.between("gateway.inspect.memory_bytes", c.memory_bytes, MEMORY.0, MEMORY.1);
}

pub(super) fn check(key: &str, c: &InspectConfig, http: bool, bad: &mut Complaints) -> InspectPlan {
    if !http {
        bad.add(key, "is for http exports: leave it out, or export with `http`");
    }
    bad.between(&format!("{key}.body_bytes"), c.body_bytes, 0, MAX_BODY);
    let mut plan = InspectPlan {
        body_bytes: c.body_bytes,
        fields: c.mask_fields.clone(),
        ..InspectPlan::default()
    };
    for name in &c.mask_headers {
        let parsed = name
            .parse::<HeaderName>()
            .map_err(|_| format!("{name:?} is no header: expected a name, as in \"x-session\""));
        plan.headers
            .extend(bad.take(&format!("{key}.mask_headers"), parsed));
    }
    for pointer in &c.mask_json {
        plan.json
            .extend(bad.take(&format!("{key}.mask_json"), pointer.parse::<JsonPointer>()));
    }
    if c.mask_fields.iter().any(String::is_empty) {
        bad.add(
            &format!("{key}.mask_fields"),
            "has an empty name: expected names, as in [\"pin\"]",
        );
    }
    plan
}
