//! The configuration file: one TOML file for hub, gateway, logs and administration, read the same way at start, at reload,
//! by `hawser check` and by `hawser doctor`. Every error that can be found is found at once, with file and line.

pub(crate) mod reference;
mod unknown;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use hawser_gateway::config::GatewayConfig;
use hawser_hub::HubConfig;
use hawser_protect::host::HostConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

/// What a Hawser process does. Unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// What is logged, and how. Logs go to standard error.
    #[serde(default)]
    pub(crate) log: LogConfig,
    /// For the machine's administrator and monitoring.
    #[serde(default)]
    pub(crate) admin: AdminConfig,
    /// Present on a hub.
    pub(crate) hub: Option<HubConfig>,
    /// Present on a gateway.
    pub(crate) gateway: Option<GatewayConfig>,
    /// Present on a hypervisor host.
    pub(crate) host: Option<HostConfig>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// `text` for people, `json` for machines. Needs a restart to change.
    pub(crate) format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,hawser_gateway=debug`. The environment
    /// variable HAWSER_LOG has precedence.
    pub(crate) level: LogLevel,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "JSON",
        })
    }
}

/// Directives that the log filter accepts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub(crate) struct LogLevel(pub(crate) String);

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".into())
    }
}

impl From<LogLevel> for String {
    fn from(l: LogLevel) -> String {
        l.0
    }
}

impl TryFrom<String> for LogLevel {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        match tracing_subscriber::EnvFilter::builder().parse(&s) {
            Ok(_) => Ok(Self(s)),
            Err(e) => Err(format!(
                "{s:?} is no log level ({e}): expected error, warn, info, debug or trace"
            )),
        }
    }
}

/// For the machine's administrator and monitoring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminConfig {
    /// Where `/metrics` (OpenMetrics), `/healthz` and `/readyz` are served over HTTP, as in `127.0.0.1:9180`: a loopback
    /// address only. Not served unless given.
    pub(crate) listen: Option<LoopbackAddress>,
}

/// An address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "SocketAddr", into = "SocketAddr")]
#[schemars(with = "String")]
pub(crate) struct LoopbackAddress(pub(crate) SocketAddr);

impl From<LoopbackAddress> for SocketAddr {
    fn from(a: LoopbackAddress) -> SocketAddr {
        a.0
    }
}

impl TryFrom<SocketAddr> for LoopbackAddress {
    type Error = String;
    fn try_from(a: SocketAddr) -> Result<Self, String> {
        if a.ip().is_loopback() {
            Ok(Self(a))
        } else {
            Err(format!(
                "{a} is no loopback address: metrics are for this machine only; use 127.0.0.1:{} or [::1]:{}, and let a \
                 collector on this machine carry them elsewhere",
                a.port(),
                a.port()
            ))
        }
    }
}

impl Config {
    /// Reads and checks a file as far as this crate knows it; the tables of hub and gateway are checked further by their
    /// own `check`.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let advice = if e.kind() == std::io::ErrorKind::NotFound {
                "; name another file with -c, or write one: see `man hawser`"
            } else {
                ""
            };
            ConfigErrors::whole(path, format!("cannot be read: {e}{advice}"))
        })?;
        Self::parse(path, &text)
    }

    /// [`Config::read`] from text; `path` is for messages.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::new(path);
        let (mut document, syntax) = DeTable::parse_recoverable(text);
        for e in &syntax {
            errors.push(text, e.span().map(|s| s.start), e.message().to_string());
        }
        if !syntax.is_empty() {
            return Err(errors);
        }
        for unknown in unknown::take(&schemars::schema_for!(Config), document.get_mut()) {
            errors.push(text, Some(unknown.at), unknown.to_string());
        }
        // What is left is read table by table, so that an error in one does not hide another's.
        let mut config = Config::default();
        let table = document.get_mut();
        section(table, "log", text, &mut errors, &mut config.log);
        section(table, "admin", text, &mut errors, &mut config.admin);
        section(table, "hub", text, &mut errors, &mut config.hub);
        section(table, "gateway", text, &mut errors, &mut config.gateway);
        section(table, "host", text, &mut errors, &mut config.host);
        errors.none().map(|()| config)
    }
}

fn section<'t, T: Deserialize<'t>>(
    document: &mut DeTable<'t>,
    name: &str,
    text: &str,
    errors: &mut ConfigErrors,
    into: &mut T,
) {
    let Some((_, value)) = document.remove_entry(name) else {
        return;
    };
    match T::deserialize(toml::de::ValueDeserializer::from(value)) {
        Ok(t) => *into = t,
        Err(e) => errors.push(
            text,
            e.span().map(|s| s.start),
            format!("[{name}]: {}", e.message()),
        ),
    }
}

/// Everything that is wrong with a configuration file.
#[derive(Debug)]
pub(crate) struct ConfigErrors {
    path: PathBuf,
    errors: Vec<(Option<usize>, String)>,
}

impl ConfigErrors {
    /// One error that concerns the file as a whole.
    pub(crate) fn whole(path: &Path, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            errors: vec![(None, message.into())],
        }
    }

    /// No error yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            errors: Vec::new(),
        }
    }

    /// Each error as `{line, message}`.
    pub(crate) fn list(&self) -> Vec<serde_json::Value> {
        self.errors
            .iter()
            .map(|(line, message)| serde_json::json!({ "line": line, "message": message }))
            .collect()
    }

    /// One more error that concerns the file as a whole.
    pub(crate) fn add(&mut self, message: impl Into<String>) {
        self.errors.push((None, message.into()));
    }

    /// Ok when there is none.
    pub(crate) fn none(mut self) -> Result<(), Self> {
        self.errors.sort_by_key(|(line, _)| *line);
        if self.errors.is_empty() { Ok(()) } else { Err(self) }
    }

    fn push(&mut self, text: &str, at: Option<usize>, message: String) {
        let line = at.map(|at| text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1);
        self.errors.push((line, message));
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (line, message)) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if let Some(line) = line {
                write!(f, "{line}:")?;
            }
            write!(f, " {}", message.replace('\n', " "))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        match Config::parse(Path::new("x.toml"), text) {
            Ok(_) => Vec::new(),
            Err(e) => e.to_string().lines().map(String::from).collect(),
        }
    }

    #[test]
    fn an_empty_file_is_a_configuration_of_nothing() {
        assert!(errors("").is_empty());
    }

    #[test]
    fn every_error_is_told_with_its_line() {
        let e = errors(
            "[log]\nlevle = \"info\"\nformat = \"xml\"\n\n[admni]\nlisten = \"127.0.0.1:1\"\n[admin]\nlisten = \"0.0.0.0:9180\"\n",
        );
        assert_eq!(e.len(), 4, "{e:#?}");
        assert!(
            e[0].starts_with("x.toml:2: unknown key \"levle\" in [log]")
                && e[0].contains("did you mean \"level\"?"),
            "{e:#?}"
        );
        assert!(e[1].starts_with("x.toml:3: ") && e[1].contains("xml"), "{e:#?}");
        assert!(
            e[2].starts_with("x.toml:5: unknown key \"admni\"") && e[2].contains("\"admin\""),
            "{e:#?}"
        );
        assert!(
            e[3].starts_with("x.toml:8: ") && e[3].contains("no loopback address"),
            "{e:#?}"
        );
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        assert!(errors("[log]\nlevel = \"lots=of=it\"\n")[0].contains("no log level"));
    }

    #[test]
    fn broken_syntax_is_told_with_its_line() {
        assert!(errors("[log]\nlevel = \n")[0].starts_with("x.toml:2: "));
    }
}
