//! What goes wrong between us and a QEMU process. Says who is at fault and what helps.

use std::{io, path::PathBuf, time::Duration};

/// A command, an answer or a fact about the guest that did not come as it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The socket is not there, or nobody listens on it.
    #[error(
        "cannot connect to the QMP socket {path}: {source}; is the VM running, with `-qmp unix:{path},server,nowait`?"
    )]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// QEMU serves one client per QMP socket, and another one is there already. Waiting for it to leave helps.
    #[error(
        "another program is connected to the QMP socket {path}, and QEMU serves one at a time: give Hawser a socket of its own (one more `-qmp` option), or end the other client"
    )]
    Occupied {
        /// The socket's path.
        path: PathBuf,
    },
    /// No answer in time. A guest whose QMP hangs counts as failed.
    #[error("QEMU did not answer `{what}` within {within:?}: its main loop hangs, or the process is stopped")]
    Hung {
        /// The command, or what else was waited for.
        what: String,
        /// How long it had.
        within: Duration,
    },
    /// The connection ended: QEMU exited or was killed.
    #[error("QEMU closed its QMP connection before answering `{what}`: the process is gone")]
    Gone {
        /// What was asked.
        what: String,
    },
    /// QEMU understood the command and refused it.
    #[error("QEMU refused `{command}`: {description} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class, mostly `GenericError`.
        class: String,
        /// QEMU's own words.
        description: String,
    },
    /// The other end does not speak QMP as documented. A repetition does not help.
    #[error("unexpected QMP from {what}: {got}")]
    Protocol {
        /// Where it was noticed.
        what: String,
        /// The first part of what came instead.
        got: String,
    },
    /// A system call of ours failed.
    #[error("{doing} failed: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// This VM cannot be protected as it is.
    #[error("{what}; {advice}")]
    Unfit {
        /// What stands in the way.
        what: String,
        /// What its owner can do.
        advice: String,
    },
    /// Somebody else continued the VM while it was suspended for a checkpoint. It runs; that checkpoint is void, the next may be good.
    #[error(
        "another QMP client continued the VM while it was suspended for a checkpoint: this checkpoint is void"
    )]
    Disturbed,
    /// A state did not load. The VM it came from is unaffected.
    #[error(
        "the device state did not load in this QEMU: {reason}; both sides need the same version, machine type and devices"
    )]
    NotLoaded {
        /// QEMU's reason, as far as it gave one.
        reason: String,
    },
}

impl GuestError {
    /// The process has died, or must be treated as if it had.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Hung { .. } | Self::Gone { .. } | Self::Protocol { .. }
        )
    }

    pub(super) fn system(doing: &str, source: impl Into<io::Error>) -> Self {
        Self::System {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub(super) fn protocol(what: &str, got: impl std::fmt::Display) -> Self {
        Self::Protocol {
            what: what.into(),
            got: got.to_string().chars().take(SHOWN).collect(),
        }
    }
}

/// Characters of an unexpected answer that an error shows.
const SHOWN: usize = 300;
