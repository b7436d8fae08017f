//! What this gateway exports: policy, health, and forwarding to origins.

pub mod path;
pub mod policy;
