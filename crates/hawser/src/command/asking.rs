//! Questions to the gateway that runs by a configuration.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use serde_json::Value;

use super::status::directories;
use crate::{admin, failure::NothingRuns};

/// Longest wait for what the gateway must ask others for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the gateway that runs answers at `path`.
pub(super) async fn gateway(config: &Path, path: &str) -> anyhow::Result<Value> {
    let directory = directory(config)?;
    answered(admin::ask(&directory, path).await?, config, &directory)
}

/// What the gateway that runs answers when it is told `body` at `path`.
pub(super) async fn order(config: &Path, path: &str, body: &Value) -> anyhow::Result<Value> {
    let directory = directory(config)?;
    answered(
        admin::tell(&directory, path, body, PATIENCE).await?,
        config,
        &directory,
    )
}

fn directory(config: &Path) -> anyhow::Result<PathBuf> {
    let found = directories(config)?
        .into_iter()
        .find(|(name, _)| *name == "gateway");
    let Some((_, directory)) = found else {
        bail!(
            "{} has no [gateway] table, and calls and services are what gateways know of; see `hawser status`",
            config.display()
        );
    };
    Ok(directory)
}

fn answered(answer: Option<Value>, config: &Path, directory: &Path) -> anyhow::Result<Value> {
    let nothing = || {
        NothingRuns(format!(
            "no gateway runs on {}; start it with `hawser run -c {}`",
            directory.display(),
            config.display()
        ))
    };
    answer.ok_or_else(|| nothing().into())
}
