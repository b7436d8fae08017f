//! `hawser token`: one-time tokens. The token alone goes to standard output.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use hawser_identity::{HubAddress, HubIdentity, Joins, prepare_dir};
use hawser_proto::DomainName;
use hawser_store::Store;

use super::{domain, state};
use crate::{
    cli::{GatewayState, TokenCommand, hub::HubState},
    terminal, when,
};

pub(super) async fn run(config: &Path, command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Hub {
            domain,
            life,
            public,
            state,
        } => hub(config, domain, life, public, &state).await,
        TokenCommand::Gateway { life, state } => join(config, Joins::Gateway, life, &state).await,
        TokenCommand::Host { life, state } => join(config, Joins::Host, life, &state).await,
    }
}

async fn hub(
    config: &Path,
    domain: DomainName,
    life: Duration,
    public: Option<HubAddress>,
    at: &HubState,
) -> anyhow::Result<()> {
    let directory = state::hub(config, at)?;
    let public = match (public, state::read(config)?.and_then(|c| c.hub)) {
        (Some(public), _) => public,
        (None, Some(hub)) => hub.check()?.public().clone(),
        (None, None) => {
            anyhow::bail!("where gateways reach the hub is not known here: give --public HOST:PORT")
        }
    };
    prepare_dir(&directory)?;
    let identity = HubIdentity::load_or_create(&directory)?;
    let store = Store::open(&directory)
        .with_context(|| format!("the state in {} cannot be opened", directory.display()))?;
    let token = hawser_hub::make_token(&store, &identity, public, domain, life).await?;
    eprintln!(
        "This token lets the domain {} be admitted at {}, once, until {}.\n\
         Send it to the domain's administrator over a channel that you both trust; there: hawser join < TOKEN",
        token.domain,
        token.hub,
        when::date(token.expires)
    );
    terminal::print(&format!("{}\n", *token.to_text()))
}

async fn join(config: &Path, joins: Joins, life: Duration, at: &GatewayState) -> anyhow::Result<()> {
    let directory = domain::existing(config, at)?;
    let token = hawser_gateway::admin::make_join_token(&directory, joins, life).await?;
    let whom = match joins {
        Joins::Gateway => "further gateway",
        Joins::Host => "host",
    };
    eprintln!(
        "This token lets one {whom} join the domain {}, once, until {}; an issuer must be running then.\n\
         Carry it there over a channel that you trust, and on that machine: hawser join NAME < TOKEN",
        token.domain,
        when::date(token.expires)
    );
    terminal::print(&format!("{}\n", *token.to_text()))
}
