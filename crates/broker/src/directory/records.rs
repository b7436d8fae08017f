//! What the directory keeps in the gateway's store: one type per bucket. Fields are only ever added, with new numbers.

use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, UserName, api::Profile},
};
use minicbor::{Decode, Encode};
use zeroize::Zeroize;

/// Users, by name.
pub(crate) const USERS: &str = "broker.users";
/// Groups, by name.
pub(crate) const GROUPS: &str = "broker.groups";
/// Applications, by name.
pub(crate) const APPLICATIONS: &str = "broker.applications";
/// Devices, by handle; those that are revoked stay.
pub(crate) const DEVICES: &str = "broker.devices";
/// Enrolment links, by the base64url of their id.
pub(crate) const ENROLMENTS: &str = "broker.enrolments";
/// When devices were last connected, by the first byte of their handles (two hex digits).
pub(crate) const CONTACTS: &str = "broker.contacts";

/// Of [`USERS`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct UserRecord {
    /// Since when.
    #[n(0)]
    pub(crate) created: UnixTime,
}

/// Of [`GROUPS`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct GroupRecord {
    /// Since when.
    #[n(0)]
    pub(crate) created: UnixTime,
    /// Sorted, each once.
    #[n(1)]
    pub(crate) members: Vec<UserName>,
}

/// Of [`APPLICATIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ApplicationRecord {
    /// Since when.
    #[n(0)]
    pub(crate) created: UnixTime,
    /// SHA-256 of its bearer token.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) token: [u8; 32],
    /// SHA-256 of its client certificate (DER), where it has one.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) certificate: Option<[u8; 32]>,
}

/// Of [`DEVICES`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(crate) struct DeviceRecord {
    /// Whose.
    #[n(0)]
    pub(crate) user: UserName,
    /// For people; one line.
    #[n(1)]
    pub(crate) name: String,
    /// P-256, SEC 1, uncompressed.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) signing_key: Vec<u8>,
    /// X25519.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(crate) sealing_key: [u8; 32],
    /// Raised by each new key, and by revocation.
    #[n(4)]
    pub(crate) epoch: u32,
    /// Since when.
    #[n(5)]
    pub(crate) enrolled: UnixTime,
    /// JSON of [`Profile`].
    #[n(6)]
    pub(crate) profile: String,
    /// RFC 7638 thumbprint (SHA-256) of the signing key.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub(crate) thumbprint: [u8; 32],
    /// When and by whom it was revoked.
    #[n(8)]
    pub(crate) revoked: Option<RevokedRecord>,
    /// The link it came by, as base64url.
    #[n(9)]
    pub(crate) enrolment: String,
    /// The check number of its enrolment.
    #[n(10)]
    pub(crate) check: Option<String>,
}

impl DeviceRecord {
    /// What it can show; the default one, should the record's not be readable by this version.
    pub(crate) fn profile(&self) -> Profile {
        serde_json::from_str(&self.profile).unwrap_or_default()
    }
}

/// In a [`DeviceRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct RevokedRecord {
    /// When.
    #[n(0)]
    pub(crate) at: UnixTime,
    /// By whom: `administrator`, or a user by own wish.
    #[n(1)]
    pub(crate) by: String,
}

/// Of [`ENROLMENTS`].
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EnrolmentRecord {
    /// For whom.
    #[n(0)]
    pub(crate) user: UserName,
    /// The link's secret. The record goes when the link's time is over.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) secret: [u8; 16],
    /// When it ends.
    #[n(2)]
    pub(crate) expires: UnixTime,
    /// The device that came by it.
    #[n(3)]
    pub(crate) spent: Option<SpentRecord>,
}

impl Drop for EnrolmentRecord {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for EnrolmentRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolmentRecord({})", self.user)
    }
}

/// In an [`EnrolmentRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SpentRecord {
    /// SHA-256 of the request. The same request may come again: its answer may have been lost.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) request: [u8; 32],
    /// The handle it was given.
    #[n(1)]
    pub(crate) device: DeviceHandle,
}

/// Of [`CONTACTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ContactsRecord {
    /// Device, when it was last seen, whether it was connected then.
    #[n(0)]
    pub(crate) seen: Vec<ContactRecord>,
}

/// In a [`ContactsRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ContactRecord {
    /// Which device.
    #[n(0)]
    pub(crate) device: DeviceHandle,
    /// When it came or went.
    #[n(1)]
    pub(crate) at: UnixTime,
    /// Whether it came.
    #[n(2)]
    pub(crate) connected: bool,
}

/// What the domain's devices have for a mailbox, at [`HOME_KEY`].
pub(crate) const HOME: &str = "broker.home";
/// The only key of [`HOME`].
pub(crate) const HOME_KEY: &str = "mailbox";

/// Of [`HOME`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct HomeRecord {
    /// SHA-256 of the hub's public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) pin: [u8; 32],
    /// Where devices reached it last: `https://NAME[:PORT]`.
    #[n(1)]
    pub(crate) url: Option<String>,
}
