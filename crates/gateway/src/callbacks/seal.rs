//! Sealing one message's addresses: all for the same domain, with the same end.

use std::{net::IpAddr, sync::Arc};

use hawser_callback::{Address, Grant, Secrets};
use hawser_proto::{DomainName, ServiceId, UnixTime};

use super::{Callbacks, path, replica::RecordId, shared::Shared, short::Token};

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
    /// Longest address that the service takes.
    pub(super) longest: Option<usize>,
    /// Where short addresses are kept; `None`: nowhere, they are for show.
    pub(super) shared: Option<Shared>,
}

impl Callbacks {
    /// For a message that is exchanged with `peer` on behalf of `service`, which takes addresses of at most `longest` bytes.
    pub(super) fn seal(&self, peer: DomainName, service: ServiceId, longest: Option<usize>) -> Seal {
        Seal {
            secrets: self.0.secrets.load_full(),
            own: self.0.own.domain.clone(),
            peer,
            service,
            expires: UnixTime::now().plus(self.0.plan.load().expire),
            longest,
            shared: self.0.shared.clone(),
        }
    }
}

impl Seal {
    /// What stands for `address`, whose host is at `pin` or is looked up when it is called, where calls back are taken at `base`;
    /// and the id of its grant.
    pub(super) fn address(
        &self,
        base: &str,
        address: Address,
        pin: Option<IpAddr>,
    ) -> Result<(String, RecordId), String> {
        let grant = Grant::new(
            address,
            Some(self.service.clone()),
            self.peer.clone(),
            self.expires.0,
        )
        .map_err(|e| e.to_string())?;
        let grant = Grant { pin, ..grant };
        let capability = self.secrets.seal(&grant).map_err(|e| e.to_string())?;
        let whole = path::address(base, &self.own, &capability);
        let Some(longest) = self.longest.filter(|l| whole.len() > *l) else {
            return Ok((whole, grant.id));
        };
        let kept = match &self.shared {
            Some(shared) => shared.shorten(grant.id, capability, self.expires),
            None => Ok(Token(grant.id)),
        };
        let token = kept.map_err(|e| e.to_string())?;
        let short = path::address(base, &self.own, &token.to_string());
        if short.len() > longest {
            return Err(format!(
                "an address for calls back to {} has {} bytes at least, and the rule for {} allows {longest}: give its gateway a shorter `base`",
                self.own,
                short.len(),
                self.service
            ));
        }
        Ok((short, grant.id))
    }
}
