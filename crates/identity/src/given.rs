//! Certificates that an operator gives: those by which browsers know a public name. They are read from PEM files, and again
//! whenever these change, so that whatever renews them needs to tell nobody.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use hawser_proto::{HostName, UnixTime};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use crate::{
    IdentityError,
    certificate::Certificate,
    error::Utc,
    files::{read, read_certificates},
};

/// A certificate chain and key in use, and the files that they come from.
pub struct Given {
    name: HostName,
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Chain>,
    stamp: Mutex<Stamp>,
}

struct Chain {
    certified: Arc<CertifiedKey>,
    not_after: UnixTime,
}

/// By which a change of the two files is noticed: node, length and time of change of each.
type Stamp = [(u64, u64, i64, i64); 2];

impl Given {
    /// Reads the files. The first certificate must be for `name`, in force, and for the key.
    pub fn load(name: &HostName, certificate: &Path, key: &Path) -> Result<Arc<Self>, IdentityError> {
        // Before the reading: what changes in between is read again.
        let stamp = stamp(certificate, key)?;
        let chain = chain(name, certificate, key)?;
        Ok(Arc::new(Self {
            name: name.clone(),
            certificate: certificate.into(),
            key: key.into(),
            current: ArcSwap::from_pointee(chain),
            stamp: Mutex::new(stamp),
        }))
    }

    /// Reads the files again if they have changed; whether they had. When they cannot be used what was in use stays, and they
    /// are read again at the next call. Blocks for a moment.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stamp(&self.certificate, &self.key)?;
        if *known == found {
            return Ok(false);
        }
        let chain = chain(&self.name, &self.certificate, &self.key)?;
        self.current.store(Arc::new(chain));
        *known = found;
        Ok(true)
    }

    /// The name that it is for.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> UnixTime {
        self.current.load().not_after
    }

    /// Whether it comes from these files.
    pub fn is_of(&self, certificate: &Path, key: &Path) -> bool {
        self.certificate == certificate && self.key == key
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Given({})", self.name)
    }
}

impl ResolvesServerCert for Given {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }
}

fn chain(name: &HostName, certificate: &Path, key: &Path) -> Result<Chain, IdentityError> {
    let bad = |detail: String| IdentityError::File {
        path: certificate.into(),
        detail,
    };
    let chain = read_certificates(
        certificate,
        "the certificate of the public name, and those above it",
    )?;
    let (text, _) = read(key, "the private key of the public name's certificate")?;
    let unusable = |detail: String| IdentityError::File {
        path: key.into(),
        detail,
    };
    let der = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|e| unusable(format!("no private key in PEM form: {e}")))?;
    let signing = any_supported_type(&der).map_err(|e| unusable(format!("cannot be used: {e}")))?;
    let leaf = &chain[0];
    let times = Certificate::parse("public", leaf)?;
    let now = UnixTime::now();
    if times.not_after <= now {
        return Err(IdentityError::Expired {
            who: name.to_string(),
            not_after: Utc(times.not_after),
            now: Utc(now),
        });
    }
    let subject = ServerName::try_from(name.as_str()).map_err(|e| bad(e.to_string()))?;
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| leaf.verify_is_valid_for_subject_name(&subject))
        .map_err(|_| {
            bad(format!(
                "the first certificate is not for {name}: name another file"
            ))
        })?;
    let not_after = times.not_after;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|_| {
        unusable(format!(
            "not the key of the first certificate in {}: while both are being replaced this passes by itself",
            certificate.display()
        ))
    })?;
    Ok(Chain {
        certified: Arc::new(certified),
        not_after,
    })
}

fn stamp(certificate: &Path, key: &Path) -> Result<Stamp, IdentityError> {
    let of = |path: &Path| match fs::metadata(path) {
        Ok(m) => Ok((m.ino(), m.len(), m.mtime(), m.mtime_nsec())),
        Err(e) => Err(IdentityError::File {
            path: path.into(),
            detail: e.to_string(),
        }),
    };
    Ok([of(certificate)?, of(key)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn write(dir: &Path, names: &[&str], key: &KeyPair) -> (PathBuf, PathBuf) {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(key).unwrap();
        let paths = (dir.join("tls.crt"), dir.join("tls.key"));
        fs::write(&paths.0, certificate.pem()).unwrap();
        fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn files_are_read_again_when_they_change_and_a_bad_change_keeps_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let name: HostName = "devices.acme.example".parse().unwrap();
        let first = KeyPair::generate().unwrap();
        let (certificate, key) = write(dir.path(), &["devices.acme.example"], &first);
        let given = Given::load(&name, &certificate, &key).unwrap();
        assert!(!given.refresh().unwrap());
        let before = given.current.load_full();

        let second = KeyPair::generate().unwrap();
        fs::write(&key, second.serialize_pem() + "\n").unwrap();
        let error = given.refresh().unwrap_err().to_string();
        assert!(error.contains("not the key of the first certificate"), "{error}");
        assert!(given.refresh().is_err(), "it is tried again");
        assert!(Arc::ptr_eq(&before, &given.current.load_full()));

        write(dir.path(), &["*.acme.example"], &second);
        assert!(given.refresh().unwrap());
        assert!(!Arc::ptr_eq(&before, &given.current.load_full()));
        fs::remove_file(&certificate).unwrap();
        assert!(given.refresh().is_err());
    }

    #[test]
    fn a_certificate_for_another_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = write(dir.path(), &["www.acme.example"], &KeyPair::generate().unwrap());
        let name: HostName = "devices.acme.example".parse().unwrap();
        let error = Given::load(&name, &certificate, &key).unwrap_err().to_string();
        assert!(error.contains("is not for devices.acme.example"), "{error}");
    }
}
