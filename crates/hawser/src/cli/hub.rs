//! The command line of the hub: whom it lets in, and who may run which machine.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "comments here are help on a terminal, where [hub] is a table's name"
)]

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use hawser_proto::{DomainName, NodeId, arbiter::VmId};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum HubCommand {
    /// Runs the [hub] table of the configuration and nothing else of it.
    Run,
    /// Lists the domains that the hub admits, and whom it has revoked.
    Admitted {
        #[command(flatten)]
        state: HubState,
        #[command(flatten)]
        output: Output,
    },
    /// Shuts the hub's door to an identity, or to a whole domain, and cuts its sessions.
    #[command(after_help = "\
The hub forgets nothing about who was revoked. A revoked gateway comes back under another name, with a token of its domain.")]
    Revoke {
        /// A domain, or an identity such as spiffe://acme/gateway/gw2.
        who: DomainOrNode,
        #[command(flatten)]
        state: HubState,
    },
    /// Forgets a domain, or that an identity was revoked.
    #[command(after_help = "\
A domain that is forgotten is admitted no longer, and is not revoked either: a new token lets it in again.")]
    Forget {
        /// A domain, or an identity such as spiffe://acme/gateway/gw2.
        who: DomainOrNode,
        #[command(flatten)]
        state: HubState,
    },
    /// Lists the machines in the register: which host may run each, and since when.
    #[command(after_help = "\
The register decides who runs a protected machine; hosts change it by its rules, and each change is a line in the hub's log.

Examples:
  hawser hub register
  hawser hub register --json
  hawser hub register --forget 8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4e5f --domain acme")]
    Register {
        /// Forgets this machine, so that its UUID may begin anew on any host. Refused for one that a host may be running.
        #[arg(long, value_name = "UUID", requires = "domain")]
        forget: Option<VmId>,
        /// The domain of the machine to forget; without that, only its machines are listed.
        #[arg(long)]
        domain: Option<DomainName>,
        /// Forgets a machine although the register says that a host may be running it. If one is, two could be: be sure.
        #[arg(long, requires = "forget")]
        nobody_runs_it: bool,
        #[command(flatten)]
        state: HubState,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HubState {
    /// The hub's state directory, if not the one in the configuration.
    #[arg(long = "state", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

/// A whole domain, or one of its identities.
#[derive(Debug, Clone)]
pub(crate) enum DomainOrNode {
    Domain(DomainName),
    Node(NodeId),
}

impl From<DomainOrNode> for hawser_hub::Subject {
    fn from(who: DomainOrNode) -> Self {
        match who {
            DomainOrNode::Domain(domain) => Self::Domain(domain),
            DomainOrNode::Node(id) => Self::Node(id),
        }
    }
}

impl std::str::FromStr for DomainOrNode {
    type Err = hawser_proto::NameError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.contains("://") {
            s.parse().map(Self::Node)
        } else {
            s.parse().map(Self::Domain)
        }
    }
}
