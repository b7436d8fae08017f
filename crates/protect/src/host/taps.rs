//! Tap interfaces and the bridges they are ports of, by way of `ip` (iproute2).

use std::{io, process::Command};

/// Why an interface could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    #[error("ip {arguments}: {words}")]
    Refused { arguments: String, words: String },
    #[error("`ip` cannot be run ({0}): install iproute2")]
    NoIp(#[source] io::Error),
    #[error("there is no bridge {0} here: make it, or name another one with host.bridge")]
    NoBridge(String),
}

/// The bridge that an interface is a port of.
pub(crate) fn bridge_of(interface: &str) -> Option<String> {
    let said = ip(&["-json", "link", "show", "dev", interface]).ok()?;
    let links: serde_json::Value = serde_json::from_str(&said).ok()?;
    Some(links[0]["master"].as_str()?.to_owned())
}

/// A tap that this process made. Dropped, it is taken away.
#[derive(Debug)]
pub(crate) struct Tap {
    name: String,
    keep: bool,
}

impl Tap {
    /// Makes a tap, in place of one of that name that was left over; a port of `bridge`, and up, if one is given.
    pub(crate) fn make(name: &str, bridge: Option<&str>) -> Result<Self, TapError> {
        if let Some(bridge) = bridge
            && !is_there(bridge, &["type", "bridge"])
        {
            return Err(TapError::NoBridge(bridge.into()));
        }
        if is_there(name, &[]) {
            ip(&["link", "delete", name])?;
        }
        ip(&["tuntap", "add", "dev", name, "mode", "tap"])?;
        let tap = Self {
            name: name.into(),
            keep: false,
        };
        if let Some(bridge) = bridge {
            ip(&["link", "set", name, "master", bridge])?;
            ip(&["link", "set", name, "up"])?;
        }
        Ok(tap)
    }

    /// It stays when this value goes: a machine runs on it.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = ip(&["link", "delete", &self.name])
        {
            tracing::warn!(tap = %self.name, %error, "a tap cannot be taken away");
        }
    }
}

fn is_there(interface: &str, kind: &[&str]) -> bool {
    let all = ip(&[&["-json", "link", "show"], kind].concat()).unwrap_or_default();
    let links: serde_json::Value = serde_json::from_str(&all).unwrap_or_default();
    links
        .as_array()
        .into_iter()
        .flatten()
        .any(|l| l["ifname"] == interface)
}

fn ip(arguments: &[&str]) -> Result<String, TapError> {
    let out = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(TapError::NoIp)?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(TapError::Refused {
        arguments: arguments.join(" "),
        words: String::from_utf8_lossy(&out.stderr).trim().into(),
    })
}
