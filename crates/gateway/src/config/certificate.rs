//! Where the certificate of a published name comes from: files, or `[gateway.acme]`.

use std::path::PathBuf;

use super::plan::Complaints;

/// Where the certificate of a public name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificatePlan {
    /// Nowhere: the name is for those who verify it by the domain's root.
    None,
    /// PEM files that somebody else renews.
    Files {
        /// The certificate, and those that lead to its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// `[gateway.acme]`.
    Acme,
}

/// What a table says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) certificate: &'a Option<PathBuf>,
    pub(super) key: &'a Option<PathBuf>,
    pub(super) acme: bool,
}

impl Said<'_> {
    /// What the table `at` means, where `[gateway.acme]` is there or not.
    pub(super) fn check(self, at: &str, issuer: bool, bad: &mut Complaints) -> Option<CertificatePlan> {
        match (self.certificate, self.key, self.acme) {
            (None, None, false) => Some(CertificatePlan::None),
            (None, None, true) if issuer => Some(CertificatePlan::Acme),
            (None, None, true) => {
                bad.add(
                    &format!("{at}.acme"),
                    "needs the table [gateway.acme], which says who issues certificates",
                );
                None
            }
            (Some(certificate), Some(key), false) => Some(CertificatePlan::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (_, _, true) => {
                bad.add(
                    at,
                    "acme takes the place of certificate and key: write the one or the others",
                );
                None
            }
            _ => {
                bad.add(at, "certificate and key go together: write both or neither");
                None
            }
        }
    }
}
