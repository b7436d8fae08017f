//! `hawser callbacks`: what becomes of a recorded message, and the secrets that seal addresses.

use std::path::Path;

use anyhow::Context as _;

use super::state;
use crate::{
    cli::{GatewayState, calls::CallbacksCommand},
    terminal, when,
};

pub(super) async fn run(config: &Path, command: CallbacksCommand) -> anyhow::Result<()> {
    match command {
        CallbacksCommand::Rotate { state } => rotate(config, &state).await,
        CallbacksCommand::Test { .. } => anyhow::bail!("not yet"),
    }
}

async fn rotate(config: &Path, state: &GatewayState) -> anyhow::Result<()> {
    let directory = state::gateway(config, state)?;
    let (id, from) = hawser_gateway::callbacks::rotate(&directory)
        .await
        .context("no fresh secret was made")?;
    terminal::print(&format!(
        "secret {id:08x}, which seals from {} on; until then the other gateways get it with their certificates\n",
        when::date(from)
    ))
}
