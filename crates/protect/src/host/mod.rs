//! A hypervisor host: what its agent is configured with.

pub mod config;

pub use config::{HostConfig, HostConfigError};
