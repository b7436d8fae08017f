//! Devices: how one comes in, is known, and is revoked.

use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, UserName, api::Profile},
};
use hawser_store::StoreError;
use serde::Serialize;

use super::{
    Directory, DirectoryError, MAX_DEVICES, MAX_TRIES,
    records::{CONTACTS, ContactRecord, ContactsRecord, DEVICES, DeviceRecord, RevokedRecord},
};

/// A device as the directory knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// By which the mailbox knows it.
    pub handle: DeviceHandle,
    /// Whose.
    pub user: UserName,
    /// For people.
    pub name: String,
    /// P-256, SEC 1, uncompressed (65 bytes).
    #[serde(skip)]
    pub signing_key: Vec<u8>,
    /// X25519.
    #[serde(skip)]
    pub sealing_key: [u8; 32],
    /// RFC 7638 thumbprint (SHA-256) of the signing key.
    #[serde(skip)]
    pub thumbprint: [u8; 32],
    /// Raised by each new key, and by revocation.
    pub epoch: u32,
    /// Since when.
    pub enrolled: UnixTime,
    /// What it can show.
    pub profile: Profile,
    /// The check number of its enrolment, which the device has shown its user. None: it was enrolled by an older version.
    pub check: Option<String>,
    /// When and by whom it was revoked.
    pub revoked: Option<Revocation>,
}

/// That a device is out, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// When.
    pub at: UnixTime,
    /// By whom.
    pub by: String,
}

/// What a device brings.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDevice {
    /// Whose.
    pub user: UserName,
    /// For people; one line.
    pub name: String,
    /// P-256, SEC 1, uncompressed (65 bytes), checked to be one.
    pub signing_key: Vec<u8>,
    /// X25519.
    pub sealing_key: [u8; 32],
    /// RFC 7638 thumbprint of the signing key.
    pub thumbprint: [u8; 32],
    /// What it can show.
    pub profile: Profile,
    /// The link it came by, as base64url.
    pub enrolment: String,
    /// The check number of its enrolment.
    pub check: String,
}

impl Directory {
    /// All devices, revoked ones too, by handle.
    pub async fn devices(&self) -> Result<Vec<Device>, DirectoryError> {
        let entries = self.store.bucket::<DeviceRecord>(DEVICES).entries().await?;
        Ok(entries
            .into_iter()
            .filter_map(|(handle, record, _)| Some(device(handle.parse().ok()?, record)))
            .collect())
    }

    /// A device, at this moment.
    pub async fn device(&self, handle: &DeviceHandle) -> Result<Option<Device>, DirectoryError> {
        let found = self
            .store
            .bucket::<DeviceRecord>(DEVICES)
            .get(&handle.to_string())
            .await?;
        Ok(found.map(|(record, _)| device(*handle, record)))
    }

    /// Takes a device in under a handle that its link chose. The same again changes nothing.
    pub async fn enrol(&self, handle: DeviceHandle, new: &NewDevice) -> Result<Device, DirectoryError> {
        if let Some(known) = self.device(&handle).await? {
            return Ok(known);
        }
        let own = |d: &Device| d.user == new.user && d.revoked.is_none();
        if self.devices().await?.iter().filter(|d| own(d)).count() >= MAX_DEVICES {
            return Err(DirectoryError::Full {
                name: new.user.to_string(),
                what: "devices",
                limit: MAX_DEVICES,
            });
        }
        self.audit
            .append(
                &format!("user {}", new.user),
                "device-enrolled",
                &handle.to_string(),
                &format!("{}, check number {}", new.name, new.check),
            )
            .await?;
        let record = DeviceRecord {
            user: new.user.clone(),
            name: new.name.clone(),
            signing_key: new.signing_key.clone(),
            sealing_key: new.sealing_key,
            epoch: 1,
            enrolled: UnixTime::now(),
            profile: serde_json::to_string(&new.profile).unwrap_or_default(),
            thumbprint: new.thumbprint,
            revoked: None,
            enrolment: new.enrolment.clone(),
            check: Some(new.check.clone()),
        };
        match self
            .store
            .bucket(DEVICES)
            .create(&handle.to_string(), &record)
            .await
        {
            Ok(_) | Err(StoreError::Exists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(device(handle, record))
    }

    /// Changes what a device can show.
    pub async fn set_profile(
        &self,
        handle: &DeviceHandle,
        profile: &Profile,
    ) -> Result<Device, DirectoryError> {
        let profile = serde_json::to_string(profile).unwrap_or_default();
        self.change(handle, |record| record.profile.clone_from(&profile))
            .await
    }

    /// Revokes a device for good; false if it was revoked before. `actor`: who says so.
    pub async fn revoke(
        &self,
        handle: &DeviceHandle,
        actor: &str,
        reason: &str,
    ) -> Result<bool, DirectoryError> {
        match self.device(handle).await? {
            None => {
                return Err(DirectoryError::Unknown {
                    what: "device",
                    name: handle.to_string(),
                });
            }
            Some(known) if known.revoked.is_some() => return Ok(false),
            Some(_) => {}
        }
        self.audit
            .append(actor, "device-revoked", &handle.to_string(), reason)
            .await?;
        let at = UnixTime::now();
        self.change(handle, |record| {
            if record.revoked.is_none() {
                record.epoch += 1;
                record.revoked = Some(RevokedRecord { at, by: actor.into() });
            }
        })
        .await?;
        Ok(true)
    }

    async fn change(
        &self,
        handle: &DeviceHandle,
        change: impl Fn(&mut DeviceRecord),
    ) -> Result<Device, DirectoryError> {
        let devices = self.store.bucket::<DeviceRecord>(DEVICES);
        let key = handle.to_string();
        for _ in 0..MAX_TRIES {
            let Some((mut record, revision)) = devices.get(&key).await? else {
                return Err(DirectoryError::Unknown {
                    what: "device",
                    name: key,
                });
            };
            change(&mut record);
            match devices.update(&key, &record, revision).await {
                Ok(_) => return Ok(device(*handle, record)),
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(DirectoryError::Crowded)
    }

    /// When each device last came or went, and whether it is connected. By handle; devices never seen are missing.
    pub async fn contacts(&self) -> Result<Vec<(DeviceHandle, UnixTime, bool)>, DirectoryError> {
        let shards = self.store.bucket::<ContactsRecord>(CONTACTS).entries().await?;
        let mut seen: Vec<_> = shards
            .into_iter()
            .flat_map(|(_, shard, _)| shard.seen)
            .map(|c| (c.device, c.at, c.connected))
            .collect();
        seen.sort_unstable();
        Ok(seen)
    }

    /// Notes when devices came or went. Only the running broker writes these.
    pub async fn note_contacts(&self, seen: &[(DeviceHandle, UnixTime, bool)]) -> Result<(), DirectoryError> {
        let shards = self.store.bucket::<ContactsRecord>(CONTACTS);
        let mut rest = seen.to_vec();
        rest.sort_unstable_by_key(|c| c.0);
        for group in rest.chunk_by(|a, b| a.0.0[0] == b.0.0[0]) {
            let key = format!("{:02x}", group[0].0.0[0]);
            let mut shard = shards.get(&key).await?.map(|(s, _)| s).unwrap_or_default();
            for (device, at, connected) in group.iter().copied() {
                shard.seen.retain(|c| c.device != device);
                shard.seen.push(ContactRecord {
                    device,
                    at,
                    connected,
                });
            }
            shards.put(&key, &shard).await?;
        }
        Ok(())
    }
}

fn device(handle: DeviceHandle, record: DeviceRecord) -> Device {
    Device {
        handle,
        profile: record.profile(),
        user: record.user,
        name: record.name,
        signing_key: record.signing_key,
        sealing_key: record.sealing_key,
        thumbprint: record.thumbprint,
        epoch: record.epoch,
        enrolled: record.enrolled,
        check: record.check,
        revoked: record.revoked.map(|r| Revocation { at: r.at, by: r.by }),
    }
}
