//! Any bytes as a certificate chain or a revocation list: never accepted, for nobody here has signed them.
#![no_main]

use hawser_identity::{CertificateDer, SignedRevocations, Trust};
use hawser_proto::UnixTime;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (Vec<u8>, Vec<u8>, Vec<u8>)| {
    let mut trust = Trust::new();
    let now = UnixTime(1_800_000_000);
    let chain = [&data.0, &data.1, &data.2].map(|der| CertificateDer::from(der.as_slice()));
    assert!(trust.verify(&chain, now).is_err());
    let _ = trust.add_root(&"acme".parse().expect("a name"), CertificateDer::from(data.2.clone()));
    assert!(trust.accept_revocations(&data.0, now).is_err());
    let _ = SignedRevocations::parse(&data.1);
});
