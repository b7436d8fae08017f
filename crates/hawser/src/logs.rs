//! Logs: text or JSON lines on standard error, with a level that a reload can change.

use anyhow::Context as _;
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::{LogConfig, LogFormat};

/// Environment variable with filter directives; has precedence over the configuration.
const VARIABLE: &str = "HAWSER_LOG";

/// Changes the level of the running process.
pub(crate) struct LogHandle(reload::Handle<EnvFilter, Registry>);

/// Starts logging, once in a process.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<LogHandle> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Text => registry.with(lines.with_ansi(ansi())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .context("logging could not start")?;
    Ok(LogHandle(handle))
}

impl LogHandle {
    /// Takes the level of a new configuration.
    pub(crate) fn reload(&self, config: &LogConfig) -> anyhow::Result<()> {
        self.0
            .reload(filter(config)?)
            .context("the log level could not change")
    }
}

fn filter(config: &LogConfig) -> anyhow::Result<EnvFilter> {
    let directives = match std::env::var(VARIABLE) {
        Ok(d) if !d.is_empty() => d,
        _ => config.level.0.clone(),
    };
    EnvFilter::builder().parse(&directives).with_context(|| {
        format!("{directives:?} is no log level: expected error, warn, info, debug or trace")
    })
}

fn ansi() -> bool {
    use std::io::IsTerminal as _;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
