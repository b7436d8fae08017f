//! `hawser domain peer`: two domains accept each other's root, once their administrators have compared it.

use std::path::Path;

use anyhow::{Context as _, bail};
use hawser_gateway::admin;
use hawser_identity::PeeringToken;

use super::{existing, print_peers};
use crate::{
    cli::domain::{AcceptArgs, PeerCommand},
    terminal,
};

pub(super) async fn run(config: &Path, command: PeerCommand) -> anyhow::Result<()> {
    match command {
        PeerCommand::Token { state } => {
            let token = admin::peer_token(&existing(config, &state)?)?;
            eprintln!(
                "{}\nSend the token to the other domain's administrator, and compare the words over another channel.\n\
                 There: hawser domain peer accept < TOKEN",
                identified(&token)
            );
            terminal::print(&format!("{}\n", token.to_text()))
        }
        PeerCommand::Accept(args) => accept(config, &args).await,
        PeerCommand::List { state, output } => {
            print_peers(&admin::peers(&existing(config, &state)?).await?, output)
        }
        PeerCommand::Remove { domain, state } => {
            admin::remove_peer(&existing(config, &state)?, &domain).await?;
            eprintln!("The domain {domain} is a peer no longer; sessions with it are cut within a second.");
            Ok(())
        }
    }
}

async fn accept(config: &Path, args: &AcceptArgs) -> anyhow::Result<()> {
    let directory = existing(config, &args.state)?;
    let token = PeeringToken::parse(&terminal::read_token(&args.token)?)?;
    eprintln!("{}", identified(&token));
    confirm(args, &token)?;
    let peer = admin::accept_peer(&directory, &token).await?;
    eprintln!(
        "The domain {} is a peer now. It must accept this domain as well, on its side.",
        peer.domain
    );
    Ok(())
}

fn confirm(args: &AcceptArgs, token: &PeeringToken) -> anyhow::Result<()> {
    let (domain, fingerprint) = (token.domain(), token.fingerprint());
    if let Some(expected) = args.fingerprint {
        if expected != fingerprint {
            bail!(
                "not accepted: the fingerprint is another one, so the token was changed or is not that of {domain}"
            );
        }
    } else if let Some(expected) = &args.words {
        let expected = expected
            .split_whitespace()
            .map(str::to_lowercase)
            .collect::<Vec<_>>()
            .join(" ");
        if expected != fingerprint.words() {
            bail!("not accepted: the words are others, so the token was changed or is not that of {domain}");
        }
    } else if args.yes {
        eprintln!(
            "Accepted without comparing: whoever could change the token on its way may be the peer now."
        );
    } else {
        let agreed = terminal::ask(&format!("Do these words agree with those of the administrator of {domain}?"))
            .context("the words must be compared: give them with --words, the fingerprint with --fingerprint, or --yes")?;
        if !agreed {
            bail!("not accepted");
        }
    }
    Ok(())
}

/// A domain's root as both administrators see it.
fn identified(token: &PeeringToken) -> String {
    format!(
        "  domain       {}\n  root         {}\n  in words     {}",
        token.domain(),
        token.fingerprint(),
        token.fingerprint().words()
    )
}
