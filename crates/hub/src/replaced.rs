//! That a newer control connection of the same node has taken a connection's place.
//!
//! A node that renews its certificate makes its next connection before it breaks the last one, and questions are under way
//! on the last one meanwhile: an answer lost there leaves a host in doubt whether a change in the register was made. So a
//! replaced connection goes on for a while. At most one outlives the newest: a node that connects without end holds two.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::lives::{Cut, Life};

/// Whether a connection was replaced, and which one it replaced itself. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replaced(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    before: OnceLock<Life>,
}

impl Replaced {
    /// The connection has replaced the one of this life.
    pub(crate) fn follows(&self, before: Life) {
        let _ = self.0.before.set(before);
    }

    /// The connection is replaced now; the one that it replaced itself ends.
    pub(crate) fn now(&self) {
        self.0.token.cancel();
        if let Some(before) = self.0.before.get() {
            before.cut(Cut::Replaced);
        }
    }

    /// Cancelled when the connection is replaced.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.0.token
    }
}
