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

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::{
        agreement, hkdf,
        hkdf::{HKDF_SHA256, KeyType, Salt},
    };
    use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;

    use super::*;

    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    /// RFC 9180's receiver for X25519 and HKDF-SHA256, written from its text: shared secret, key, base nonce.
    pub(crate) fn by_the_book(
        aead: u16,
        key_length: usize,
        private: &[u8; 32],
        public: &[u8; 32],
        enc: &[u8],
        info: &[u8],
    ) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let extract = |suite: &[u8], salt: &[u8], label: &str, ikm: &[u8]| {
            Salt::new(HKDF_SHA256, salt).extract(&[b"HPKE-v1", suite, label.as_bytes(), ikm].concat())
        };
        let expand = |prk: &hkdf::Prk, suite: &[u8], label: &str, info: &[u8], length: usize| {
            let mut out = vec![0; length];
            let length = (length as u16).to_be_bytes();
            let labelled = [&length, &b"HPKE-v1"[..], suite, label.as_bytes(), info].concat();
            prk.expand(&[&labelled], Length(out.len()))
                .unwrap()
                .fill(&mut out)
                .unwrap();
            out
        };
        let kem = [&b"KEM"[..], &32_u16.to_be_bytes()].concat();
        let mine = agreement::PrivateKey::from_private_key(&agreement::X25519, private).unwrap();
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, enc);
        let eae = agreement::agree(&mine, peer, (), |dh| Ok(extract(&kem, &[], "eae_prk", dh))).unwrap();
        let shared = expand(&eae, &kem, "shared_secret", &[enc, public].concat(), 32);
        let suite = [
            &b"HPKE"[..],
            &32_u16.to_be_bytes(),
            &1_u16.to_be_bytes(),
            &aead.to_be_bytes(),
        ]
        .concat();
        // Extract is an HMAC; its output is read by expanding nothing else, so it is made by one.
        let digest = |label: &str, ikm: &[u8]| {
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[0; 32]);
            let message = [b"HPKE-v1", &suite[..], label.as_bytes(), ikm].concat();
            aws_lc_rs::hmac::sign(&key, &message).as_ref().to_vec()
        };
        let context = [&[0], &digest("psk_id_hash", &[])[..], &digest("info_hash", info)].concat();
        let secret = extract(&suite, &shared, "secret", &[]);
        let key = expand(&secret, &suite, "key", &context, key_length);
        let nonce = expand(&secret, &suite, "base_nonce", &context, 12);
        (shared, key, nonce)
    }

    pub(crate) fn hex(text: &str) -> Vec<u8> {
        let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    pub(crate) fn rfc() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../spec/vectors/hpke.json")).unwrap()
    }

    #[test]
    fn the_library_and_our_reading_agree_with_the_rfc() {
        let rfc = rfc();
        let of = |name: &str| hex(rfc[name].as_str().unwrap());
        let array = |name: &str| <[u8; 32]>::try_from(of(name)).unwrap();
        let opened = DH_KEM_X25519_HKDF_SHA256_AES_128
            .open(
                &EncapsulatedSecret(of("enc")),
                &of("info"),
                &of("aad"),
                &of("ciphertext"),
                &HpkePrivateKey::from(of("private_key")),
            )
            .unwrap();
        assert_eq!(opened, of("plaintext"));
        let (shared, key, nonce) = by_the_book(
            1,
            16,
            &array("private_key"),
            &array("public_key"),
            &of("enc"),
            &of("info"),
        );
        assert_eq!(shared, of("shared_secret"));
        assert_eq!(key, of("key"));
        assert_eq!(nonce, of("base_nonce"));
    }

    #[test]
    fn our_suite_is_the_same_with_a_longer_key() {
        let rfc = rfc();
        let private: [u8; 32] = hex(rfc["private_key"].as_str().unwrap()).try_into().unwrap();
        let public: [u8; 32] = hex(rfc["public_key"].as_str().unwrap()).try_into().unwrap();
        let (device, sender) = (DeviceHandle([1; 16]), KeyId([2; 8]));
        let sealed = seal(&[7; 32], &public, device, 3, sender).unwrap();
        let (enc, ciphertext) = sealed.split_at(KEY);
        let (_, key, nonce) = by_the_book(2, 32, &private, &public, enc, &info(device, 3));
        let key: [u8; 32] = key.try_into().unwrap();
        let opened = crate::aead::open(&key, nonce.try_into().unwrap(), &sender.0, ciphertext).unwrap();
        assert_eq!(*opened, [7; 32]);
        assert_eq!(*open(&sealed, &private, device, 3, sender).unwrap(), [7; 32]);
        assert!(open(&sealed, &private, device, 4, sender).is_none());
        assert!(open(&sealed, &private, DeviceHandle([0; 16]), 3, sender).is_none());
        assert!(open(&sealed, &private, device, 3, KeyId([3; 8])).is_none());
        assert!(open(&sealed, &[9; 32], device, 3, sender).is_none());
    }
}
