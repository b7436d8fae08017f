//! The epoch key: HPKE (RFC 9180, base mode) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.

use hawser_proto::broker::{DeviceHandle, KeyId, envelope::EPOCH_KEY};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use zeroize::Zeroizing;

use crate::SealError;

/// Before device and epoch in HPKE's `info`.
const INFO: &[u8] = b"hawser-epoch-key/1\0";
/// Bytes of an X25519 key, and of HPKE's encapsulated key.
const KEY: usize = 32;

fn info(device: DeviceHandle, epoch: u32) -> Vec<u8> {
    [INFO, &device.0, &epoch.to_be_bytes()].concat()
}

/// Seals a wrapping key to a device's public key.
pub(crate) fn seal(
    wrapping: &[u8; 32],
    to: &[u8; KEY],
    device: DeviceHandle,
    epoch: u32,
    sender: KeyId,
) -> Result<[u8; EPOCH_KEY], SealError> {
    let refused = || SealError::Key {
        which: "device's sealing",
        expected: "32 bytes of X25519 that are a point",
    };
    let (enc, sealed) = SUITE
        .seal(
            &info(device, epoch),
            &sender.0,
            wrapping,
            &HpkePublicKey(to.to_vec()),
        )
        .map_err(|_| refused())?;
    [enc.0, sealed].concat().try_into().map_err(|_| refused())
}

/// Opens a wrapping key with a device's private key.
pub(crate) fn open(
    epoch_key: &[u8],
    private: &[u8; KEY],
    device: DeviceHandle,
    epoch: u32,
    sender: KeyId,
) -> Option<Zeroizing<[u8; 32]>> {
    let (enc, sealed) = epoch_key.split_at_checked(KEY)?;
    let opened = SUITE
        .open(
            &EncapsulatedSecret(enc.to_vec()),
            &info(device, epoch),
            &sender.0,
            sealed,
            &HpkePrivateKey::from(private.to_vec()),
        )
        .map(Zeroizing::new)
        .ok()?;
    let mut wrapping = Zeroizing::new([0; 32]);
    (opened.len() == 32).then(|| wrapping.copy_from_slice(&opened))?;
    Some(wrapping)
}
