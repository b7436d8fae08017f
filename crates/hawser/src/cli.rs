//! The command line: what there is to type, and the help for it. What each command does is in [`crate::command`].
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "comments here are help on a terminal, where [hub] is a table's name"
)]

pub(crate) mod calls;
pub(crate) mod device;
pub(crate) mod people;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};
use hawser_identity::{Fingerprint, HubAddress};
use hawser_proto::{DomainName, NodeId, NodeName, arbiter::VmId};

/// Where the configuration is when nobody says otherwise.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/hawser/hawser.toml";

/// Environment variable that a token may come by.
pub(crate) const TOKEN_VARIABLE: &str = "HAWSER_TOKEN";

/// Services in firewalled domains call each other, both ways, through a hub that cannot read what they say.
///
/// Every connection is dialled outwards: no firewall needs an inbound hole. A gateway in each domain does what the
/// configuration's [gateway] table says, a hub in the public network what its [hub] table says. One file may hold both.
#[derive(Debug, Parser)]
#[command(
    name = "hawser",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
First steps:
  hawser token hub acme | ...       on the hub: let the domain acme in
  hawser domain init acme gw1       on the first gateway of acme: make its root and its first identity
  hawser join < token               on that gateway: show the hub its token
  hawser domain peer token          exchange peering tokens with the other domain's administrator
  hawser run                        run what the configuration says
  hawser doctor                     and what to do if it does not work

Exit codes:
  0  done
  1  it failed; the line on standard error says why and what to do
  2  the command line is wrong
  3  the configuration is wrong
  4  nothing that runs answers"
)]
pub(crate) struct Cli {
    /// The configuration file.
    #[arg(
        short,
        long,
        global = true,
        env = "HAWSER_CONFIG",
        default_value = DEFAULT_CONFIG,
        value_name = "FILE",
        value_hint = ValueHint::FilePath
    )]
    pub(crate) config: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs what the configuration says: a hub, a gateway, or both in one process.
    #[command(after_help = "\
Signals:
  HUP        read the configuration again; a bad file changes nothing, and the log says why
  TERM, INT  drain: take no new calls, let those under way end; a second one stops at once

Examples:
  hawser run
  hawser run -c ./acme.toml
  HAWSER_LOG=hawser_gateway=debug hawser run")]
    Run,
    /// Runs the hub, or changes whom it lets in.
    #[command(after_help = "\
Without a command, runs the [hub] table of the configuration and nothing else of it.

Examples:
  hawser hub
  hawser hub admitted
  hawser hub revoke spiffe://acme/gateway/gw2
  hawser hub revoke acme")]
    Hub {
        #[command(subcommand)]
        command: Option<HubCommand>,
    },
    /// Runs the [gateway] table of the configuration and nothing else of it.
    Gateway,
    /// Runs the [host] table of the configuration and nothing else of it: the agent of a hypervisor host.
    #[command(after_help = "\
The agent needs root, or these capabilities: SYS_PTRACE (machines of other users), SYS_ADMIN (their memory), NET_ADMIN (taps),
SYS_NICE (heartbeats in time).

Signals:
  TERM, INT  end the protection of every machine that runs here, which runs on; a second one stops at once, and leaves
             protected machines mute until an agent runs here again

Examples:
  hawser host
  hawser host -c ./host-a.toml")]
    Host,
    /// Keeps a running machine alive on another host, and shows how that goes.
    #[command(
        subcommand,
        after_help = "\
These talk to the agent on this machine (`hawser host`).

Examples:
  hawser protect start vm1 --to host-b
  hawser protect status --watch
  hawser protect stop vm1"
    )]
    Protect(ProtectCommand),
    /// Makes and shows this gateway's domain, its peers, and revokes its identities.
    #[command(
        subcommand,
        after_help = "\
Two domains that are to talk exchange peering tokens, each over a channel that its administrator trusts:
  at acme:  hawser domain peer token > acme.peering       and send it to beta
  at beta:  hawser domain peer accept < acme.peering      and compare the twelve words by telephone"
    )]
    Domain(DomainCommand),
    /// Makes a one-time token that lets a domain, a gateway or a host in.
    #[command(
        subcommand,
        after_help = "\
The token is the only thing on standard output; what it is for is said on standard error.

Examples:
  hawser token hub acme --life 1h > acme.token
  hawser token gateway > gw2.token
  hawser token host > h1.token"
    )]
    Token(TokenCommand),
    /// Shows a token to its hub: a domain is admitted, or a further gateway or host gets its identity.
    #[command(after_help = "\
The token comes by standard input, by --token-file or by the environment (HAWSER_TOKEN), never by the command line, where
other users of the machine could read it.

With a token of `hawser token hub`, the domain that `hawser domain init` made here is admitted by that hub.
With a token of `hawser token gateway`, this machine becomes a further gateway of the domain: its key is made here and
stays here; the certificate is signed by a gateway of the domain, through the hub, which learns nothing from it.
With a token of `hawser token host`, this machine becomes a hypervisor host of the domain in the same way, in the state
directory of the [host] table.

Examples:
  hawser join < acme.token
  hawser join gw2 --token-file gw2.token
  hawser join h1 --token-file h1.token
  hawser join --proxy squid.acme.example:3128 --proxy-user gw1 --proxy-password-file password < acme.token")]
    Join(JoinArgs),
    /// Lists the services that may be called from here, and those exported.
    #[command(after_help = "\
Examples:
  hawser services
  hawser services beta            only those whose name contains \"beta\"
  hawser services show orders.beta
  hawser services describe orders.beta > orders.wsdl")]
    Services(calls::ServicesArgs),
    /// Shows the last exchanges of each service, and which messages belong together.
    #[command(after_help = "\
Examples:
  hawser inspect
  hawser inspect orders --last 5
  hawser inspect --json | jq '.[] | select(.status >= 500)'")]
    Inspect(calls::InspectArgs),
    /// Tries rules for calls back, and changes the secret that seals their addresses.
    #[command(subcommand)]
    Callbacks(calls::CallbacksCommand),
    /// Shows what runs on this machine: connections, sessions, certificates.
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// Reads the configuration and prints what would run, without running it.
    #[command(after_help = "\
Every error is printed with file and line. Exit code 3 says that the configuration is wrong.

Examples:
  hawser check
  hawser check -c ./acme.toml && systemctl reload hawser")]
    Check {
        #[command(flatten)]
        output: Output,
    },
    /// Looks for what keeps the tunnel from working, row by row, and says what to do.
    #[command(after_help = "\
Exit code 1 when a row fails; warnings alone leave it 0.")]
    Doctor {
        #[command(flatten)]
        output: Output,
        /// How long each look may take.
        #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// Runs virtual machines that can be protected.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Adds, lists and removes the users to whose devices events go.
    #[command(
        subcommand,
        after_help = "\
Examples:
  hawser user add alice bob@acme.example
  hawser enrol alice              a link by which alice makes a device hers
  hawser user list"
    )]
    User(people::UserCommand),
    /// Adds, lists and removes groups of users.
    #[command(
        subcommand,
        after_help = "\
Examples:
  hawser group add on-call
  hawser group join on-call alice bob@acme.example"
    )]
    Group(people::GroupCommand),
    /// Adds, lists and removes the applications that may publish events.
    #[command(
        subcommand,
        after_help = "\
Examples:
  hawser application add mail > mail.token
  curl -H \"Authorization: Bearer $(cat mail.token)\" -H 'Content-Type: text/plain' -H 'ce-specversion: 1.0' -H 'ce-id: 1' \\
    -H 'ce-source: /mail' -H 'ce-type: message' -H 'ce-recipient: user:alice' -d 'Hello' http://127.0.0.1:8500/v1/events"
    )]
    Application(people::ApplicationCommand),
    /// Makes a link by which one device becomes a user's.
    #[command(after_help = "\
The link is the only thing on standard output; on a terminal a code for a camera is drawn on standard error.

Examples:
  hawser enrol alice
  hawser enrol alice | ssh laptop hawser device enrol")]
    Enrol(people::EnrolArgs),
    /// Lists and revokes devices, on a gateway; and is one, anywhere.
    #[command(
        subcommand,
        after_help = "\
Examples, on a gateway:
  hawser device list
  hawser device revoke 0dHR0dHR0dHR0dHR0dHR0Q

Examples, on the device:
  hawser device enrol < link
  hawser device listen"
    )]
    Device(people::DeviceCommand),
    /// Shows who changed users, groups, applications and devices, and checks that nobody changed the log itself.
    #[command(after_help = "\
Examples:
  hawser audit --last 20
  hawser audit --since 17:4f1c... > /dev/null     fails if what was there has been rewritten")]
    Audit(people::AuditArgs),
    /// Prints a completion script for a shell.
    #[command(after_help = "\
Examples:
  hawser completions bash > /etc/bash_completion.d/hawser
  hawser completions zsh > /usr/local/share/zsh/site-functions/_hawser")]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes one for each command into a directory.
    #[command(after_help = "\
Examples:
  hawser man | man -l -
  hawser man /usr/local/share/man/man1")]
    Man {
        /// Where to write hawser.1, hawser-run.1 and the others.
        #[arg(value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
    /// Prints a page of the reference documentation, in Markdown.
    #[command(hide = true)]
    Reference {
        /// Which page.
        page: ReferencePage,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ReferencePage {
    /// Commands and options.
    Cli,
    /// Keys of the configuration file.
    Config,
}

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

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// On a hub: a token that lets one domain be admitted, once.
    Hub {
        /// The domain.
        domain: DomainName,
        /// How long the token is good for.
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        life: Duration,
        /// Where gateways reach the hub, if not at the configuration's hub.public.
        #[arg(long, value_name = "HOST:PORT")]
        public: Option<HubAddress>,
        #[command(flatten)]
        state: HubState,
    },
    /// On a gateway that is an issuer: a token that lets one further gateway join the domain, once.
    Gateway {
        /// How long the token is good for.
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        life: Duration,
        #[command(flatten)]
        state: GatewayState,
    },
    /// On a gateway that is an issuer: a token that lets one hypervisor host join the domain, once.
    #[command(after_help = "\
A host keeps machines alive on other hosts of its domain, and asks the hub's register who may run them. It exports and calls
nothing: its certificate opens no service.

Example:
  hawser token host > h1.token")]
    Host {
        /// How long the token is good for.
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        life: Duration,
        #[command(flatten)]
        state: GatewayState,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProtectCommand {
    /// Protects a machine that runs here: shows what would be done, asks, and waits until it is protected.
    #[command(after_help = "\
The machine is found by its QMP socket: --qmp, else that of a machine that was taken over or protected here before, else that of
`hawser vm run`, else NAME.qmp in host.run. It runs on all the time. Whatever makes it unfit is said before anything is changed.

Examples:
  hawser protect start vm1 --to host-b
  hawser protect start vm1 --to host-b --qmp /run/vm1.qmp --yes
  hawser protect start vm1 --to host-b --plan --json")]
    Start(StartArgs),
    /// Shows this host's machines: roles, progress, epochs, pauses, what is held.
    Status(StatusArgs),
    /// Ends a machine's protection on the host where it runs; it runs on.
    Stop {
        /// The machine's name or UUID.
        machine: String,
        #[command(flatten)]
        state: HostState,
    },
    /// Forces a fail-over, on either host: the machine ends where it runs and goes on at the standby.
    Fail {
        /// The machine's name or UUID.
        machine: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        state: HostState,
    },
    /// Settles what an agent that died left behind, by what the register says; a starting agent does so by itself.
    Recover {
        #[command(flatten)]
        state: HostState,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The machine's name, as shown from then on.
    pub(crate) machine: String,
    /// The host that stands by, by its name in the domain.
    #[arg(long, value_name = "HOST")]
    pub(crate) to: NodeName,
    /// Where that host listens, as HOST:PORT; else as in host.peers, else by its name.
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// The machine's QMP socket.
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(crate) qmp: Option<PathBuf>,
    /// Only show what would be done.
    #[arg(long)]
    pub(crate) plan: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Return at once; `hawser protect status` tells how it goes.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON, for machines.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) state: HostState,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this machine, by name or UUID.
    pub(crate) machine: Option<String>,
    /// Draw it again and again, until Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) state: HostState,
}

#[derive(Debug, Args)]
pub(crate) struct HostState {
    /// The host's state directory, if not the one in the configuration.
    #[arg(long = "state", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Starts a machine from a small description, under the QEMU that is installed.
    #[command(after_help = "\
Whatever the description says, the machine has a versioned machine type, memory that can be mapped, taps without vhost, and a
QMP socket: it can be protected later, while it runs.

A description:
  name = \"vm1\"
  memory = \"2G\"
  cpus = 2                    # 1 unless given
  [[disk]]
  file = \"/srv/vm1.raw\"     # format = \"qcow2\", aio = \"io_uring\" or \"threads\", read_only = true
  [[nic]]
  kind = \"tap\"              # or \"user\", with forward = [\"tcp:127.0.0.1:2222-:22\"]
  ifname = \"tap-vm1\"
  bridge = \"br0\"

Also: uuid, machine (pc-q35-7.2), accel (auto, kvm, tcg), cpu, kernel, initrd, append, serial (stdio, file:PATH, unix:PATH,
none), qmp, directory (/run/hawser/vm/NAME), qemu, arguments.

Signals:
  TERM, INT, HUP   press the machine's power button; a second one kills it

Examples:
  hawser vm run vm1.toml
  hawser vm run vm1.toml --print
  hawser vm run vm1.toml --daemonize")]
    Run(VmRunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VmRunArgs {
    /// The machine's description (TOML).
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Print QEMU's command line, and start nothing.
    #[arg(long)]
    pub(crate) print: bool,
    /// Return when the machine runs, and leave it running.
    #[arg(long, conflicts_with = "print")]
    pub(crate) daemonize: bool,
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

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// With a gateway or host token: this one's name within the domain (the machine's host name unless given).
    pub(crate) name: Option<NodeName>,
    #[command(flatten)]
    pub(crate) token: TokenSource,
    /// Go out through this HTTP proxy, whatever the configuration says.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) proxy: Option<HubAddress>,
    /// User name for that proxy.
    #[arg(long, requires_all = ["proxy", "proxy_password_file"], value_name = "NAME")]
    pub(crate) proxy_user: Option<String>,
    /// File with the password for that proxy.
    #[arg(long, requires = "proxy_user", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) proxy_password_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: JoinState,
}

/// Where a token comes from: `--token-file`, else the environment, else standard input.
#[derive(Debug, Args)]
pub(crate) struct TokenSource {
    /// File with the token; `-` is standard input.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GatewayState {
    /// The gateway's state directory, if not the one in the configuration.
    #[arg(long = "state", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct JoinState {
    /// The state directory of what joins, if not the one in the configuration.
    #[arg(long = "state", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HubState {
    /// The hub's state directory, if not the one in the configuration.
    #[arg(long = "state", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct Output {
    /// Print JSON, for machines.
    #[arg(long)]
    pub(crate) json: bool,
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

fn duration(s: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(s)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
