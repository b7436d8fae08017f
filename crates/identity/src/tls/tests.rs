use std::sync::Arc;

use arc_swap::ArcSwap;
use hawser_proto::DomainName;
use rustls::{
    AlertDescription, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection,
    server::Acceptor,
};

use super::*;
use crate::{
    Credentials, LEAF_LIFE, NodeKey,
    testing::{Domain, Forger, domain, id, issuer_params, leaf_params, root_params, trust},
};

/// How a handshake in memory ended.
struct Ended {
    client: ClientConnection,
    server: ServerConnection,
    client_error: Option<rustls::Error>,
    server_error: Option<rustls::Error>,
}

impl Ended {
    fn ok(&self) -> bool {
        self.client_error.is_none() && self.server_error.is_none()
    }
}

/// Runs a handshake until nobody has anything left to say.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Ended {
    let mut ended = Ended {
        client: ClientConnection::new(client.clone(), server_name()).unwrap(),
        server: ServerConnection::new(server.clone()).unwrap(),
        client_error: None,
        server_error: None,
    };
    for _ in 0..10 {
        let mut flight = Vec::new();
        while ended.client.wants_write() {
            ended.client.write_tls(&mut flight).unwrap();
        }
        ended.server.read_tls(&mut flight.as_slice()).unwrap();
        if let Err(e) = ended.server.process_new_packets() {
            ended.server_error.get_or_insert(e);
        }
        let mut flight = Vec::new();
        while ended.server.wants_write() {
            ended.server.write_tls(&mut flight).unwrap();
        }
        ended.client.read_tls(&mut flight.as_slice()).unwrap();
        if let Err(e) = ended.client.process_new_packets() {
            ended.client_error.get_or_insert(e);
        }
    }
    ended
}

/// The alert that a side received.
fn alert(error: &Option<rustls::Error>) -> Option<AlertDescription> {
    match error {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

struct Fixture {
    acme: Domain,
    one: SharedCredentials,
    two: SharedCredentials,
    trust: SharedTrust,
    hub: HubIdentity,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let acme = Domain::new("acme");
        Self {
            one: acme.gateway("gw1").shared(),
            two: acme.gateway("gw2").shared(),
            trust: trust(&[&acme]).shared(),
            hub: HubIdentity::load_or_create(dir.path()).unwrap(),
            acme,
            _dir: dir,
        }
    }

    fn end_to_end(&self) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        (
            end_to_end_client(
                self.one.clone(),
                self.trust.clone(),
                id("spiffe://acme/gateway/gw2"),
            )
            .unwrap(),
            end_to_end_server(self.two.clone(), self.trust.clone()).unwrap(),
        )
    }

    fn hop(&self) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        (
            hop_client(self.one.clone(), self.hub.pin()).unwrap(),
            hub_hop(&self.hub, self.trust.clone()).unwrap(),
        )
    }

    /// All five pairs that meet.
    fn pairs(&self) -> [(Arc<ClientConfig>, Arc<ServerConfig>, &'static [u8]); 4] {
        let (hop, e2e) = (self.hop(), self.end_to_end());
        [
            (hop.0, hop.1, ALPN_HOP),
            (
                join_client(self.hub.pin()).unwrap(),
                hub_join(&self.hub).unwrap(),
                ALPN_JOIN,
            ),
            (e2e.0, e2e.1, ALPN_END_TO_END),
            (
                enrol_client(self.acme.name.clone(), self.acme.root.fingerprint()).unwrap(),
                enrol_server(self.two.clone()).unwrap(),
                ALPN_ENROL,
            ),
        ]
    }
}

#[test]
fn those_who_belong_together_meet_and_nothing_is_resumed() {
    let fixture = Fixture::new();
    for (client, server, alpn) in fixture.pairs() {
        for _ in 0..2 {
            let ended = shake(&client, &server);
            assert!(ended.ok(), "{:?} {:?}", ended.client_error, ended.server_error);
            assert_eq!(ended.client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(ended.server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(ended.client.tls13_tickets_received(), 0);
            for common in [&*ended.client as &CommonState, &*ended.server as &CommonState] {
                assert_eq!(common.protocol_version(), Some(ProtocolVersion::TLSv1_3));
                assert_eq!(
                    common.negotiated_key_exchange_group().unwrap().name(),
                    NamedGroup::X25519MLKEM768
                );
                assert!(check_protocol(common, alpn).is_ok());
                assert!(check_protocol(common, b"other").is_err());
            }
        }
    }
}

#[test]
fn who_is_proved_is_the_leaf() {
    let fixture = Fixture::new();
    let (client, server) = fixture.end_to_end();
    let ended = shake(&client, &server);
    let trust = fixture.trust.load();
    assert_eq!(
        proved(&trust, ended.server.peer_certificates()).unwrap().id,
        id("spiffe://acme/gateway/gw1")
    );
    assert_eq!(
        proved(&trust, ended.client.peer_certificates()).unwrap().id,
        id("spiffe://acme/gateway/gw2")
    );
    assert!(matches!(proved(&trust, None), Err(IdentityError::NoCertificate)));
    assert!(
        proved(&Trust::new(), ended.server.peer_certificates()).is_err(),
        "trust taken back meanwhile"
    );
}

/// A peer that would resume, with everything rustls has for it, gets nothing to resume with, and is judged again.
#[test]
fn a_revoked_peer_does_not_get_in_again_by_resumption() {
    let fixture = Fixture::new();
    for (client, server) in [fixture.hop(), fixture.end_to_end()] {
        let mut eager = (*client).clone();
        eager.resumption = Resumption::in_memory_sessions(8);
        eager.enable_early_data = true;
        let eager = Arc::new(eager);
        let before = fixture.trust.load_full();
        let first = shake(&eager, &server);
        assert!(first.ok());
        assert_eq!(first.client.tls13_tickets_received(), 0);
        let mut trust = (*before).clone();
        trust.revoke(id("spiffe://acme/gateway/gw1"));
        fixture.trust.store(Arc::new(trust));
        let second = shake(&eager, &server);
        assert!(matches!(
            second.server_error,
            Some(rustls::Error::InvalidCertificate(
                rustls::CertificateError::Revoked
            ))
        ));
        assert_eq!(
            alert(&second.client_error),
            Some(AlertDescription::CertificateRevoked),
            "and it is told why"
        );
        fixture.trust.store(before);
        assert_eq!(
            shake(&eager, &server).client.handshake_kind(),
            Some(HandshakeKind::Full)
        );
    }
}

#[test]
fn revocation_of_a_server_is_in_force_at_the_next_handshake() {
    let fixture = Fixture::new();
    let (client, server) = fixture.end_to_end();
    assert!(shake(&client, &server).ok());
    let mut trust = trust(&[&fixture.acme]);
    trust.revoke(id("spiffe://acme/gateway/gw2"));
    fixture.trust.store(Arc::new(trust));
    assert!(shake(&client, &server).client_error.is_some());
}

#[test]
fn a_renewed_certificate_is_shown_from_the_next_handshake_on() {
    let fixture = Fixture::new();
    let (client, server) = fixture.end_to_end();
    let leaf = |ended: &Ended| ended.server.peer_certificates().unwrap()[0].clone();
    let first = leaf(&shake(&client, &server));
    let own = fixture.one.load_full();
    let chain = fixture
        .acme
        .issuer
        .issue(own.id(), &own.key().csr().unwrap(), LEAF_LIFE)
        .unwrap();
    fixture
        .one
        .store(Arc::new(Credentials::new(chain, own.key()).unwrap()));
    let second = leaf(&shake(&client, &server));
    assert_ne!(first, second);
    assert_eq!(second, fixture.one.load().chain()[0]);
}

#[test]
fn a_hub_of_another_key_is_refused() {
    let fixture = Fixture::new();
    let wrong = Fingerprint([1; 32]);
    let (_, hop) = fixture.hop();
    let pinned = [
        (hop_client(fixture.one.clone(), wrong).unwrap(), hop),
        (join_client(wrong).unwrap(), hub_join(&fixture.hub).unwrap()),
    ];
    for (client, server) in pinned {
        let ended = shake(&client, &server);
        let text = explain_tls(&ended.client_error.unwrap());
        assert!(text.contains("is it the right address"), "{text}");
        assert!(
            ended.server.peer_certificates().is_none(),
            "and is not shown the client's certificate"
        );
    }
}

#[test]
fn a_hub_cannot_stand_in_for_a_gateway() {
    let fixture = Fixture::new();
    let (client, _) = fixture.end_to_end();
    // With its own key, and with chains of its own making.
    let root = Forger::root(root_params("acme"));
    let issuer = root.sign(issuer_params("spiffe://acme/issuer/gw1"));
    let key = NodeKey::create().unwrap();
    let forged = forged_leaf(&issuer, &root, "spiffe://acme/gateway/gw2", &key);
    let server = end_to_end_server(forged.clone().shared_for_test(), fixture.trust.clone()).unwrap();
    assert!(shake(&client, &server).client_error.is_some());
    let own = server_of(Own::Hub(fixture.hub.clone()), ALPN_END_TO_END);
    assert!(shake(&client, &own).client_error.is_some());
    // Towards the other side.
    let (_, server) = fixture.end_to_end();
    let client = end_to_end_client(
        forged.shared_for_test(),
        fixture.trust.clone(),
        id("spiffe://acme/gateway/gw2"),
    )
    .unwrap();
    let ended = shake(&client, &server);
    assert!(ended.server_error.is_some());
    assert!(ended.client_error.is_some());
}

#[test]
fn a_stolen_chain_is_worth_nothing_without_its_key() {
    let fixture = Fixture::new();
    let (client, server) = fixture.end_to_end();
    let key = rcgen::KeyPair::generate().unwrap();
    let stolen = crate::node::certified(fixture.two.load().chain().to_vec(), &key).unwrap();
    let mut thief = (*server).clone();
    thief.cert_resolver = Arc::new(Fixed(Arc::new(stolen)));
    assert!(shake(&client, &Arc::new(thief)).client_error.is_some());
    let stolen = crate::node::certified(fixture.one.load().chain().to_vec(), &key).unwrap();
    let mut thief = (*client).clone();
    thief.client_auth_cert_resolver = Arc::new(Fixed(Arc::new(stolen)));
    assert!(shake(&Arc::new(thief), &server).server_error.is_some());
}

#[test]
fn swapped_peers_are_noticed() {
    let fixture = Fixture::new();
    let (client, _) = fixture.end_to_end();
    // Another gateway of the same domain, properly certified, is not the one asked for.
    let three = fixture.acme.gateway("gw3").shared();
    let server = end_to_end_server(three, fixture.trust.clone()).unwrap();
    let text = explain_tls(&shake(&client, &server).client_error.unwrap());
    assert!(
        text.starts_with("expected spiffe://acme/gateway/gw2, but spiffe://acme/gateway/gw3"),
        "{text}"
    );
}

#[test]
fn gateways_without_an_accepted_root_or_certificate_do_not_get_in() {
    let fixture = Fixture::new();
    let beta = Domain::new("beta").gateway("gw1").shared();
    let hop = hub_hop(&fixture.hub, fixture.trust.clone()).unwrap();
    let stranger = hop_client(beta.clone(), fixture.hub.pin()).unwrap();
    assert!(shake(&stranger, &hop).server_error.is_some());
    let (_, e2e) = fixture.end_to_end();
    let both = trust(&[&fixture.acme]).shared();
    let stranger = end_to_end_client(beta, both, id("spiffe://acme/gateway/gw2")).unwrap();
    assert!(shake(&stranger, &e2e).server_error.is_some());
    for (client, server) in [fixture.hop(), fixture.end_to_end()] {
        let mut bare = (*client).clone();
        bare.client_auth_cert_resolver = Arc::new(Nothing);
        let ended = shake(&Arc::new(bare), &server);
        assert_eq!(ended.server_error, Some(rustls::Error::NoCertificatesPresented));
    }
}

#[test]
fn who_ended_is_told_so() {
    let fixture = Fixture::new();
    let key = NodeKey::create().unwrap();
    let mut params = leaf_params(&["spiffe://acme/gateway/gw1"]);
    crate::testing::set_time(&mut params, -7200, -3600);
    let root = Forger::root(root_params("acme"));
    let issuer = root.sign(issuer_params("spiffe://acme/issuer/gw1"));
    let signer = rcgen::Issuer::from_params(&issuer.params, &issuer.key);
    let leaf = params.signed_by(&spki(&key), &signer).unwrap();
    let ended = Credentials::new(vec![leaf.into(), issuer.der.clone(), root.der.clone()], &key).unwrap();
    let mut trust = Trust::new();
    trust.add_root(&domain("acme"), root.der).unwrap();
    let client = hop_client(ended.shared(), fixture.hub.pin()).unwrap();
    let shaken = shake(&client, &hub_hop(&fixture.hub, trust.shared()).unwrap());
    assert_eq!(
        alert(&shaken.client_error),
        Some(AlertDescription::CertificateExpired)
    );
}

#[test]
fn the_protocol_must_be_the_right_one() {
    let fixture = Fixture::new();
    for (client, server, alpn) in fixture.pairs() {
        let mut other = (*client).clone();
        other.alpn_protocols = vec![b"h2".to_vec()];
        let ended = shake(&Arc::new(other), &server);
        assert_eq!(
            alert(&ended.client_error),
            Some(AlertDescription::NoApplicationProtocol)
        );
        let mut none = (*client).clone();
        none.alpn_protocols.clear();
        assert!(
            shake(&Arc::new(none), &server).server_error.is_some(),
            "a client that names none"
        );
        // A server that lets any protocol pass is noticed by the client.
        let mut careless = (*server).clone();
        careless.alpn_protocols.clear();
        let ended = shake(&client, &Arc::new(careless));
        assert!(ended.client_error.is_some() || check_protocol(&ended.client, alpn).is_err());
    }
    // What a joiner may say is not what a gateway may say, and the other way round.
    let (hop, _) = fixture.hop();
    assert!(!shake(&hop, &hub_join(&fixture.hub).unwrap()).ok());
    let join = join_client(fixture.hub.pin()).unwrap();
    assert!(!shake(&join, &hub_hop(&fixture.hub, fixture.trust.clone()).unwrap()).ok());
}

#[test]
fn a_host_reaches_hubs_and_the_gateways_of_its_own_domain() {
    let fixture = Fixture::new();
    let host = fixture.acme.host("h1").shared();
    let hop = hub_hop(&fixture.hub, fixture.trust.clone()).unwrap();
    assert!(shake(&hop_client(host.clone(), fixture.hub.pin()).unwrap(), &hop).ok());
    let (_, own) = fixture.end_to_end();
    let to = |trust: &SharedTrust, name| end_to_end_client(host.clone(), trust.clone(), id(name)).unwrap();
    assert!(shake(&to(&fixture.trust, "spiffe://acme/gateway/gw2"), &own).ok());
    let beta = Domain::new("beta");
    let both = trust(&[&fixture.acme, &beta]).shared();
    let peer = end_to_end_server(beta.gateway("gw1").shared(), both.clone()).unwrap();
    let refused = shake(&to(&both, "spiffe://beta/gateway/gw1"), &peer)
        .server_error
        .unwrap();
    let text = explain_tls(&refused);
    assert!(
        text.starts_with("spiffe://acme/host/h1 has no business here"),
        "{text}"
    );
}

#[test]
fn hosts_meet_hosts_of_their_own_domain_only() {
    let fixture = Fixture::new();
    let beta = Domain::new("beta");
    let both = trust(&[&fixture.acme, &beta]).shared();
    let own = fixture.acme.host("h1").shared();
    let server = host_server(own, both.clone()).unwrap();
    let dial = |who: &SharedCredentials, name| host_client(who.clone(), both.clone(), id(name)).unwrap();
    let sibling = fixture.acme.host("h2").shared();
    assert!(shake(&dial(&sibling, "spiffe://acme/host/h1"), &server).ok());
    let other = shake(&dial(&sibling, "spiffe://acme/host/h3"), &server);
    assert!(other.client_error.is_some());
    for who in [
        fixture.one.clone(),
        beta.host("h1").shared(),
        beta.gateway("h1").shared(),
    ] {
        let refused = shake(&dial(&who, "spiffe://acme/host/h1"), &server)
            .server_error
            .unwrap();
        let text = explain_tls(&refused);
        assert!(text.contains("expected a host of the own domain"), "{text}");
    }
}

#[test]
fn a_host_cannot_stand_in_for_a_gateway_or_an_issuer() {
    let fixture = Fixture::new();
    let host = fixture.acme.host("gw2").shared();
    let (client, _) = fixture.end_to_end();
    let server = end_to_end_server(host.clone(), fixture.trust.clone()).unwrap();
    let text = explain_tls(&shake(&client, &server).client_error.unwrap());
    assert!(
        text.starts_with("expected spiffe://acme/gateway/gw2, but spiffe://acme/host/gw2"),
        "{text}"
    );
    let joiner = enrol_client(domain("acme"), fixture.acme.root.fingerprint()).unwrap();
    let ended = shake(&joiner, &enrol_server(host).unwrap());
    let text = explain_tls(&ended.client_error.unwrap());
    assert!(text.contains("expected a gateway"), "{text}");
}

#[test]
fn a_joiner_knows_its_issuer_by_the_root() {
    let fixture = Fixture::new();
    let server = enrol_server(fixture.two.clone()).unwrap();
    let joiner = |name: DomainName, root| enrol_client(name, root).unwrap();
    let root = fixture.acme.root.fingerprint();
    let met = shake(&joiner(domain("acme"), root), &server);
    assert!(met.ok());
    // Both ends derive the same value, to which the token's HMAC is bound.
    let mut values = [[0; 32]; 2];
    met.client
        .export_keying_material(&mut values[0], b"EXPORTER-hawser-join", None)
        .unwrap();
    met.server
        .export_keying_material(&mut values[1], b"EXPORTER-hawser-join", None)
        .unwrap();
    assert_eq!(values[0], values[1]);
    assert!(
        shake(&joiner(domain("acme"), Fingerprint([0; 32])), &server)
            .client_error
            .is_some()
    );
    assert!(
        shake(&joiner(domain("beta"), root), &server)
            .client_error
            .is_some()
    );
    // The right root shown by somebody whom it did not certify.
    let evil = Domain::new("acme").gateway("gw1");
    let mut chain = evil.chain().to_vec();
    chain[2] = fixture.acme.root.certificate().clone();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut sly = (*server).clone();
    sly.cert_resolver = Arc::new(Fixed(Arc::new(crate::node::certified(chain, &key).unwrap())));
    assert!(
        shake(&joiner(domain("acme"), root), &Arc::new(sly))
            .client_error
            .is_some()
    );
    // A hub with its own key.
    let hub = server_of(Own::Hub(fixture.hub.clone()), ALPN_ENROL);
    assert!(shake(&joiner(domain("acme"), root), &hub).client_error.is_some());
}

#[test]
fn an_older_key_exchange_or_version_does_not_do() {
    let fixture = Fixture::new();
    let (client, server) = fixture.end_to_end();
    let classical = Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let weak_server = ServerConfig::builder_with_provider(classical.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(server.cert_resolver.clone());
    assert!(!shake(&client, &Arc::new(weak_server)).ok());
    let weak = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let mut config = ClientConfig::builder_with_provider(classical.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(fixture.hub.pin())))
            .with_client_cert_resolver(client.client_auth_cert_resolver.clone());
        config.alpn_protocols = vec![ALPN_END_TO_END.to_vec(), ALPN_HOP.to_vec()];
        Arc::new(config)
    };
    assert!(
        !shake(&weak(&[&TLS13]), &server).ok(),
        "end to end: the hybrid or nothing"
    );
    assert!(!shake(&weak(&[&rustls::version::TLS12]), &server).ok());
    let (_, hop) = fixture.hop();
    assert!(shake(&weak(&[&TLS13]), &hop).ok(), "a hop is content with X25519");
    assert!(!shake(&weak(&[&rustls::version::TLS12]), &hop).ok());
}

#[test]
fn a_client_tells_no_server_name() {
    let fixture = Fixture::new();
    for (client, _, alpn) in fixture.pairs() {
        let mut connection = ClientConnection::new(client, server_name()).unwrap();
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).unwrap();
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut hello.as_slice()).unwrap();
        let accepted = acceptor.accept().unwrap().unwrap();
        assert_eq!(accepted.client_hello().server_name(), None);
        assert_eq!(
            accepted.client_hello().alpn().unwrap().collect::<Vec<_>>(),
            [alpn]
        );
    }
}

/// A server with somebody's certificate, that asks for none.
fn server_of(own: Own, alpn: &'static [u8]) -> Arc<ServerConfig> {
    server(provider(end_to_end_groups()), None, own, alpn).unwrap()
}

fn spki(key: &NodeKey) -> rcgen::SubjectPublicKeyInfo {
    let csr = rcgen::CertificateSigningRequestParams::from_der(&key.csr().unwrap().into()).unwrap();
    rcgen::SubjectPublicKeyInfo::from_der(&rcgen::PublicKeyData::subject_public_key_info(&csr.public_key))
        .unwrap()
}

/// Credentials that are consistent in themselves, under roots that nobody has accepted.
#[derive(Clone)]
struct Forged(Vec<CertificateDer<'static>>, NodeKey);

impl Forged {
    fn shared_for_test(self) -> SharedCredentials {
        Arc::new(ArcSwap::from_pointee(Credentials::new(self.0, &self.1).unwrap()))
    }
}

fn forged_leaf(issuer: &Forger, root: &Forger, uri: &str, key: &NodeKey) -> Forged {
    let signer = rcgen::Issuer::from_params(&issuer.params, &issuer.key);
    let leaf = leaf_params(&[uri]).signed_by(&spki(key), &signer).unwrap();
    Forged(
        vec![leaf.into(), issuer.der.clone(), root.der.clone()],
        key.clone(),
    )
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
