//! Enrolment links: a one-time secret for one user's one device.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, UserName},
};
use hawser_store::StoreError;
use zeroize::Zeroizing;

use super::{
    ADMINISTRATOR, Directory, DirectoryError, random,
    records::{ENROLMENTS, EnrolmentRecord, SpentRecord},
    unknown,
};

/// Most links that are open at once.
const MAX_OPEN: usize = 10_000;

/// A new link.
#[derive(Debug, Clone)]
pub struct Link {
    /// Names it.
    pub enrolment: [u8; 16],
    /// Its secret, which goes into the fragment.
    pub secret: Zeroizing<[u8; 16]>,
    /// For whom.
    pub user: UserName,
    /// When it ends.
    pub expires: UnixTime,
}

/// Whose device comes in by a link, and under which handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// For whom the link was made.
    pub user: UserName,
    /// The handle of the device.
    pub device: DeviceHandle,
}

impl Directory {
    /// Makes a link for a user's next device, good for `life`.
    pub async fn make_link(&self, user: &UserName, life: Duration) -> Result<Link, DirectoryError> {
        if !self.has_user(user).await? {
            return Err(unknown("user", user));
        }
        let links = self.store.bucket::<EnrolmentRecord>(ENROLMENTS);
        let now = UnixTime::now();
        let mut open = 0;
        for (key, record, _) in links.entries().await? {
            match record.expires <= now {
                true => drop(links.delete(&key).await?),
                false => open += 1,
            }
        }
        if open >= MAX_OPEN {
            return Err(DirectoryError::Full {
                name: "the domain".into(),
                what: "open links",
                limit: MAX_OPEN,
            });
        }
        let link = Link {
            enrolment: random()?,
            secret: Zeroizing::new(random()?),
            user: user.clone(),
            expires: now.plus(life),
        };
        let key = link_key(&link.enrolment);
        self.audit
            .append(ADMINISTRATOR, "link-made", user.as_str(), &key)
            .await?;
        let record = EnrolmentRecord {
            user: user.clone(),
            secret: *link.secret,
            expires: link.expires,
            spent: None,
        };
        links.create(&key, &record).await?;
        Ok(link)
    }

    /// The secret of a link that is still good at `now`, spent or not.
    pub async fn link_secret(
        &self,
        enrolment: &[u8; 16],
        now: UnixTime,
    ) -> Result<Zeroizing<[u8; 16]>, DirectoryError> {
        let found = self
            .store
            .bucket::<EnrolmentRecord>(ENROLMENTS)
            .get(&link_key(enrolment))
            .await?;
        match found {
            Some((record, _)) if now < record.expires => Ok(Zeroizing::new(record.secret)),
            Some(_) => Err(DirectoryError::Link("over")),
            None => Err(DirectoryError::Link("not known here, or over")),
        }
    }

    /// Spends a link on a request whose HMAC was right; `request` is its SHA-256. The same request again gets the same answer,
    /// another one gets none.
    pub async fn spend_link(
        &self,
        enrolment: &[u8; 16],
        request: [u8; 32],
        now: UnixTime,
    ) -> Result<Spent, DirectoryError> {
        let links = self.store.bucket::<EnrolmentRecord>(ENROLMENTS);
        let key = link_key(enrolment);
        let Some((mut record, revision)) = links.get(&key).await? else {
            return Err(DirectoryError::Link("not known here, or over"));
        };
        if record.expires <= now {
            return Err(DirectoryError::Link("over"));
        }
        if !self.has_user(&record.user).await? {
            return Err(DirectoryError::Link("for a user who was removed"));
        }
        let user = record.user.clone();
        match &record.spent {
            Some(spent) if spent.request == request => Ok(Spent {
                user,
                device: spent.device,
            }),
            Some(_) => Err(DirectoryError::Link("used up")),
            None => {
                let device = DeviceHandle(random()?);
                record.spent = Some(SpentRecord { request, device });
                match links.update(&key, &record, revision).await {
                    Ok(_) => Ok(Spent { user, device }),
                    Err(StoreError::Conflict { .. }) => {
                        Err(DirectoryError::Link("being used by somebody else"))
                    }
                    Err(e) => Err(e.into()),
                }
            }
        }
    }
}

/// In the bucket of links, and in the record of a device.
pub(crate) fn link_key(enrolment: &[u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(enrolment)
}
