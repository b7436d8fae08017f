//! A disk's mirror to an NBD server of ours.

use std::time::Duration;

use serde_json::json;

use super::{error::GuestError, qemu::Qemu};

impl Qemu {
    /// Cuts the connections of all mirrors, past QEMU's main loop. Their jobs end with an error, and the guest goes on.
    pub fn yank_mirrors(&mut self, within: Duration) -> Result<(), GuestError> {
        if self.mirrors.is_empty() {
            return Ok(());
        }
        let instances: Vec<_> = self
            .mirrors
            .iter()
            .map(|(_, node)| json!({ "type": "block-node", "node-name": node }))
            .collect();
        self.qmp
            .out_of_band("yank", json!({ "instances": instances }), within)
            .map(drop)
    }
}
