//! `hawser join`: shows a token to its hub, which admits the domain or pairs this machine with an issuer of it.

use std::path::Path;

use anyhow::{Context as _, bail};
use hawser_gateway::{admin, carriers, config::CarrierPlan};
use hawser_identity::{AnyToken, Joins};
use hawser_proto::NodeName;
use hawser_session::carrier::Ways;

use super::{domain, state};
use crate::{
    cli::{GatewayState, JoinArgs},
    terminal,
};

pub(super) async fn run(config: &Path, args: JoinArgs) -> anyhow::Result<()> {
    let ways = ways(config, &args)?;
    match AnyToken::parse(&terminal::read_token(&args.token)?)? {
        AnyToken::Hub(token) => {
            let state = GatewayState {
                directory: args.state.directory,
            };
            let directory = domain::existing(config, &state)?;
            admin::join_with_hub_token(&directory, &token, &ways).await?;
            eprintln!(
                "The domain {} is admitted at {}. Next: `hawser run`, and `hawser doctor`.",
                token.domain, token.hub
            );
        }
        AnyToken::Join(token) => {
            let directory = state::joining(config, &args.state, token.joins)?;
            let name = match args.name {
                Some(name) => name,
                None => host_name()?,
            };
            let made = admin::join_with_token(&directory, &name, &token, &ways).await?;
            let next = match token.joins {
                Joins::Gateway => {
                    "`hawser domain peer accept` for each peer, `hawser run`, and `hawser doctor`"
                }
                Joins::Host => "`hawser host`",
            };
            eprintln!("This is {} now. Next: {next}.", made.gateway);
        }
        AnyToken::Peering(token) => bail!(
            "this is a peering token of {}: `hawser domain peer accept` takes it; to join, a token of `hawser token` is needed",
            token.domain()
        ),
    }
    Ok(())
}

/// The proxy on the command line, else the carriers in the configuration, else straight.
fn ways(config: &Path, args: &JoinArgs) -> anyhow::Result<Ways> {
    let plan = match &args.proxy {
        Some(proxy) => vec![CarrierPlan::Connect {
            host: proxy.host().to_string(),
            port: proxy.port(),
            credentials: args.proxy_user.clone().zip(args.proxy_password_file.clone()),
        }],
        None => {
            state::read(config)?
                .and_then(|c| c.gateway)
                .unwrap_or_default()
                .check()?
                .carriers
        }
    };
    Ok(carriers::ways(&plan)?)
}

/// The first label of the machine's name.
fn host_name() -> anyhow::Result<NodeName> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("the machine's name cannot be read")?;
    let label = name
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    label
        .parse()
        .context("the machine's name is none for a node: give one, as in `hawser join gw2`")
}
