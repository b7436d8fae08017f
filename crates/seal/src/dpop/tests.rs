use super::*;

const URL: &str = "https://mail.example.org:8443/v1/stream";

#[test]
fn a_proof_is_for_one_request() {
    let key = SigningKey::generate().unwrap();
    let now = UnixTime::now();
    let proof = prove(&key, "GET", &format!("{URL}?after=7"), None, now).unwrap();
    let found = check(&proof, "GET", URL, None, now).unwrap();
    assert_eq!(found.thumbprint, key.public().thumbprint());
    assert!(matches!(check(&proof, "POST", URL, None, now), Err(DpopError::Request("method"))));
}
