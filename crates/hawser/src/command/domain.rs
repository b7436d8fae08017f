//! `hawser domain`: a domain's root and issuer, its peers, its revocations. A running gateway takes changes up within a second.

mod peer;

use std::path::{Path, PathBuf};

use anyhow::bail;
use hawser_gateway::admin::{self, Given, NewDomain, Summary};
use hawser_identity::file;
use hawser_proto::{NodeId, NodeName, Role};

use super::state;
use crate::{
    cli::{
        GatewayState, Output,
        domain::{DomainCommand, InitArgs, NameOrNode},
    },
    table::Table,
    terminal, when,
};

pub(super) async fn run(config: &Path, command: DomainCommand) -> anyhow::Result<()> {
    match command {
        DomainCommand::Init(args) => init(config, args).await,
        DomainCommand::Show { state, output } => {
            let summary = admin::summary(&existing(config, &state)?).await?;
            if output.json {
                return terminal::print_json(&summary);
            }
            terminal::print(&page(&summary))
        }
        DomainCommand::Peer(command) => peer::run(config, command).await,
        DomainCommand::Revoke { who, state } => revoke(config, &state, who).await,
    }
}

/// A gateway's state directory, which must be there.
pub(super) fn existing(config: &Path, state: &GatewayState) -> anyhow::Result<PathBuf> {
    let directory = state::gateway(config, state)?;
    if !directory.join(file::NODE_CERTIFICATE).exists() {
        bail!(
            "there is no gateway's identity in {}; `hawser domain init` makes one for a new domain, `hawser join` for one that \
             there is",
            directory.display()
        );
    }
    Ok(directory)
}

async fn init(config: &Path, args: InitArgs) -> anyhow::Result<()> {
    let directory = state::gateway(config, &args.state)?;
    let given = match (
        args.root_certificate,
        args.root_key,
        args.issuer_certificate,
        args.issuer_key,
    ) {
        (Some(root), _, Some(certificate), Some(key)) => Given::Issuer {
            root,
            certificate,
            key,
        },
        (Some(certificate), Some(key), ..) => Given::Root { certificate, key },
        _ => Given::Nothing,
    };
    let own_key = matches!(given, Given::Nothing);
    let read = state::read(config)?.unwrap_or_default();
    let gateway = read.gateway.unwrap_or_default();
    let new = NewDomain {
        domain: args.domain,
        gateway: args.name,
        given,
        life: gateway.certificate_life,
    };
    let made = admin::init_domain(&directory, &new).await?;
    eprintln!(
        "The domain {} is made; {} is its first gateway and its issuer.",
        made.domain, made.gateway
    );
    eprintln!("  state        {}", directory.display());
    eprintln!("  root         {}", made.root);
    eprintln!("  in words     {}", made.root_words);
    if own_key {
        eprintln!(
            "  root's key   {}; move it to a safe place if you like",
            directory.join(file::ROOT_KEY).display()
        );
    }
    let join = match read.hub {
        Some(_) => "`hawser run`, which joins the hub beside it",
        None => "`hawser join` with the hub's token",
    };
    eprintln!("Next: {join}, `hawser domain peer` for the domains to talk with.");
    Ok(())
}

async fn revoke(config: &Path, at: &GatewayState, who: NameOrNode) -> anyhow::Result<()> {
    let directory = existing(config, at)?;
    let (role, name) = match who {
        NameOrNode::Name(name) => (named(&directory, &name).await?, name),
        NameOrNode::Node(NodeId { domain, role, name }) => {
            let own = admin::summary(&directory).await?.domain;
            if domain != own {
                bail!(
                    "that identity is of {domain}, and {own} revokes its own; to talk with {domain} no longer: hawser domain peer \
                     remove {domain}"
                );
            }
            (role, name)
        }
    };
    let id = admin::revoke(&directory, role, &name).await?;
    eprintln!(
        "{id} is revoked. A running gateway tells its hubs and peers at once, and live sessions are cut within seconds."
    );
    Ok(())
}

/// Whether a name is that of a gateway or of a host, by what was given out here; a gateway's if it is neither's.
async fn named(directory: &Path, name: &NodeName) -> anyhow::Result<Role> {
    let summary = admin::summary(directory).await?;
    let given = |text: &str| summary.issued.iter().any(|(issued, _)| issued == text);
    match (given(name.as_str()), given(&format!("host/{name}"))) {
        (true, true) => {
            let domain = &summary.domain;
            bail!(
                "both a gateway and a host are called {name}: say which, as in spiffe://{domain}/gateway/{name} or \
                 spiffe://{domain}/host/{name}"
            )
        }
        (false, true) => Ok(Role::Host),
        _ => Ok(Role::Gateway),
    }
}

fn page(s: &Summary) -> String {
    let ends = |t| format!("ends {} ({})", when::relative(t), when::date(t));
    let mut text = format!(
        "domain       {}\nroot         {}\nin words     {}\nroot's key   {}\ngateway      {}, {}\nissuer       {}\n",
        s.domain,
        s.root,
        s.root_words,
        if s.root_key_here { "here" } else { "not here" },
        s.gateway,
        ends(s.certificate_ends),
        s.issuer_ends
            .map_or("not here".into(), |t| format!("here, {}", ends(t))),
    );
    let mut part = |table: &dyn std::fmt::Display, empty: bool| {
        if !empty {
            text.push_str(&format!("\n{table}"));
        }
    };
    let mut hubs = Table::new(["HUB", "KEY"]);
    s.hubs
        .iter()
        .for_each(|(hub, key)| hubs.row([hub.clone(), key.clone()]));
    part(&hubs, hubs.is_empty());
    let mut peers = Table::new(["PEER", "ROOT"]);
    s.peers
        .iter()
        .for_each(|p| peers.row([p.domain.to_string(), p.root.clone()]));
    part(&peers, peers.is_empty());
    let mut issued = Table::new(["GATEWAY OR HOST", "CERTIFIED BY"]);
    s.issued
        .iter()
        .for_each(|(name, by)| issued.row([name.clone(), by.clone()]));
    part(&issued, issued.is_empty());
    let mut revoked = Table::new(["REVOKED"]);
    s.revoked.iter().for_each(|id| revoked.row([id.to_string()]));
    part(&revoked, revoked.is_empty());
    text
}

/// A list of peers, as JSON or as a table.
fn print_peers(peers: &[admin::PeerSummary], output: Output) -> anyhow::Result<()> {
    if output.json {
        return terminal::print_json(&peers);
    }
    let mut table = Table::new(["DOMAIN", "ROOT", "WORDS"]);
    for p in peers {
        table.row([p.domain.to_string(), p.root.clone(), p.words.clone()]);
    }
    if table.is_empty() {
        eprintln!("No peers. `hawser domain peer accept` takes the peering token of another domain.");
        return Ok(());
    }
    terminal::print(&table.to_string())
}
