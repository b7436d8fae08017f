//! Keys: P-256 for signatures (ES256), X25519 for sealing.

use std::{fmt, path::Path, sync::Arc};

use aws_lc_rs::{
    agreement,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_identity::{IdentityError, read_private, write_new_private};
use hawser_proto::broker::{
    KeyId,
    envelope::{SIGNATURE, encoded, whole},
    statement::{Signed, Statement},
};
use minicbor::{Decode, Encode};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::{SealError, aead, random, sha256};

/// Bytes of a P-256 public key (SEC 1, uncompressed).
const POINT: usize = 65;
/// Additional data of a device's wrapped keys.
const WRAPPED: &[u8] = b"hawser-device-keys/1\0";

/// A P-256 public key that is a point of its curve.
#[derive(Clone)]
pub struct PublicKey {
    bytes: [u8; POINT],
    parsed: Arc<ParsedPublicKey>,
}

/// A public key as JSON (RFC 7517): P-256 only.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Jwk {
    /// Always `P-256`.
    pub crv: String,
    /// Always `EC`.
    pub kty: String,
    /// base64url of 32 bytes.
    pub x: String,
    /// base64url of 32 bytes.
    pub y: String,
}

impl PublicKey {
    /// From its 65 bytes (SEC 1, uncompressed).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let refused = || SealError::Key {
            which: "signing",
            expected: "65 bytes of P-256 (SEC 1, uncompressed) that are a point of the curve",
        };
        let bytes: [u8; POINT] = bytes.try_into().map_err(|_| refused())?;
        if bytes[0] != 4 {
            return Err(refused());
        }
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).map_err(|_| refused())?;
        Ok(Self {
            bytes,
            parsed: Arc::new(parsed),
        })
    }

    /// From a JWK.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, SealError> {
        let refused = || SealError::Key {
            which: "signing",
            expected: "a JWK with kty EC, crv P-256, and x and y of 32 bytes each",
        };
        let mut bytes = [0; POINT];
        bytes[0] = 4;
        let (x, y) = bytes[1..].split_at_mut(32);
        let fits = |text: &str, to: &mut [u8]| matches!(URL_SAFE_NO_PAD.decode_slice(text, to), Ok(32));
        if jwk.kty != "EC" || jwk.crv != "P-256" || !fits(&jwk.x, x) || !fits(&jwk.y, y) {
            return Err(refused());
        }
        Self::from_bytes(&bytes)
    }

    /// Its 65 bytes.
    pub fn as_bytes(&self) -> &[u8; POINT] {
        &self.bytes
    }

    /// As JSON.
    pub fn jwk(&self) -> Jwk {
        Jwk {
            crv: "P-256".into(),
            kty: "EC".into(),
            x: URL_SAFE_NO_PAD.encode(&self.bytes[1..33]),
            y: URL_SAFE_NO_PAD.encode(&self.bytes[33..]),
        }
    }

    /// RFC 7638 thumbprint (SHA-256): what a mailbox knows a device by.
    pub fn thumbprint(&self) -> [u8; 32] {
        let Jwk { crv, kty, x, y } = self.jwk();
        sha256(format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}"#).as_bytes())
    }

    /// What headers and certificates call it.
    pub fn key_id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&sha256(&self.bytes)[..8]);
        KeyId(id)
    }

    /// Whether the holder signed this (r and s).
    pub fn signed(&self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

/// A thumbprint as RFC 7638 writes it.
pub fn thumbprint_text(thumbprint: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(thumbprint)
}

/// A P-256 private key. Clones share it.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<EcdsaKeyPair>,
    public: PublicKey,
}

impl SigningKey {
    /// Makes a key.
    pub fn generate() -> Result<Self, SealError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| SealError::Library("make a signing key"))?;
        Self::new(pair)
    }

    /// From PKCS#8 (DER).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SealError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| SealError::Key {
                which: "private signing",
                expected: "PKCS#8 (DER) of P-256",
            })?;
        Self::new(pair)
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, SealError> {
        let public = PublicKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self {
            pair: Arc::new(pair),
            public,
        })
    }

    /// As PKCS#8 (DER).
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let der = self
            .pair
            .to_pkcs8v1()
            .map_err(|_| SealError::Library("write a key"))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs bytes: r and s, 32 each.
    pub fn sign_bytes(&self, message: &[u8]) -> Result<[u8; SIGNATURE], SealError> {
        let failed = || SealError::Library("sign");
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_| failed())?;
        signature.as_ref().try_into().map_err(|_| failed())
    }

    /// Signs a statement.
    pub fn sign<T: Statement>(&self, statement: &T) -> Result<Signed<T>, SealError> {
        let payload = encoded(statement);
        let signature = self.sign_bytes(&[T::CONTEXT, &payload].concat())?;
        Ok(Signed::new(payload, signature))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.key_id())
    }
}

/// The key by which a domain signs to its devices: envelopes, skip records, certificates, tokens, receipts. Clones share it.
#[derive(Debug, Clone)]
pub struct SenderKey(SigningKey);

impl SenderKey {
    /// Reads the key (PKCS#8, PEM, mode 0600), or makes it there. Losing it means that all devices must enrol anew.
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        const EXPECTED: &str = "the key by which the domain signs to its devices (PKCS#8, PEM)";
        match read_private(path, EXPECTED) {
            Ok(pem) => return Self::parse(&pem),
            Err(IdentityError::Missing { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let key = SigningKey::generate()?;
        if write_new_private(path, pem(&key.to_pkcs8()?).as_bytes())? {
            return Ok(Self(key));
        }
        // Another process was first.
        Self::parse(&read_private(path, EXPECTED)?)
    }

    fn parse(pem: &[u8]) -> Result<Self, SealError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| SealError::Key {
            which: "sender",
            expected: "PKCS#8 in PEM form",
        })?;
        Ok(Self(SigningKey::from_pkcs8(der.secret_pkcs8_der())?))
    }

    /// What headers and certificates call it.
    pub fn key_id(&self) -> KeyId {
        self.0.public.key_id()
    }

    /// The public half, which devices pin.
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// Signs a statement.
    pub fn sign<T: Statement>(&self, statement: &T) -> Result<Signed<T>, SealError> {
        self.0.sign(statement)
    }

    /// The key itself, for what is no statement.
    pub fn key(&self) -> &SigningKey {
        &self.0
    }
}

impl From<SigningKey> for SenderKey {
    fn from(key: SigningKey) -> Self {
        Self(key)
    }
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 2 + 64));
    out.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END PRIVATE KEY-----\n");
    out
}

/// A device's two keys: it signs with one, and what is sealed to the other only it opens.
pub struct DeviceKeys {
    signing: SigningKey,
    sealing: Zeroizing<[u8; 32]>,
    sealing_public: [u8; 32],
}

/// [`DeviceKeys`] as kept.
#[derive(Encode, Decode)]
struct Kept {
    #[cbor(n(0), with = "minicbor::bytes")]
    signing: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    sealing: [u8; 32],
}

impl Drop for Kept {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.signing.zeroize();
        self.sealing.zeroize();
    }
}

impl DeviceKeys {
    /// Makes both.
    pub fn generate() -> Result<Self, SealError> {
        Self::new(SigningKey::generate()?, random()?)
    }

    /// From a signing key and the 32 bytes of an X25519 private key.
    pub fn new(signing: SigningKey, sealing: [u8; 32]) -> Result<Self, SealError> {
        let sealing = Zeroizing::new(sealing);
        let failed = || SealError::Library("reckon a public key");
        let private =
            agreement::PrivateKey::from_private_key(&agreement::X25519, &*sealing).map_err(|_| failed())?;
        let public = private.compute_public_key().map_err(|_| failed())?;
        Ok(Self {
            signing,
            sealing,
            sealing_public: public.as_ref().try_into().map_err(|_| failed())?,
        })
    }

    /// From [`DeviceKeys::to_wrapped`]; `None` inside: another key, or changed.
    pub fn from_wrapped(bytes: &[u8], key: &[u8; 32]) -> Result<Option<Self>, SealError> {
        let opened = bytes
            .split_first_chunk::<12>()
            .and_then(|(nonce, sealed)| aead::open(key, *nonce, WRAPPED, sealed));
        let Some(plain) = opened else { return Ok(None) };
        let kept: Kept = whole(&plain).map_err(|source| SealError::Malformed {
            what: "a device's keys are",
            source,
        })?;
        Self::new(SigningKey::from_pkcs8(&kept.signing)?, kept.sealing).map(Some)
    }

    /// Both private keys, encrypted (AES-256-GCM) under a key that only the user can make again.
    pub fn to_wrapped(&self, key: &[u8; 32]) -> Result<Vec<u8>, SealError> {
        let kept = Kept {
            signing: self.signing.to_pkcs8()?.to_vec(),
            sealing: *self.sealing,
        };
        let nonce = random::<12>()?;
        let sealed = aead::seal(key, nonce, WRAPPED, encoded(&kept))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Signs proofs, acknowledgements, requests.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The public half of the signing key.
    pub fn public(&self) -> &PublicKey {
        self.signing.public()
    }

    /// The public half of the sealing key (X25519).
    pub fn sealing_public(&self) -> &[u8; 32] {
        &self.sealing_public
    }

    pub(crate) fn sealing(&self) -> &[u8; 32] {
        &self.sealing
    }
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKeys({})", self.public().key_id())
    }
}
