//! Fingerprints of public keys, for pins and for people to compare.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;

use crate::{IdentityError, certificate::Certificate};

const PREFIX: &str = "sha256:";

/// SHA-256 of a SubjectPublicKeyInfo (as in RFC 7469), written `sha256:` and 64 hex digits. It names a key, so it stays the
/// same when a certificate for that key is renewed.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(transparent)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// Text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: expected {PREFIX} and 64 hexadecimal digits")]
pub struct FingerprintError;

impl Fingerprint {
    /// Of the key in a certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        Ok(Certificate::parse("presented", certificate)?.fingerprint())
    }

    /// Of a SubjectPublicKeyInfo (DER).
    pub fn of_key(spki: &[u8]) -> Self {
        Self(sha256(spki))
    }

    /// Twelve words (BIP-39, English) of the first 16 bytes: to be read out over the telephone.
    pub fn words(&self) -> String {
        match bip39::Mnemonic::from_entropy(&self.0[..16]) {
            Ok(words) => words.words().collect::<Vec<_>>().join(" "),
            // Only another length than 16 to 32 bytes is refused.
            Err(_) => String::new(),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let hex = text.strip_prefix(PREFIX).ok_or(FingerprintError)?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(FingerprintError);
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| FingerprintError)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Domain;
    use proptest::prelude::*;

    #[test]
    fn it_is_of_the_key_not_of_the_certificate() {
        let acme = Domain::new("acme");
        let of = |gateway: &crate::Credentials| Fingerprint::of_certificate(&gateway.chain()[0]).unwrap();
        let first = acme.gateway("gw1");
        let request = first.key().csr().unwrap();
        let renewed = acme.issuer.issue(first.id(), &request, crate::LEAF_LIFE).unwrap();
        assert_ne!(renewed[0], first.chain()[0]);
        assert_eq!(Fingerprint::of_certificate(&renewed[0]).unwrap(), of(&first));
        assert_eq!(of(&first), first.key().fingerprint());
        assert_ne!(of(&first), of(&acme.gateway("gw1")));
    }

    /// The same as `openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum`, for a certificate made elsewhere.
    #[test]
    fn it_is_what_other_tools_say() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let der = STANDARD
            .decode(include_str!("../testdata/elsewhere.b64").replace('\n', ""))
            .unwrap();
        let text = Fingerprint::of_certificate(&der.into()).unwrap().to_string();
        assert_eq!(text, include_str!("../testdata/elsewhere.sha256").trim());
    }

    #[test]
    fn the_words_are_those_of_bip_39() {
        // From the test vectors of BIP-39.
        let zeros = Fingerprint([0; 32]);
        assert_eq!(zeros.words(), format!("{}about", "abandon ".repeat(11)));
        let ones = Fingerprint([0x7f; 32]).words();
        assert_eq!(
            ones,
            "legal winner thank year wave sausage worth useful legal winner thank yellow"
        );
    }

    #[test]
    fn text_that_is_none_is_refused() {
        let good = Fingerprint([0xab; 32]).to_string();
        assert!(good.parse::<Fingerprint>().is_ok());
        let upper = good.replace("ab", "AB");
        assert_eq!(upper.parse::<Fingerprint>().unwrap().to_string(), good);
        let bad = [
            String::new(),
            "sha256:".into(),
            good[7..].into(),
            good[..70].into(),
            format!("{good}0"),
            format!(" {good}"),
        ];
        for text in bad
            .into_iter()
            .chain([good.replacen('a', "+", 1), good.replacen("ab", "ä", 1)])
        {
            assert!(text.parse::<Fingerprint>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}", bytes: [u8; 32]) {
            prop_assert!(text.parse::<Fingerprint>().is_err());
            let fingerprint = Fingerprint(bytes);
            prop_assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
            let json = serde_json::to_string(&fingerprint).unwrap();
            prop_assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
            prop_assert_eq!(fingerprint.words().split(' ').count(), 12);
        }
    }
}
