//! The mailbox's name: by which certificates TLS with its devices is done, and when these are read again.

use std::sync::Arc;

use hawser_identity::{Given, HubIdentity, IdentityError, tls};
use hawser_proto::HostName;
use hawser_session::hop::Site;
use rustls::ServerConfig;

use crate::mailbox::MailboxPlan;

/// How clients outside reach the mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    name: HostName,
    pinned: Arc<ServerConfig>,
    given: Option<(Arc<Given>, Arc<ServerConfig>)>,
}

impl Front {
    /// Reads the certificate. The one in use from the same files stays.
    pub(crate) fn new(
        plan: &MailboxPlan,
        identity: &HubIdentity,
        before: Option<&Self>,
    ) -> Result<Self, IdentityError> {
        let given = match &plan.certificate {
            None => None,
            Some((certificate, key)) => {
                let same = before
                    .filter(|b| b.name == plan.name)
                    .and_then(|b| b.given.clone())
                    .filter(|(given, _)| given.is_of(certificate, key));
                match same {
                    Some(same) => Some(same),
                    None => {
                        let given = Given::load(&plan.name, certificate, key)?;
                        let config = tls::public_server(given.clone())?;
                        Some((given, config))
                    }
                }
            }
        };
        Ok(Self {
            name: plan.name.clone(),
            pinned: tls::hub_device(identity)?,
            given,
        })
    }

    /// What stands behind a name, if it is the mailbox's.
    pub(crate) fn site(&self, name: &HostName) -> Option<Site> {
        (*name == self.name).then(|| Site::Mailbox {
            given: self.given.as_ref().map(|(_, config)| config.clone()),
            pinned: self.pinned.clone(),
        })
    }

    /// Reads the certificate again if its files have changed. Blocks for a moment.
    pub(crate) fn refresh(&self) -> Result<bool, IdentityError> {
        self.given
            .as_ref()
            .map_or(Ok(false), |(given, _)| given.refresh())
    }
}
