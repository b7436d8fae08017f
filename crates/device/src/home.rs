//! A device's directory: who it is, its wrapped keys, what it has had. Files are private and replaced as a whole.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hawser_identity::{Fingerprint, IdentityError, prepare_dir, read_private, write_private};
use hawser_proto::{
    DomainName,
    broker::{
        DeviceHandle, ItemId, UserName,
        api::Profile,
        envelope::{encoded, whole},
        statement::{DeviceCertificate, Signed},
    },
};
use hawser_seal::{Arrivals, DeviceKeys, PublicKey, verify};
use minicbor::{Decode, Encode, bytes::ByteVec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Cost, DeviceError, wrap};

const IDENTITY: &str = "device.json";
const KEYS: &str = "device.key";
const STATE: &str = "state";
const LOCK: &str = "lock";
/// Changes within so long go to disk together: what was handed on since may come again should the process die.
const GATHER: Duration = Duration::from_millis(5);
/// Most messages of which the state remembers what can still be done with them.
const MAX_RECENT: usize = 512;

/// The directory of a device.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

/// Who a device is, and whom it trusts. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The domain.
    pub domain: DomainName,
    /// Whose device.
    pub user: UserName,
    /// Its handle.
    pub device: DeviceHandle,
    /// For people.
    pub name: String,
    /// Where control is: `https://NAME[:PORT]`.
    pub control: String,
    /// Where the mailbox is: `https://NAME[:PORT]`.
    pub mailbox: String,
    /// The domain's root, by which control is known.
    pub root: Fingerprint,
    /// The hub's key, by which the mailbox is known.
    pub hub: Fingerprint,
    /// The domain's sender key: 65 bytes as base64url.
    pub sender_key: String,
    /// The device's signed certificate as base64url.
    pub certificate: String,
    /// What the device can show.
    pub profile: Profile,
}

impl Identity {
    /// The key that signs what comes to this device.
    pub fn sender(&self) -> Result<PublicKey, DeviceError> {
        let bytes = B64.decode(&self.sender_key).unwrap_or_default();
        Ok(PublicKey::from_bytes(&bytes)?)
    }

    /// What the domain certifies of this device.
    pub fn certificate(&self) -> Result<DeviceCertificate, DeviceError> {
        let bytes = B64.decode(&self.certificate).unwrap_or_default();
        let signed = Signed::<DeviceCertificate>::parse(&bytes).map_err(|source| {
            hawser_seal::SealError::Malformed {
                what: "the device's certificate is",
                source,
            }
        })?;
        Ok(verify(&signed, &self.sender()?)?)
    }
}

/// What a device has had, and what it has still to say.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(crate) struct State {
    #[n(0)]
    pub(crate) arrivals: Arrivals,
    /// Signed acknowledgements that the mailbox has not taken yet.
    #[n(1)]
    pub(crate) pending: Vec<ByteVec>,
    /// The last messages.
    #[n(2)]
    recent: Vec<Recent>,
    /// Since when it differs from the file, if it does.
    #[cbor(skip)]
    unsaved: Option<Instant>,
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(crate) struct Recent {
    #[n(0)]
    pub(crate) sequence: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) digest: [u8; 32],
    #[n(2)]
    pub(crate) item: Option<ItemId>,
}

impl State {
    /// It differs from the file now.
    pub(crate) fn changed(&mut self) {
        self.unsaved.get_or_insert_with(Instant::now);
    }

    /// When it is to be saved, if it is.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.unsaved.map(|since| since + GATHER)
    }

    pub(crate) fn remember(&mut self, recent: Recent) {
        if self.recent.len() >= MAX_RECENT {
            self.recent.remove(0);
        }
        self.recent.push(recent);
    }

    pub(crate) fn recent(&self, sequence: u64) -> Option<&Recent> {
        self.recent
            .iter()
            .rev()
            .find(|recent| recent.sequence == sequence)
    }
}

impl Home {
    /// A directory that holds a device, or is to.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory (mode 0700), and refuses one that holds a device.
    pub(crate) fn prepare(&self) -> Result<(), DeviceError> {
        prepare_dir(&self.0)?;
        match self.0.join(IDENTITY).exists() {
            true => Err(DeviceError::Enrolled(self.0.clone())),
            false => Ok(()),
        }
    }

    /// Writes a device that was enrolled. Its identity comes last: without it there is none.
    pub(crate) fn create(
        &self,
        identity: &Identity,
        keys: &DeviceKeys,
        passphrase: &str,
        cost: Cost,
    ) -> Result<(), DeviceError> {
        let wrapped = wrap::wrap(keys, passphrase, cost)?;
        self.write_json(KEYS, &wrapped)?;
        self.save_state(&mut State::default())?;
        self.save_identity(identity)
    }

    /// Who the device is; needs no passphrase.
    pub fn identity(&self) -> Result<Identity, DeviceError> {
        match self.read_json(IDENTITY, "what enrolment wrote of this device") {
            Err(DeviceError::Identity(IdentityError::Missing { .. })) => {
                Err(DeviceError::NotEnrolled(self.0.clone()))
            }
            other => other,
        }
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), DeviceError> {
        self.write_json(IDENTITY, identity)
    }

    /// Its keys, by the passphrase. Takes as long as the key file's cost asks for.
    pub(crate) fn keys(&self, passphrase: &str) -> Result<DeviceKeys, DeviceError> {
        let wrapped = self.read_json(KEYS, "this device's wrapped keys")?;
        wrap::unwrap(&wrapped, passphrase)
    }

    pub(crate) fn state(&self) -> Result<State, DeviceError> {
        let path = self.0.join(STATE);
        let bytes = read_private(&path, "what this device has had")?;
        whole(&bytes).map_err(|e| DeviceError::File {
            path,
            detail: format!("{e}: restore it, or enrol anew"),
        })
    }

    pub(crate) fn save_state(&self, state: &mut State) -> Result<(), DeviceError> {
        write_private(&self.0.join(STATE), &encoded(&*state))?;
        state.unsaved = None;
        Ok(())
    }

    /// Held by the one process that takes envelopes, as long as the file is open.
    pub(crate) fn lock(&self) -> Result<File, DeviceError> {
        let path = self.0.join(LOCK);
        let failed = |e: std::io::Error| DeviceError::File {
            path: path.clone(),
            detail: e.to_string(),
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(DeviceError::Busy(self.0.clone())),
            Err(std::fs::TryLockError::Error(e)) => Err(failed(e)),
        }
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), DeviceError> {
        let path = self.0.join(name);
        let text = serde_json::to_vec_pretty(value).map_err(|e| DeviceError::File {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        Ok(write_private(&path, &text)?)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str, expected: &'static str) -> Result<T, DeviceError> {
        let path = self.0.join(name);
        let bytes = read_private(&path, expected)?;
        serde_json::from_slice(&bytes).map_err(|e| DeviceError::File {
            path,
            detail: format!("{e}: restore it, or enrol anew"),
        })
    }
}
