//! AES-256-GCM with nonces that are given, each used once for a key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::SealError;

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;

fn key(bytes: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, bytes).ok().map(LessSafeKey::new)
}

/// Ciphertext and tag.
pub(crate) fn seal(
    bytes: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    mut plain: Vec<u8>,
) -> Result<Vec<u8>, SealError> {
    let failed = || SealError::Library("encrypt");
    plain.reserve_exact(TAG);
    key(bytes)
        .ok_or_else(failed)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut plain)
        .map_err(|_| failed())?;
    Ok(plain)
}

/// What [`seal`] was given; `None`: another key, nonce or additional data, or changed.
pub(crate) fn open(
    bytes: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let length = key(bytes)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer)
        .ok()?
        .len();
    buffer.truncate(length);
    Some(buffer)
}
