//! Which state directory a command works on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hawser_identity::Joins;
use hawser_protect::host::HostConfig;
use hawser_store::Store;

use crate::{
    cli::{DEFAULT_CONFIG, GatewayState, JoinState, hub::HubState, machines::HostState},
    config::Config,
};

/// The directory on the command line, else the one in the configuration, else the default one.
pub(super) fn gateway(config: &Path, state: &GatewayState) -> anyhow::Result<PathBuf> {
    if let Some(directory) = &state.directory {
        return Ok(directory.clone());
    }
    match read(config)? {
        Some(Config { gateway: Some(g), .. }) => Ok(g.state),
        Some(_) => bail!(
            "{} has no [gateway] table; name the state directory with --state",
            config.display()
        ),
        None => Ok(hawser_gateway::config::GatewayConfig::default().state),
    }
}

/// As [`gateway`], for what joins: a gateway, or a host.
pub(super) fn joining(config: &Path, state: &JoinState, joins: Joins) -> anyhow::Result<PathBuf> {
    match (&state.directory, joins) {
        (Some(directory), _) => Ok(directory.clone()),
        (None, Joins::Gateway) => gateway(config, &GatewayState { directory: None }),
        (None, Joins::Host) => host(config, &HostState { directory: None }),
    }
}

/// The directory in the configuration's `[host]` table, else the default one.
pub(super) fn host(config: &Path, state: &HostState) -> anyhow::Result<PathBuf> {
    if let Some(directory) = &state.directory {
        return Ok(directory.clone());
    }
    match read(config)? {
        Some(Config { host: Some(h), .. }) => Ok(h.state),
        Some(_) => bail!(
            "{} has no [host] table; name the state directory with --state",
            config.display()
        ),
        None => Ok(HostConfig::default().state),
    }
}

/// As [`gateway`], for a hub.
pub(super) fn hub(config: &Path, state: &HubState) -> anyhow::Result<PathBuf> {
    if let Some(directory) = &state.directory {
        return Ok(directory.clone());
    }
    match read(config)? {
        Some(Config { hub: Some(h), .. }) => Ok(h.state),
        Some(_) => bail!(
            "{} has no [hub] table; name the state directory with --state",
            config.display()
        ),
        None => bail!(
            "there is no {}; name a configuration with -c, or the state directory with --state",
            config.display()
        ),
    }
}

/// Opens what a state directory keeps; it must be there already.
pub(super) fn store(directory: &Path, made_by: &str) -> anyhow::Result<Store> {
    if !directory.is_dir() {
        bail!("there is no state in {}; {made_by} makes it", directory.display());
    }
    Store::open(directory).with_context(|| format!("the state in {} cannot be opened", directory.display()))
}

/// The configuration; none when nobody named one and there is none in the default place.
pub(super) fn read(config: &Path) -> anyhow::Result<Option<Config>> {
    if config == Path::new(DEFAULT_CONFIG) && !config.exists() {
        return Ok(None);
    }
    Ok(Some(Config::read(config)?))
}
