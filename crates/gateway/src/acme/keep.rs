//! What outlives the process, in `acme` of the state directory: the account, the certificates, and the record in the DNS that is to
//! be taken away. Files of mode 0600, replaced as a whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hawser_identity::{Given, IdentityError, prepare_dir, read_private, write_private};
use hawser_proto::HostName;
use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct Keep(PathBuf);

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its name, absolute.
    pub(super) name: String,
    /// Its value.
    pub(super) value: String,
}

#[derive(Serialize, Deserialize)]
struct Account {
    directory: String,
    uri: String,
    credentials: AccountCredentials,
}

impl Keep {
    /// In this state directory.
    pub(crate) fn new(state: &Path) -> Self {
        Self(state.join("acme"))
    }

    /// The file with a name's certificate, the authorities above it, and its key.
    pub(crate) fn certificate(&self, name: &HostName) -> PathBuf {
        self.0.join(format!("{name}.pem"))
    }

    /// Whether the certificate comes from the authority with this directory.
    pub(super) fn is_from(&self, name: &HostName, directory: &str) -> bool {
        fs::read_to_string(self.issuer(name)).is_ok_and(|from| from.trim_end() == directory)
    }

    fn issuer(&self, name: &HostName) -> PathBuf {
        self.0.join(format!("{name}.directory"))
    }

    /// Puts a new certificate from this directory in the place of the old one, if it can be used.
    pub(super) fn replace(
        &self,
        name: &HostName,
        directory: &str,
        chain: &str,
        key: &str,
    ) -> Result<(), IdentityError> {
        prepare_dir(&self.0)?;
        let new = self.0.join(format!("{name}.new"));
        let text = Zeroizing::new(format!("{}\n{}\n", chain.trim_end(), key.trim_end()));
        write_private(&new, text.as_bytes())?;
        Given::load(name, &new, &new)?;
        let place = self.certificate(name);
        fs::rename(&new, &place).map_err(|e| failed(&place, &e))?;
        // After the certificate: one whose origin is not known is got anew.
        write_private(&self.issuer(name), format!("{directory}\n").as_bytes())
    }

    /// The account at this directory, if there is one.
    pub(super) fn account(&self, directory: &str) -> Result<Option<AccountCredentials>, IdentityError> {
        Ok(self.account_at(directory)?.map(|a| a.credentials))
    }

    /// Its URI.
    pub(super) fn account_uri(&self, directory: &str) -> Result<Option<String>, IdentityError> {
        Ok(self.account_at(directory)?.map(|a| a.uri))
    }

    fn account_at(&self, directory: &str) -> Result<Option<Account>, IdentityError> {
        let account: Option<Account> = self.read("account.json", "the ACME account")?;
        Ok(account.filter(|a| a.directory == directory))
    }

    /// Keeps a new account.
    pub(super) fn set_account(
        &self,
        directory: &str,
        uri: &str,
        credentials: AccountCredentials,
    ) -> Result<(), IdentityError> {
        self.write(
            "account.json",
            &Account {
                directory: directory.into(),
                uri: uri.into(),
                credentials,
            },
        )
    }

    /// Forgets the account, which the authority does not know any more.
    pub(super) fn forget_account(&self) -> Result<(), IdentityError> {
        self.remove("account.json")
    }

    /// The record that an attempt left behind.
    pub(super) fn record(&self) -> Result<Option<Record>, IdentityError> {
        self.read("record.json", "the record that is to be taken away")
    }

    /// A record that is about to be set.
    pub(super) fn set_record(&self, record: &Record) -> Result<(), IdentityError> {
        self.write("record.json", record)
    }

    /// The record is away.
    pub(super) fn forget_record(&self) -> Result<(), IdentityError> {
        self.remove("record.json")
    }

    fn read<T: for<'a> Deserialize<'a>>(
        &self,
        file: &str,
        expected: &'static str,
    ) -> Result<Option<T>, IdentityError> {
        let path = self.0.join(file);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_private(&path, expected)?;
        let value = serde_json::from_slice(&text).map_err(|e| IdentityError::File {
            path,
            detail: format!("{e}: expected {expected}; delete the file to begin anew"),
        })?;
        Ok(Some(value))
    }

    fn write<T: Serialize>(&self, file: &str, value: &T) -> Result<(), IdentityError> {
        prepare_dir(&self.0)?;
        let path = self.0.join(file);
        let text = serde_json::to_vec(value).map_err(|e| IdentityError::File {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        write_private(&path, &Zeroizing::new(text))
    }

    fn remove(&self, file: &str) -> Result<(), IdentityError> {
        let path = self.0.join(file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&path, &e)),
            _ => Ok(()),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> IdentityError {
    IdentityError::File {
        path: path.into(),
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_cannot_be_used_replaces_nothing_and_files_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path());
        let name: HostName = "devices.acme.example".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let good = |n: &str| {
            let params = CertificateParams::new(vec![n.to_owned()]).unwrap();
            params.self_signed(&key).unwrap().pem()
        };
        let directory = "https://ca.example/directory";
        keep.replace(
            &name,
            directory,
            &good("devices.acme.example"),
            &key.serialize_pem(),
        )
        .unwrap();
        assert!(keep.is_from(&name, directory) && !keep.is_from(&name, "https://ca.example/other"));
        let before = fs::read(keep.certificate(&name)).unwrap();
        let other = keep.replace(&name, directory, &good("www.acme.example"), &key.serialize_pem());
        assert!(other.unwrap_err().to_string().contains("is not for"));
        assert_eq!(before, fs::read(keep.certificate(&name)).unwrap());

        let record = Record {
            name: "_acme-challenge.devices.acme.example.".into(),
            value: "x".into(),
        };
        keep.set_record(&record).unwrap();
        assert_eq!(keep.record().unwrap(), Some(record));
        for file in [
            "devices.acme.example.pem",
            "devices.acme.example.directory",
            "record.json",
        ] {
            let mode = fs::metadata(dir.path().join("acme").join(file)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{file}");
        }
        keep.forget_record().unwrap();
        keep.forget_record().unwrap();
        assert_eq!(keep.record().unwrap(), None);
    }
}
