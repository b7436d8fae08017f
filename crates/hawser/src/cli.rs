//! The command line: what there is to type, and the help for it. What each command does is in [`crate::command`].
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "comments here are help on a terminal, where [hub] is a table's name"
)]

pub(crate) mod calls;
pub(crate) mod device;
pub(crate) mod domain;
pub(crate) mod hub;
pub(crate) mod login;
pub(crate) mod machines;
pub(crate) mod people;
pub(crate) mod queue;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};
use hawser_identity::HubAddress;
use hawser_proto::{DomainName, NodeName};

use self::{
    domain::DomainCommand,
    hub::{HubCommand, HubState},
    machines::{ProtectCommand, VmCommand},
};

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
With [hub] and [gateway] in one file, the gateway and its domain join the hub beside it by themselves, without a token.

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
  hawser inspect --json | jq '.[] | select(.status >= 500)'
  hawser inspect show 3fa1b2c4
  hawser inspect replay 3fa1b2c4
  hawser inspect har --service orders --last 20 -o orders.har")]
    Inspect(calls::InspectArgs),
    /// Shows messages that wait to be delivered or were given up, replays and discards them.
    #[command(
        subcommand,
        after_help = "\
These ask the gateway that runs on this machine.

Examples:
  hawser queue list --state dead
  hawser queue show 5b1f
  hawser queue replay --all --queue orders"
    )]
    Queue(queue::QueueCommand),
    /// Tries rules for calls back, and changes the secret that seals their addresses.
    #[command(subcommand)]
    Callbacks(calls::CallbacksCommand),
    /// Adds, lists and removes the users who may log in by password at published names.
    #[command(
        subcommand,
        after_help = "\
The password is asked for on the terminal, or comes by standard input or --password-file, never by the command line. A running
gateway takes changes up within a second.

Examples:
  hawser login set ada
  hawser login set ada < password
  hawser login list
  hawser login remove ada"
    )]
    Login(login::LoginCommand),
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
  hawser enrol alice --life 1m
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

#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct Output {
    /// Print JSON, for machines.
    #[arg(long)]
    pub(crate) json: bool,
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

    #[test]
    fn handles_may_begin_with_a_hyphen() {
        for handle in ["-ZRXqX9hW5oNXwufgXM3WQ", "--RXqX9hW5oNXwufgXM3WQ"] {
            for command in ["revoke", "fetch"] {
                let line = ["hawser", "device", command, handle];
                super::Cli::command().try_get_matches_from(line).unwrap();
            }
        }
        let help = super::Cli::command().try_get_matches_from(["hawser", "device", "revoke", "-h"]);
        assert_eq!(help.unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
    }
}
