use super::*;
use crate::testing::Domain;

#[test]
fn certificates_come_back_from_pem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.crt");
    let gateway = Domain::new("acme").gateway("gw1");
    write_certificates(&path, gateway.chain()).unwrap();
    assert_eq!(read_certificates(&path, "a chain").unwrap(), gateway.chain());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| line.len() <= 64));
    // As openssl and other tools write it, with text around.
    fs::write(&path, format!("subject=x\r\n{}", text.replace('\n', "\r\n"))).unwrap();
    assert_eq!(read_certificates(&path, "a chain").unwrap(), gateway.chain());
    assert!(
        read_certificate(&path, "one").is_err(),
        "several where one is expected"
    );
}

#[test]
fn what_is_no_certificate_is_refused_with_the_name_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.crt");
    let missing = read_certificates(&path, "a chain").unwrap_err().to_string();
    assert!(
        missing.contains("x.crt") && missing.contains("a chain"),
        "{missing}"
    );
    for junk in [
        "",
        "junk",
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&path, junk).unwrap();
        let refused = read_certificates(&path, "a chain").unwrap_err().to_string();
        assert!(refused.contains("x.crt"), "{refused}");
    }
    fs::write(&path, vec![b'a'; MAX_FILE as usize + 1]).unwrap();
    assert!(read_certificates(&path, "a chain").is_err());
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    write(&path, b"a longer first content").unwrap();
    write(&path, b"second").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(write(&dir.path().join("none/x"), b"").is_err());
}
