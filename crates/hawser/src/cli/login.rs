//! The command line of who may log in at published names.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use super::{GatewayState, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum LoginCommand {
    /// Adds a user, or gives one a new password, which is asked for on the terminal or read from standard input.
    Set {
        /// The name: letters, digits and any of . _ + - @
        #[arg(value_name = "USER")]
        name: String,
        /// File with the password, and nothing else (a line end is ignored); `-` is standard input.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        state: GatewayState,
    },
    /// Lists the users, and when each got the password.
    List {
        #[command(flatten)]
        state: GatewayState,
        #[command(flatten)]
        output: Output,
    },
    /// Removes a user.
    Remove {
        /// Who.
        #[arg(value_name = "USER")]
        name: String,
        #[command(flatten)]
        state: GatewayState,
    },
}
