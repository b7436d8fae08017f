//! An operator ends an address for calls back before its time: written down by the command, carried out by the running gateway.

use std::path::Path;

use hawser_callback::CapabilityError;
use hawser_identity::{Credentials, IdentityError};
use hawser_proto::UnixTime;
use hawser_store::{Bucket, Store, StoreError};
use tracing::info;

use super::{
    keys::Keys,
    path,
    replica::{Fact, Record},
    shared::{self, Shared},
    short::Token,
    subscriptions::ended,
};

/// The bucket, by a grant's id in hex.
const BUCKET: &str = "callback-ends";

/// Why an address was not ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// It does not look like one.
    #[error(
        "this is no address for calls back to the domain {0}: expected http://HOST:PORT/.hawser/cb/{0}/..., as a message or the other domain's log showed it, whole"
    )]
    NoAddress(String),
    /// It is short, and not known.
    #[error("the short address is not known here: it has expired, or was made in another domain")]
    Unknown,
    /// It cannot be opened.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The gateway's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ends `address`, which was sealed for the domain of the gateway with the state directory `dir`: at all of the domain's gateways, as
/// soon as this one runs. Returns the address that it stood for.
pub async fn end(dir: &Path, address: &str) -> Result<String, EndError> {
    let own = Credentials::load(dir)?;
    let domain = &own.id().domain;
    let no_address = || EndError::NoAddress(domain.to_string());
    let start = address.find(path::PREFIX).ok_or_else(no_address)?;
    let path = address[start..].split(['?', '#']).next().unwrap_or_default();
    let (sealed, _) = path::capability(path, domain).ok_or_else(no_address)?;
    let store = Store::open(dir)?;
    let sealed = match Token::parse(sealed) {
        None => sealed.to_owned(),
        Some(token) => match shared::records(dir)?.get(&shared::key(&token.record())).await? {
            Some((
                Record {
                    fact: Fact::Short { capability },
                    forget,
                    ..
                },
                _,
            )) if forget > UnixTime::now() => capability,
            _ => return Err(EndError::Unknown),
        },
    };
    let grant = Keys::new(&store).load().await?.read(&sealed)?;
    let orders = Orders::new(&store);
    orders.0.put(&shared::key(&grant.id), &ended(grant.id)).await?;
    Ok(grant.original.as_str().to_owned())
}

/// What operators ordered, and is not done yet.
pub(super) struct Orders(Bucket<Record>);

impl Orders {
    pub(super) fn new(store: &Store) -> Self {
        Self(store.bucket(BUCKET))
    }

    /// Carries them out.
    pub(super) async fn obey(&self, shared: &Shared) -> Result<(), StoreError> {
        for (key, record, _) in self.0.entries().await? {
            if shared.note(record).is_ok() {
                info!("an operator ended an address for calls back");
            }
            shared.save().await?;
            self.0.delete(&key).await?;
        }
        Ok(())
    }
}
