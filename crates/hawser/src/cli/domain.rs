//! The command line of a domain: its identities, and the domains that it talks to.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use hawser_identity::Fingerprint;
use hawser_proto::{DomainName, NodeId, NodeName};

use super::{GatewayState, Output, TokenSource};

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Makes a domain: its root, its first issuer, and the identity of its first gateway.
    #[command(after_help = "\
Keys are made here and never leave. The root's key, root.key, is needed again only to certify issuers, each 90 days:
move it to a safe place if you like.

Examples:
  hawser domain init acme gw1
  hawser domain init acme gw1 --root-certificate acme.crt --root-key acme.key
  hawser domain init acme gw1 --root-certificate acme.crt --issuer-certificate issuer.crt --issuer-key issuer.key")]
    Init(InitArgs),
    /// Shows this gateway's domain: its root's fingerprint, its issuer and its own identity.
    Show {
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Makes and accepts peering tokens: which other domains this one talks to.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Revokes an identity of this domain, here and at every gateway and hub that the domain reaches.
    #[command(after_help = "\
Takes effect within seconds where the list arrives; a hub that withholds it delays it by at most the certificate's life.
A name that is revoked stays so: its replacement joins under a new one.

Examples:
  hawser domain revoke gw2
  hawser domain revoke spiffe://acme/host/h1")]
    Revoke {
        /// The name of a gateway or host, or its identity such as spiffe://acme/gateway/gw2.
        who: NameOrNode,
        #[command(flatten)]
        state: GatewayState,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Prints this domain's peering token, and the words to compare.
    Token {
        #[command(flatten)]
        state: GatewayState,
    },
    /// Accepts another domain's peering token, once its words are compared.
    #[command(after_help = "\
The token is read from standard input, --token-file or HAWSER_TOKEN. It is no secret, but whoever could swap it on the way
could pose as that domain: compare the words with its administrator, over another channel.

Examples:
  hawser domain peer accept --token-file beta.peering
  hawser domain peer accept --words \"able about above absent ...\" < beta.peering")]
    Accept(AcceptArgs),
    /// Lists the domains that this one talks to.
    List {
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Talks to a domain no longer; sessions with it are cut.
    Remove {
        /// The domain.
        domain: DomainName,
        #[command(flatten)]
        state: GatewayState,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The domain's name: one label, as in acme.
    pub(crate) domain: DomainName,
    /// This gateway's name within the domain.
    #[arg(default_value = "gw1")]
    pub(crate) name: NodeName,
    /// A root certificate that there is already (PEM), instead of a new one; with its key, or with an issuer under it.
    #[arg(long, requires = "root_given", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) root_certificate: Option<PathBuf>,
    /// The key of that certificate (PEM, PKCS#8); it is used once and not copied.
    #[arg(long, requires = "root_certificate", group = "root_given", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) root_key: Option<PathBuf>,
    /// An issuer's certificate that there is already (PEM), signed by the root: the root's key is not needed then. Its URI
    /// name is spiffe://DOMAIN/issuer/NAME.
    #[arg(
        long,
        requires_all = ["root_certificate", "issuer_key"],
        group = "root_given",
        value_name = "FILE",
        value_hint = ValueHint::FilePath
    )]
    pub(crate) issuer_certificate: Option<PathBuf>,
    /// The key of that certificate (PEM, PKCS#8); it is copied into the state directory.
    #[arg(long, requires = "issuer_certificate", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) issuer_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: GatewayState,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    #[command(flatten)]
    pub(crate) token: TokenSource,
    /// Accept if the root has this fingerprint, without asking.
    #[arg(long, value_name = "sha256:HEX", conflicts_with_all = ["words", "yes"])]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Accept if the root has these twelve words, without asking.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) words: Option<String>,
    /// Accept whatever the token says, without comparing anything.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) state: GatewayState,
}

/// A gateway or host of the own domain by its name, or any identity.
#[derive(Debug, Clone)]
pub(crate) enum NameOrNode {
    Name(NodeName),
    Node(NodeId),
}

impl std::str::FromStr for NameOrNode {
    type Err = hawser_proto::NameError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.contains("://") {
            s.parse().map(Self::Node)
        } else {
            s.parse().map(Self::Name)
        }
    }
}
