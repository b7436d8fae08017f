//! The device's keys on disk: useless without the passphrase (Argon2id, RFC 9106; AES-256-GCM).

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hawser_seal::{DeviceKeys, SealError, random};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::DeviceError;

/// Shortest passphrase in characters.
const MIN_PASSPHRASE: usize = 8;
/// Most memory that a key file may ask for, in KiB.
const MAX_MEMORY: u32 = 1024 * 1024;
/// Most passes that a key file may ask for.
const MAX_PASSES: u32 = 64;

/// What trying one passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Cost {
    /// The second choice of RFC 9106, section 4: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self {
            memory: 64 * 1024,
            passes: 3,
            lanes: 4,
        }
    }
}

/// The key file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wrapped {
    version: u8,
    /// Argon2id, version 0x13.
    argon2id: Cost,
    salt: String,
    keys: String,
}

/// Whether a passphrase is long enough.
pub(crate) fn check(passphrase: &str) -> Result<(), DeviceError> {
    match passphrase.chars().count() {
        characters if characters < MIN_PASSPHRASE => Err(DeviceError::Weak(characters)),
        _ => Ok(()),
    }
}

/// Encrypts keys under a passphrase. Takes the time that the cost asks for.
pub(crate) fn wrap(keys: &DeviceKeys, passphrase: &str, cost: Cost) -> Result<Wrapped, DeviceError> {
    check(passphrase)?;
    let salt = random::<16>()?;
    let key = derive(passphrase, &salt, cost)?;
    Ok(Wrapped {
        version: 1,
        argon2id: cost,
        salt: B64.encode(salt),
        keys: B64.encode(keys.to_wrapped(&key)?),
    })
}

/// Decrypts them. Takes the time that the cost in the file asks for, which is bounded.
pub(crate) fn unwrap(wrapped: &Wrapped, passphrase: &str) -> Result<DeviceKeys, DeviceError> {
    let damaged = || {
        SealError::Key {
            which: "device's",
            expected: "a key file of version 1, as enrolment wrote it",
        }
        .into()
    };
    let cost = wrapped.argon2id;
    if wrapped.version != 1 || cost.memory > MAX_MEMORY || cost.passes > MAX_PASSES {
        return Err(damaged());
    }
    let salt = B64.decode(&wrapped.salt).map_err(|_| damaged())?;
    let keys = B64.decode(&wrapped.keys).map_err(|_| damaged())?;
    let key = derive(passphrase, &salt, cost)?;
    DeviceKeys::from_wrapped(&keys, &key)?.ok_or(DeviceError::Passphrase)
}

fn derive(passphrase: &str, salt: &[u8], cost: Cost) -> Result<Zeroizing<[u8; 32]>, DeviceError> {
    let failed = || SealError::Library("derive a key from a passphrase at this cost");
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(|_| failed())?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| failed())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost {
        memory: 64,
        passes: 1,
        lanes: 1,
    };

    #[test]
    fn keys_open_by_their_passphrase_only() {
        let keys = DeviceKeys::generate().unwrap();
        let mut wrapped = wrap(&keys, "correct horse", CHEAP).unwrap();
        let opened = unwrap(&wrapped, "correct horse").unwrap();
        assert_eq!(opened.public(), keys.public());
        assert_eq!(opened.sealing_public(), keys.sealing_public());
        assert!(matches!(
            unwrap(&wrapped, "correct horse "),
            Err(DeviceError::Passphrase)
        ));
        assert!(matches!(wrap(&keys, "short", CHEAP), Err(DeviceError::Weak(5))));
        wrapped.argon2id.memory = MAX_MEMORY + 1;
        assert!(unwrap(&wrapped, "correct horse").is_err());
    }

    /// From RFC 9106, section 5.3, but for secret and associated data, which we do not use: by the reference program,
    /// `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32`.
    #[test]
    fn the_derivation_is_that_of_the_reference_program() {
        let cost = Cost {
            memory: 65536,
            passes: 2,
            lanes: 1,
        };
        let key = derive("password", b"somesalt", cost).unwrap();
        let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"
        );
    }
}
