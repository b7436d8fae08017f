//! Who there is: users, groups, applications, devices, enrolment links, and the audit log of all that changes. It lies in the
//! gateway's store, where `hawser user` and its like write beside a running broker, which follows within a second.
//!
//! Each change is one write of one key, after its entry in the audit log. What takes more than one (removing a user revokes
//! devices) can be done again until it is done.

pub mod audit;
mod devices;
mod links;
mod records;
mod snapshot;
#[cfg(test)]
mod tests;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use data_encoding::HEXLOWER;
use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, UserName},
};
use hawser_store::{Store, StoreError};
use serde::Serialize;
use zeroize::Zeroizing;

pub use audit::{Audit, Entry, Head};
pub use devices::{Device, NewDevice, Revocation};
pub(crate) use links::link_key;
pub use links::{Link, Spent};
use records::{
    APPLICATIONS, ApplicationRecord, GROUPS, GroupRecord, HOME, HOME_KEY, HomeRecord, USERS, UserRecord,
};
pub use snapshot::Snapshot;

/// The mailbox that a domain's devices have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// SHA-256 of its hub's public key.
    pub pin: [u8; 32],
    /// Where devices reached it last: `https://NAME[:PORT]`. None: an older version wrote the pin alone.
    pub url: Option<String>,
}

/// Most members of a group.
pub const MAX_MEMBERS: usize = 10_000;
/// Most devices of a user that are not revoked.
pub const MAX_DEVICES: usize = 32;
/// Who acts by the command line.
pub const ADMINISTRATOR: &str = "administrator";
/// How often a change is tried that meets others' changes of the same record.
const MAX_TRIES: u32 = 20;
/// Bytes of an application's token.
const TOKEN: usize = 32;

/// Why the directory did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Exists already.
    #[error("there is already {what} {name}")]
    Exists {
        /// `a user`, `a group`, ...
        what: &'static str,
        /// Which.
        name: String,
    },
    /// Does not exist.
    #[error("there is no {what} {name}; `hawser {what} list` shows those there are")]
    Unknown {
        /// `user`, `group`, ...
        what: &'static str,
        /// Which.
        name: String,
    },
    /// Over a limit.
    #[error("{name} has {limit} {what} already, which is the most: remove some first")]
    Full {
        /// Of whom or what.
        name: String,
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Others change the same record all the time.
    #[error("the directory is changed by too many at once: try again")]
    Crowded,
    /// The system's random numbers failed.
    #[error("the system gives no random numbers")]
    Random,
    /// A link that opens nothing.
    #[error("this enrolment link is {0}: ask the administrator for a new one (`hawser enrol`)")]
    Link(&'static str),
    /// The audit log was tampered with, or damaged.
    #[error("the audit log is broken at entry {number}: {detail}; compare it with a backup")]
    AuditBroken {
        /// The first entry that is wrong.
        number: u64,
        /// How.
        detail: String,
    },
}

/// The directory of one domain. Cheap to clone. No call is cancel safe in the sense of "did not happen".
#[derive(Debug, Clone)]
pub struct Directory {
    store: Store,
    audit: Audit,
}

/// A user, for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserView {
    /// Name.
    pub name: UserName,
    /// Since when.
    pub created: UnixTime,
    /// Devices that are not revoked.
    pub devices: usize,
    /// Groups that it is in.
    pub groups: Vec<UserName>,
}

/// A group, for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// Name.
    pub name: UserName,
    /// Its members, sorted.
    pub members: Vec<UserName>,
}

/// An application, for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApplicationView {
    /// Name.
    pub name: UserName,
    /// Since when.
    pub created: UnixTime,
    /// SHA-256 of its client certificate in hex, where it has one.
    pub certificate: Option<String>,
}

impl Directory {
    /// The directory in a gateway's store.
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            audit: Audit::new(store),
        }
    }

    /// The log of its changes.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Changes after every commit to the store.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.store.watch()
    }

    /// Adds a user.
    pub async fn add_user(&self, name: &UserName) -> Result<(), DirectoryError> {
        if self.has_user(name).await? {
            return Err(exists("a user", name));
        }
        self.log("user-added", name.as_str(), "").await?;
        let record = UserRecord {
            created: UnixTime::now(),
        };
        created(
            self.store.bucket(USERS).create(name.as_str(), &record).await,
            "a user",
            name,
        )
    }

    /// Removes a user: from all groups, with all devices, which are revoked. Returns their handles.
    pub async fn remove_user(&self, name: &UserName) -> Result<Vec<DeviceHandle>, DirectoryError> {
        if !self.has_user(name).await? {
            return Err(unknown("user", name));
        }
        self.log("user-removed", name.as_str(), "").await?;
        self.store
            .bucket::<UserRecord>(USERS)
            .delete(name.as_str())
            .await?;
        let mut revoked = Vec::new();
        for device in self.devices().await? {
            if device.user == *name && device.revoked.is_none() {
                self.revoke(&device.handle, ADMINISTRATOR, "the user was removed")
                    .await?;
                revoked.push(device.handle);
            }
        }
        for group in self.groups().await? {
            if group.members.contains(name) {
                self.change_group(&group.name, |members| members.retain(|m| m != name))
                    .await?;
            }
        }
        Ok(revoked)
    }

    /// Whether there is such a user, at this moment.
    pub async fn has_user(&self, name: &UserName) -> Result<bool, DirectoryError> {
        Ok(self
            .store
            .bucket::<UserRecord>(USERS)
            .get(name.as_str())
            .await?
            .is_some())
    }

    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<UserView>, DirectoryError> {
        let snapshot = self.snapshot().await?;
        let users = self.store.bucket::<UserRecord>(USERS).entries().await?;
        let view = |(name, record, _): (String, UserRecord, _)| {
            let name: UserName = name.parse().ok()?;
            Some(UserView {
                devices: snapshot.devices_of(&name).count(),
                groups: snapshot.groups_of(&name),
                created: record.created,
                name,
            })
        };
        Ok(users.into_iter().filter_map(view).collect())
    }

    /// Adds a group.
    pub async fn add_group(&self, name: &UserName) -> Result<(), DirectoryError> {
        if self
            .store
            .bucket::<GroupRecord>(GROUPS)
            .get(name.as_str())
            .await?
            .is_some()
        {
            return Err(exists("a group", name));
        }
        self.log("group-added", name.as_str(), "").await?;
        let record = GroupRecord {
            created: UnixTime::now(),
            members: Vec::new(),
        };
        created(
            self.store.bucket(GROUPS).create(name.as_str(), &record).await,
            "a group",
            name,
        )
    }

    /// Removes a group. Its members stay.
    pub async fn remove_group(&self, name: &UserName) -> Result<(), DirectoryError> {
        let groups = self.store.bucket::<GroupRecord>(GROUPS);
        if groups.get(name.as_str()).await?.is_none() {
            return Err(unknown("group", name));
        }
        self.log("group-removed", name.as_str(), "").await?;
        groups.delete(name.as_str()).await?;
        Ok(())
    }

    /// All groups, by name.
    pub async fn groups(&self) -> Result<Vec<GroupView>, DirectoryError> {
        let groups = self.store.bucket::<GroupRecord>(GROUPS).entries().await?;
        let view = |(name, record, _): (String, GroupRecord, _)| {
            Some(GroupView {
                name: name.parse().ok()?,
                members: record.members,
            })
        };
        Ok(groups.into_iter().filter_map(view).collect())
    }

    /// Puts a user into a group. Nothing changes for one who is in it.
    pub async fn join_group(&self, group: &UserName, user: &UserName) -> Result<(), DirectoryError> {
        if !self.has_user(user).await? {
            return Err(unknown("user", user));
        }
        self.log("group-joined", group.as_str(), user.as_str()).await?;
        let full = self
            .change_group(group, |members| {
                if let Err(place) = members.binary_search(user)
                    && members.len() < MAX_MEMBERS
                {
                    members.insert(place, user.clone());
                }
            })
            .await?;
        match full.binary_search(user) {
            Ok(_) => Ok(()),
            Err(_) => Err(DirectoryError::Full {
                name: group.to_string(),
                what: "members",
                limit: MAX_MEMBERS,
            }),
        }
    }

    /// Takes a user out of a group.
    pub async fn leave_group(&self, group: &UserName, user: &UserName) -> Result<(), DirectoryError> {
        self.log("group-left", group.as_str(), user.as_str()).await?;
        self.change_group(group, |members| members.retain(|m| m != user))
            .await?;
        Ok(())
    }

    async fn change_group(
        &self,
        name: &UserName,
        change: impl Fn(&mut Vec<UserName>),
    ) -> Result<Vec<UserName>, DirectoryError> {
        let groups = self.store.bucket::<GroupRecord>(GROUPS);
        for _ in 0..MAX_TRIES {
            let Some((mut record, revision)) = groups.get(name.as_str()).await? else {
                return Err(unknown("group", name));
            };
            change(&mut record.members);
            match groups.update(name.as_str(), &record, revision).await {
                Ok(_) => return Ok(record.members),
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(DirectoryError::Crowded)
    }

    /// Adds an application, and returns its bearer token, which is kept nowhere. `certificate`: SHA-256 of its client
    /// certificate.
    pub async fn add_application(
        &self,
        name: &UserName,
        certificate: Option<[u8; 32]>,
    ) -> Result<Zeroizing<String>, DirectoryError> {
        let applications = self.store.bucket::<ApplicationRecord>(APPLICATIONS);
        if applications.get(name.as_str()).await?.is_some() {
            return Err(exists("an application", name));
        }
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(*Zeroizing::new(random::<TOKEN>()?)));
        self.log("application-added", name.as_str(), "").await?;
        let record = ApplicationRecord {
            created: UnixTime::now(),
            token: sha256(token.as_bytes()),
            certificate,
        };
        created(
            applications.create(name.as_str(), &record).await,
            "an application",
            name,
        )?;
        Ok(token)
    }

    /// Removes an application: it cannot publish any more. What it published goes its way.
    pub async fn remove_application(&self, name: &UserName) -> Result<(), DirectoryError> {
        let applications = self.store.bucket::<ApplicationRecord>(APPLICATIONS);
        if applications.get(name.as_str()).await?.is_none() {
            return Err(unknown("application", name));
        }
        self.log("application-removed", name.as_str(), "").await?;
        applications.delete(name.as_str()).await?;
        Ok(())
    }

    /// All applications, by name.
    pub async fn applications(&self) -> Result<Vec<ApplicationView>, DirectoryError> {
        let entries = self
            .store
            .bucket::<ApplicationRecord>(APPLICATIONS)
            .entries()
            .await?;
        let view = |(name, record, _): (String, ApplicationRecord, _)| {
            Some(ApplicationView {
                name: name.parse().ok()?,
                created: record.created,
                certificate: record.certificate.map(|hash| HEXLOWER.encode(&hash)),
            })
        };
        Ok(entries.into_iter().filter_map(view).collect())
    }

    /// The mailbox that the domain's devices have. `None`: none has answered yet.
    pub async fn home(&self) -> Result<Option<Home>, DirectoryError> {
        let home = self.store.bucket::<HomeRecord>(HOME).get(HOME_KEY).await?;
        Ok(home.map(|(HomeRecord { pin, url }, _)| Home { pin, url }))
    }

    /// Writes down the mailbox that the domain's devices have.
    pub async fn set_home(&self, home: &Home) -> Result<(), DirectoryError> {
        let Home { pin, url } = home.clone();
        self.store
            .bucket(HOME)
            .put(HOME_KEY, &HomeRecord { pin, url })
            .await?;
        Ok(())
    }

    async fn log(&self, action: &str, subject: &str, detail: &str) -> Result<(), DirectoryError> {
        self.audit.append(ADMINISTRATOR, action, subject, detail).await?;
        Ok(())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], DirectoryError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| DirectoryError::Random)?;
    Ok(bytes)
}

fn exists(what: &'static str, name: &UserName) -> DirectoryError {
    DirectoryError::Exists {
        what,
        name: name.to_string(),
    }
}

fn unknown(what: &'static str, name: &UserName) -> DirectoryError {
    DirectoryError::Unknown {
        what,
        name: name.to_string(),
    }
}

/// What a `create` means to whoever asked for it.
fn created(
    result: Result<u64, StoreError>,
    what: &'static str,
    name: &UserName,
) -> Result<(), DirectoryError> {
    match result {
        Ok(_) => Ok(()),
        Err(StoreError::Exists { .. }) => Err(exists(what, name)),
        Err(e) => Err(e.into()),
    }
}
