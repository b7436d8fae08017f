//! The directory as it was at a moment, in memory: what publishing and sealing look things up in. What must be right *now*
//! (an answer to a fetch) asks the store instead.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hawser_proto::broker::{DeviceHandle, UserName};

use super::{
    Device, Directory, DirectoryError,
    records::{APPLICATIONS, ApplicationRecord, GROUPS, GroupRecord, USERS, UserRecord},
};

/// Users, groups, devices and applications at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    users: BTreeMap<UserName, Vec<DeviceHandle>>,
    groups: BTreeMap<UserName, Vec<UserName>>,
    devices: HashMap<DeviceHandle, Arc<Device>>,
    tokens: HashMap<[u8; 32], UserName>,
    certificates: HashMap<[u8; 32], UserName>,
}

impl Directory {
    /// Reads all of it.
    pub async fn snapshot(&self) -> Result<Snapshot, DirectoryError> {
        let mut snapshot = Snapshot::default();
        for (name, _, _) in self.store.bucket::<UserRecord>(USERS).entries().await? {
            if let Ok(name) = name.parse() {
                snapshot.users.insert(name, Vec::new());
            }
        }
        for (name, group, _) in self.store.bucket::<GroupRecord>(GROUPS).entries().await? {
            if let Ok(name) = name.parse() {
                snapshot.groups.insert(name, group.members);
            }
        }
        for (name, record, _) in self
            .store
            .bucket::<ApplicationRecord>(APPLICATIONS)
            .entries()
            .await?
        {
            if let Ok(name) = name.parse::<UserName>() {
                snapshot.tokens.insert(record.token, name.clone());
                if let Some(certificate) = record.certificate {
                    snapshot.certificates.insert(certificate, name);
                }
            }
        }
        for device in self.devices().await? {
            snapshot.insert(device);
        }
        Ok(snapshot)
    }
}

impl Snapshot {
    fn insert(&mut self, device: Device) {
        if device.revoked.is_none()
            && let Some(devices) = self.users.get_mut(&device.user)
        {
            devices.push(device.handle);
        }
        self.devices.insert(device.handle, Arc::new(device));
    }

    /// Whether there is such a user.
    pub fn has_user(&self, name: &UserName) -> bool {
        self.users.contains_key(name)
    }

    /// A user's devices that are not revoked.
    pub fn devices_of(&self, user: &UserName) -> impl Iterator<Item = &Arc<Device>> {
        let handles = self.users.get(user).into_iter().flatten();
        handles.filter_map(|handle| self.devices.get(handle))
    }

    /// The groups that a user is in.
    pub fn groups_of(&self, user: &UserName) -> Vec<UserName> {
        let inside = |(_, members): &(&UserName, &Vec<UserName>)| members.binary_search(user).is_ok();
        self.groups
            .iter()
            .filter(inside)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Those members of a group who still exist; `None`: there is no such group.
    pub fn members(&self, group: &UserName) -> Option<BTreeSet<UserName>> {
        let members = self.groups.get(group)?;
        Some(members.iter().filter(|m| self.has_user(m)).cloned().collect())
    }

    /// A device, revoked or not.
    pub fn device(&self, handle: &DeviceHandle) -> Option<&Arc<Device>> {
        self.devices.get(handle)
    }

    /// A device whose user exists and that is not revoked.
    pub fn good(&self, handle: &DeviceHandle) -> Option<&Arc<Device>> {
        self.device(handle)
            .filter(|d| d.revoked.is_none() && self.has_user(&d.user))
    }

    /// All devices, revoked ones too.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.devices.values()
    }

    /// The application whose bearer token has this SHA-256.
    pub fn application_by_token(&self, hash: &[u8; 32]) -> Option<&UserName> {
        self.tokens.get(hash)
    }

    /// The application whose client certificate has this SHA-256.
    pub fn application_by_certificate(&self, hash: &[u8; 32]) -> Option<&UserName> {
        self.certificates.get(hash)
    }

    /// How many there are: users, devices that are not revoked.
    pub fn size(&self) -> (usize, usize) {
        (self.users.len(), self.users.values().map(Vec::len).sum())
    }
}
