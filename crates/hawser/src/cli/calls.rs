//! What there is to type about calls: those under way and done, and calls back.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use hawser_proto::ServiceId;

use super::{GatewayState, Output};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServicesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ServicesCommand>,
    /// Only services whose name or description contains this.
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServicesCommand {
    /// Shows what a service's registered description says: addresses, operations, calls back.
    Show {
        /// The service.
        #[arg(value_name = "NAME.DOMAIN")]
        service: ServiceId,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a service's registered description, WSDL or OpenAPI, with addresses that work here.
    Describe {
        /// The service.
        #[arg(value_name = "NAME.DOMAIN")]
        service: ServiceId,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    pub(crate) command: Option<InspectCommand>,
    /// Only exchanges of services whose name contains this.
    pub(crate) service: Option<String>,
    /// Only the last so many.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub(crate) last: usize,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// Shows a recorded exchange: request and answer, with their bodies, secrets masked.
    Show {
        /// The exchange: its REQUEST in the list, or more of its id.
        request: String,
        #[command(flatten)]
        output: Output,
    },
    /// Sends a recorded request to its origin again, as it was, through its export and the policy of that.
    Replay {
        /// The exchange: its REQUEST in the list, or more of its id.
        request: String,
        /// Do not ask, even if the method may change something each time that it is used.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Writes recorded exchanges as an HTTP Archive (HAR 1.2), for browsers' tools and others, secrets masked.
    Har {
        /// Only exchanges of services whose name contains this.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only the last so many.
        #[arg(long, value_name = "COUNT", default_value_t = 50)]
        last: usize,
        /// Where to. Default: standard output.
        #[arg(short = 'o', long = "output", value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CallbacksCommand {
    /// Shows what becomes of a recorded request or answer on its way to another domain, without sending anything.
    #[command(after_help = "\
FILE holds an HTTP/1.1 message as it is sent: request line or status line, headers, an empty line, body; \"-\" is standard input.
The rules are those of the configuration for the service that --service or the Host header names. What is shown in the place of
an address stands for one that is sealed when the message is really sent.

Examples:
  hawser callbacks test subscribe.http
  curl -s --trace-ascii - ... | hawser callbacks test --service orders.beta --client 10.0.0.7 -")]
    Test {
        /// The message.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The service it is for. Default: the one that its Host header names.
        #[arg(long, value_name = "NAME.DOMAIN")]
        service: Option<ServiceId>,
        /// The client that sends it, whose own address may be called back. Default: none, so that only listed targets may.
        #[arg(long, value_name = "IP")]
        client: Option<std::net::IpAddr>,
        /// Print the whole message as it would leave, and nothing else.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Ends an address for calls back before its time: services that call it are refused from then on.
    #[command(after_help = "\
ADDRESS is one that was sealed here, as it stood in a message or in the other domain's logs, whole. It ends at all gateways of the
domain as soon as this one runs.

Example:
  hawser callbacks end http://10.2.0.2:3128/.hawser/cb/acme/15789d6d.YofRukKpzvJ3bmPfQN...")]
    End {
        /// The address.
        address: String,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Makes a fresh secret under which addresses for calls back are sealed.
    #[command(after_help = "\
Needed when the old one may be known to somebody. Run it on a gateway that issues the domain's certificates: the others, other
issuers among them, get the secret from it within seconds or with their next certificate, and it seals after a day. What older
ones sealed is good until it expires.")]
    Rotate {
        #[command(flatten)]
        state: GatewayState,
    },
}
