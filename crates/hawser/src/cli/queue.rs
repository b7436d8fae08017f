//! What there is to type about messages that wait to be delivered.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Lists messages: those that wait, and those that were given up.
    List {
        /// Only those of one queue: an exported service's name, or hawser-callbacks.
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
        /// Only those in one state.
        #[arg(long, value_name = "STATE")]
        state: Option<QueueState>,
        /// Only the last so many.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        last: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Shows one message: where it goes, what became of it, its headers and its body.
    #[command(after_help = "\
Headers that authenticate the sender are masked. A message that was delivered has no content any more.")]
    Show {
        /// Its id, or enough of the beginning to tell it from others.
        id: String,
        /// Write the body, and nothing else, to this file; \"-\" is standard output.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "json")]
        body: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Has messages that were given up delivered after all, each in its old place.
    Replay(Chosen),
    /// Throws messages away.
    #[command(after_help = "\
Named ones go whether they wait or were given up; --all takes those that were given up.")]
    Discard(Chosen),
}

/// Which messages.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Their ids, or enough of the beginnings to tell them from others.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// All that were given up.
    #[arg(long)]
    pub(crate) all: bool,
    /// With --all: only those of one queue.
    #[arg(long, value_name = "NAME", requires = "all")]
    pub(crate) queue: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QueueState {
    /// It will be tried (again).
    Waiting,
    /// Its target took it, within the last day.
    Delivered,
    /// It was given up: refused, or over its time.
    Dead,
}

impl QueueState {
    /// As it is asked for.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            QueueState::Waiting => "waiting",
            QueueState::Delivered => "delivered",
            QueueState::Dead => "dead",
        }
    }
}
