//! The command line of the broker's administration: who there is, and with which devices.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueHint};
use hawser_proto::broker::{DeviceHandle, UserName};

use super::{GatewayState, Output};

/// Whoever has a link first is the user: it is not to lie about.
const MAX_LINK_LIFE: Duration = Duration::from_secs(3600);

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Adds users.
    Add {
        /// Their names: account names or mail addresses, in lower case.
        #[arg(required = true, value_name = "USER")]
        names: Vec<UserName>,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Lists the users, with their groups and how many devices they have.
    List {
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Removes a user, and revokes all of the user's devices.
    Remove {
        /// Who.
        #[arg(value_name = "USER")]
        name: UserName,
        #[command(flatten)]
        state: GatewayState,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Adds a group.
    Add {
        /// Its name.
        #[arg(value_name = "GROUP")]
        name: UserName,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Lists the groups and who is in them.
    List {
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Removes a group. Its members stay.
    Remove {
        /// Which one.
        #[arg(value_name = "GROUP")]
        name: UserName,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Puts users into a group.
    Join {
        /// Which group.
        group: UserName,
        /// Who.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserName>,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Takes users out of a group.
    Leave {
        /// Which group.
        group: UserName,
        /// Who.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserName>,
        #[command(flatten)]
        state: GatewayState,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApplicationCommand {
    /// Lets an application publish events. Its token goes to standard output, and is shown this once.
    Add {
        /// Its name.
        #[arg(value_name = "APPLICATION")]
        name: UserName,
        /// Its client certificate (PEM), which proves it instead of the token where [gateway.broker.tls] is set.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        certificate: Option<PathBuf>,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Lists the applications.
    List {
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Removes an application: it cannot publish any more. What it published goes its way.
    Remove {
        /// Which one.
        #[arg(value_name = "APPLICATION")]
        name: UserName,
        #[command(flatten)]
        state: GatewayState,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// Whose device it will be.
    pub(crate) user: UserName,
    /// How long the link is good for: an hour at most.
    #[arg(long, default_value = "10m", value_parser = link_life, value_name = "TIME")]
    pub(crate) life: Duration,
    /// Draw no code for a camera, even on a terminal.
    #[arg(long)]
    pub(crate) no_qr: bool,
    #[command(flatten)]
    pub(crate) state: GatewayState,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Lists the devices of this gateway's domain, with their users and last contact.
    List {
        /// Only those of this user.
        #[arg(long)]
        user: Option<UserName>,
        /// Those that were revoked, too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Revokes a device: its queue and its keys go, its connections are cut within a second.
    #[command(after_help = "\
What was opened on the device before cannot be taken back. What waits for it is sealed anew for the user's other devices.")]
    Revoke {
        /// Its handle, as in `hawser device list`.
        #[arg(allow_hyphen_values = true)]
        device: DeviceHandle,
        #[command(flatten)]
        state: GatewayState,
    },
    /// What there is on the device itself.
    #[command(flatten)]
    Own(super::device::OwnCommand),
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only the last so many entries.
    #[arg(long, value_name = "COUNT")]
    pub(crate) last: Option<usize>,
    /// Fail unless the log still contains this head, as printed by an earlier call: NUMBER:HASH.
    #[arg(long, value_name = "HEAD")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) state: GatewayState,
    #[command(flatten)]
    pub(crate) output: Output,
}

fn link_life(text: &str) -> Result<Duration, String> {
    let life = super::duration(text).map_err(|e| e.to_string())?;
    match (Duration::from_secs(1)..=MAX_LINK_LIFE).contains(&life) {
        true => Ok(life),
        false => Err("expected a time between 1s and 1h".into()),
    }
}
