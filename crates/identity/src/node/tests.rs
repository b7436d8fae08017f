use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::{
    LEAF_LIFE,
    testing::{Domain, id, trust},
};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn credentials_come_back_from_their_files_which_are_nobody_elses() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state/gateway");
    let gateway = Domain::new("acme").gateway("gw1");
    gateway.save(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
    for name in [file::NODE_KEY, file::NODE_CERTIFICATE] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        2,
        "no temporary file is left"
    );
    let back = Credentials::load(&dir).unwrap();
    assert_eq!(back.id(), gateway.id());
    assert_eq!(back.chain(), gateway.chain());
    assert_eq!(back.key().fingerprint(), gateway.key().fingerprint());
    assert_eq!(back.root(), gateway.root());
}

#[test]
fn the_half_life_is_the_middle() {
    let gateway = Domain::new("acme").gateway("gw1");
    let (from, to) = (gateway.not_before(), gateway.not_after());
    let half: UnixTime = gateway.half_life().into();
    assert_eq!(half.0, from.0 + (to.0 - from.0) / 2);
    assert!(half < to && from < half);
}

#[test]
fn each_certificate_of_the_chain_says_when_it_ends() {
    let acme = Domain::new("acme");
    let gateway = acme.gateway("gw1");
    let ends: Vec<_> = gateway
        .chain()
        .iter()
        .map(|der| crate::validity(der).unwrap().1)
        .collect();
    assert_eq!(
        ends,
        [
            gateway.not_after(),
            acme.issuer.not_after(),
            acme.root.not_after()
        ]
    );
    assert_eq!(
        crate::validity(&gateway.chain()[0]).unwrap().0,
        gateway.not_before()
    );
    assert!(crate::validity(&b"junk".to_vec().into()).is_err());
}

#[test]
fn a_chain_of_another_key_or_in_itself_inconsistent_is_refused() {
    let (acme, other) = (Domain::new("acme"), Domain::new("acme"));
    let (mine, theirs) = (acme.gateway("gw1"), other.gateway("gw1"));
    let wrong_key = Credentials::new(mine.chain().to_vec(), theirs.key());
    assert!(matches!(wrong_key, Err(IdentityError::Key { .. })));
    let mix = |leaf: &Credentials, issuer: &Credentials, root: &Credentials| {
        vec![
            leaf.chain()[0].clone(),
            issuer.chain()[1].clone(),
            root.chain()[2].clone(),
        ]
    };
    assert!(Credentials::new(mix(&mine, &theirs, &theirs), mine.key()).is_err());
    assert!(Credentials::new(mix(&mine, &mine, &theirs), mine.key()).is_err());
    assert!(Credentials::new(mix(&mine, &mine, &mine), mine.key()).is_ok());
    for length in 0..3 {
        assert!(Credentials::new(mine.chain()[..length].to_vec(), mine.key()).is_err());
    }
}

#[test]
fn one_that_has_ended_can_still_be_loaded() {
    let acme = Domain::new("acme");
    let key = NodeKey::create().unwrap();
    let long_ago = UnixTime::now();
    let chain = acme.issuer.issue_at(
        &id("spiffe://acme/gateway/gw1"),
        &key.csr().unwrap(),
        Duration::ZERO,
        long_ago,
    );
    let ended = Credentials::new(chain.unwrap(), &key).unwrap();
    assert!(ended.not_after() <= UnixTime::now());
    assert!(
        trust(&[&acme])
            .verify(ended.chain(), ended.not_after().plus(LEAF_LIFE))
            .is_err()
    );
}

#[test]
fn key_files_open_to_others_are_refused_and_missing_ones_explained() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    assert!(matches!(NodeKey::load(&dir), Err(IdentityError::Missing { .. })));
    NodeKey::create().unwrap().save(&dir).unwrap();
    let missing = Credentials::load(&dir).unwrap_err();
    assert!(missing.to_string().contains("hawser join"), "{missing}");
    let path = dir.join(file::NODE_KEY);
    for open in [0o640, 0o604, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
        let refused = NodeKey::load(&dir).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        NodeKey::create().unwrap().save(&dir),
        Err(IdentityError::OpenToOthers { .. })
    ));
}

#[test]
fn what_is_no_key_is_said_without_being_quoted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.path().join(file::NODE_KEY);
    for junk in [
        "",
        "secret passphrase",
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
    ] {
        crate::files::write(&path, junk.as_bytes()).unwrap();
        let error = NodeKey::load(dir.path()).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
    }
}
