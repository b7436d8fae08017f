use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_hub_keeps_its_key() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("hub");
    let made = HubIdentity::load_or_create(&dir).unwrap();
    let again = HubIdentity::load_or_create(&dir).unwrap();
    assert_eq!(made.pin(), again.pin());
    assert_eq!(made.certificate(), again.certificate());
    assert_eq!(
        Fingerprint::of_certificate(made.certificate()).unwrap(),
        made.pin()
    );
    for name in [file::HUB_KEY, file::HUB_CERTIFICATE] {
        assert_eq!(std::fs::metadata(dir.join(name)).unwrap().mode() & 0o7777, 0o600);
    }
    // The certificate is a wrapping: another one for the same key has the same pin.
    std::fs::remove_file(dir.join(file::HUB_CERTIFICATE)).unwrap();
    assert_eq!(HubIdentity::load_or_create(&dir).unwrap().pin(), made.pin());
    // The key is not, and is never made anew behind the operator's back.
    std::fs::remove_file(dir.join(file::HUB_KEY)).unwrap();
    let refused = HubIdentity::load_or_create(&dir).unwrap_err();
    assert!(refused.to_string().contains("restore it"), "{refused}");
}

#[test]
fn of_two_who_start_at_once_one_makes_the_key() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("hub");
    let pins: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| HubIdentity::load_or_create(&dir).unwrap().pin()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(pins.iter().all(|pin| *pin == pins[0]));
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        2,
        "no temporary file is left"
    );
}
