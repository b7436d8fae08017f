//! Sealing one message's addresses: all for the same domain, with the same end.

use std::{net::IpAddr, sync::Arc};

use hawser_callback::{Address, CapabilityError, Grant, Secrets};
use hawser_proto::{DomainName, ServiceId, UnixTime};

use super::{Callbacks, path};

/// What the addresses of one message are sealed with.
pub(super) struct Seal {
    pub(super) secrets: Arc<Secrets>,
    /// Where they lead.
    pub(super) own: DomainName,
    /// Who may use them.
    pub(super) peer: DomainName,
    /// On whose behalf they are named.
    pub(super) service: ServiceId,
    pub(super) expires: UnixTime,
}

impl Callbacks {
    /// For a message that is exchanged with `peer` on behalf of `service`.
    pub(super) fn seal(&self, peer: DomainName, service: ServiceId) -> Seal {
        Seal {
            secrets: self.0.secrets.load_full(),
            own: self.0.own.domain.clone(),
            peer,
            service,
            expires: UnixTime::now().plus(self.0.plan.load().expire),
        }
    }
}

impl Seal {
    /// What stands for `address`, whose host is at `pin` or is looked up when it is called, where calls back are taken at `base`.
    pub(super) fn address(
        &self,
        base: &str,
        address: Address,
        pin: Option<IpAddr>,
    ) -> Result<String, CapabilityError> {
        let grant = Grant::new(
            address,
            Some(self.service.clone()),
            self.peer.clone(),
            self.expires.0,
        )?;
        let capability = self.secrets.seal(&Grant { pin, ..grant })?;
        Ok(path::address(base, &self.own, &capability))
    }
}
