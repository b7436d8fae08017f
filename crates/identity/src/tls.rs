//! The TLS configurations of all connections: TLS 1.3 only, no tickets, no resumption, no 0-RTT, and no server name sent but
//! by devices, which are told by it what they ask for.
//!
//! Resumption stays off because verifiers are not asked on it: a peer that was revoked would get in again. Servers refuse a
//! client that does not offer the right protocol (ALPN); clients ask [`check_protocol`] after the handshake.

mod applications;
mod verify;

use std::sync::Arc;

use hawser_proto::{
    ALPN_DEVICE, ALPN_END_TO_END, ALPN_HOP, ALPN_JOIN, ALPN_REPLICATION, DomainName, NodeId, UnixTime,
};
use rustls::{
    ClientConfig, CommonState, ServerConfig,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    pki_types::{CertificateDer, ServerName},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use crate::error::Utc;
use crate::{Fingerprint, Given, HubIdentity, IdentityError, Proved, SharedCredentials, SharedTrust, Trust};
pub use applications::publishing_server;
use verify::{Clients, Gateway, IssuerByRoot, Pinned, Who};

/// ALPN of the session between a joiner without a certificate and an issuer of its domain.
pub const ALPN_ENROL: &[u8] = b"hawser-enrol/1";

/// A hub towards gateways and hosts of admitted domains ([`ALPN_HOP`]): a client certificate is mandatory.
pub fn hub_hop(hub: &HubIdentity, trust: SharedTrust) -> Result<Arc<ServerConfig>, IdentityError> {
    let own = Own::Hub(hub.clone());
    server(
        provider(hop_groups()),
        Some(Clients::new(trust, Who::Nodes)),
        own,
        ALPN_HOP,
    )
}

/// A hub towards holders of a one-time token ([`ALPN_JOIN`]): no client certificate.
pub fn hub_join(hub: &HubIdentity) -> Result<Arc<ServerConfig>, IdentityError> {
    server(provider(hop_groups()), None, Own::Hub(hub.clone()), ALPN_JOIN)
}

/// A hub's mailbox towards devices that pin its key ([`ALPN_DEVICE`]): no client certificate, devices prove themselves inside.
pub fn hub_device(hub: &HubIdentity) -> Result<Arc<ServerConfig>, IdentityError> {
    server(provider(hop_groups()), None, Own::Hub(hub.clone()), ALPN_DEVICE)
}

/// A gateway under a published name, towards devices that know its domain's root by fingerprint ([`ALPN_DEVICE`]).
pub fn gateway_device(own: SharedCredentials) -> Result<Arc<ServerConfig>, IdentityError> {
    server(provider(hop_groups()), None, Own::Node(own), ALPN_DEVICE)
}

/// A public name towards everybody who trusts public certificates. HTTP/1.1, where the client says what it speaks.
pub fn public_server(given: Arc<Given>) -> Result<Arc<ServerConfig>, IdentityError> {
    server_with(provider(hop_groups()), None, given, b"http/1.1")
}

/// The same for a name that speaks HTTP/2 as well.
pub fn public_web_server(given: Arc<Given>) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut config = public_server(given)?;
    Arc::make_mut(&mut config)
        .alpn_protocols
        .insert(0, b"h2".to_vec());
    Ok(config)
}

/// A device towards the mailbox of a hub whose key it pins ([`ALPN_DEVICE`]). The server's name is sent.
pub fn device_mailbox(pin: Fingerprint) -> Result<Arc<ClientConfig>, IdentityError> {
    named(client(
        provider(hop_groups()),
        Pinned::new(pin),
        None,
        ALPN_DEVICE,
    )?)
}

/// A device towards the gateway of a domain whose root it knows by fingerprint ([`ALPN_DEVICE`]). The server's name is sent.
pub fn device_control(domain: DomainName, root: Fingerprint) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = IssuerByRoot::new(domain, root);
    named(client(provider(hop_groups()), verifier, None, ALPN_DEVICE)?)
}

/// A gateway or host towards a hub whose key is pinned ([`ALPN_HOP`]).
pub fn hop_client(own: SharedCredentials, pin: Fingerprint) -> Result<Arc<ClientConfig>, IdentityError> {
    client(provider(hop_groups()), Pinned::new(pin), Some(own), ALPN_HOP)
}

/// A holder of a one-time token towards the hub that it pins ([`ALPN_JOIN`]).
pub fn join_client(pin: Fingerprint) -> Result<Arc<ClientConfig>, IdentityError> {
    client(provider(hop_groups()), Pinned::new(pin), None, ALPN_JOIN)
}

/// The dialling node of an end-to-end session ([`ALPN_END_TO_END`]); only `expect` is accepted at the other end.
pub fn end_to_end_client(
    own: SharedCredentials,
    trust: SharedTrust,
    expect: NodeId,
) -> Result<Arc<ClientConfig>, IdentityError> {
    client(
        provider(end_to_end_groups()),
        Gateway::new(trust, expect),
        Some(own),
        ALPN_END_TO_END,
    )
}

/// The accepting gateway of an end-to-end session ([`ALPN_END_TO_END`]). Any gateway of an accepted domain gets in, and hosts of
/// the own one, which come to renew their certificates: compare [`proved`] with whom the hub announced, and look at its role.
pub fn end_to_end_server(
    own: SharedCredentials,
    trust: SharedTrust,
) -> Result<Arc<ServerConfig>, IdentityError> {
    server(
        provider(end_to_end_groups()),
        Some(Clients::new(trust, Who::Gateways(own.clone()))),
        Own::Node(own),
        ALPN_END_TO_END,
    )
}

/// A joiner, which has no certificate yet, towards a gateway of the domain whose root it knows by fingerprint
/// ([`ALPN_ENROL`]).
pub fn enrol_client(domain: DomainName, root: Fingerprint) -> Result<Arc<ClientConfig>, IdentityError> {
    client(
        provider(end_to_end_groups()),
        IssuerByRoot::new(domain, root),
        None,
        ALPN_ENROL,
    )
}

/// An issuer's gateway towards joiners ([`ALPN_ENROL`]): no client certificate, a token's HMAC comes inside.
pub fn enrol_server(own: SharedCredentials) -> Result<Arc<ServerConfig>, IdentityError> {
    server(provider(end_to_end_groups()), None, Own::Node(own), ALPN_ENROL)
}

/// The dialling host of a replication channel ([`ALPN_REPLICATION`]); only `expect` is accepted at the other end.
pub fn host_client(
    own: SharedCredentials,
    trust: SharedTrust,
    expect: NodeId,
) -> Result<Arc<ClientConfig>, IdentityError> {
    client(
        provider(end_to_end_groups()),
        Gateway::new(trust, expect),
        Some(own),
        ALPN_REPLICATION,
    )
}

/// The accepting host of a replication channel ([`ALPN_REPLICATION`]). Hosts of its own domain get in, and nobody else.
pub fn host_server(own: SharedCredentials, trust: SharedTrust) -> Result<Arc<ServerConfig>, IdentityError> {
    server(
        provider(end_to_end_groups()),
        Some(Clients::new(trust, Who::Hosts(own.clone()))),
        Own::Node(own),
        ALPN_REPLICATION,
    )
}

/// Who the peer of a finished handshake is (`peer_certificates()`), judged by this trust now.
pub fn proved(trust: &Trust, certificates: Option<&[CertificateDer<'_>]>) -> Result<Proved, IdentityError> {
    trust.verify(certificates.unwrap_or_default(), UnixTime::now())
}

/// Whether the other side agreed to this protocol (ALPN). To be asked after each handshake.
pub fn check_protocol(connection: &CommonState, expected: &[u8]) -> Result<(), IdentityError> {
    let found = connection.alpn_protocol();
    if found == Some(expected) {
        return Ok(());
    }
    let text = |protocol: &[u8]| String::from_utf8_lossy(protocol).into_owned();
    Err(IdentityError::Protocol {
        expected: text(expected),
        found: found.map_or_else(|| "none".into(), text),
    })
}

/// What went wrong in a handshake, for people. Errors of [`tokio_rustls`](https://docs.rs/tokio-rustls) come as I/O errors.
pub fn explain(error: &std::io::Error) -> String {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(inner) => explain_tls(inner),
        None => error.to_string(),
    }
}

/// As [`explain`], for rustls' own error.
pub fn explain_tls(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    match error {
        Error::InvalidCertificate(Bad::Other(other)) => other.to_string(),
        Error::InvalidCertificate(Bad::Revoked) => "the certificate of the other side was revoked".into(),
        Error::InvalidCertificate(Bad::ExpiredContext { time, not_after }) => format!(
            "the certificate of the other side ended at {}, and it is {} here (UTC): it must renew, or the clocks be set right",
            Utc(UnixTime(not_after.as_secs())),
            Utc(UnixTime(time.as_secs()))
        ),
        Error::InvalidCertificate(Bad::NotValidYetContext { time, not_before }) => format!(
            "the certificate of the other side begins at {}, and it is {} here (UTC): set the clocks right",
            Utc(UnixTime(not_before.as_secs())),
            Utc(UnixTime(time.as_secs()))
        ),
        Error::NoCertificatesPresented => IdentityError::NoCertificate.to_string(),
        Error::AlertReceived(Alert::CertificateRevoked) => {
            "the other side says that our certificate was revoked: join again under a new name".into()
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "the other side says that our certificate is not in force now: renew it, or set the clocks right".into()
        }
        Error::AlertReceived(Alert::CertificateUnknown) => {
            "the other side does not accept our certificate: is our domain admitted, or peered, there?".into()
        }
        Error::AlertReceived(Alert::NoApplicationProtocol) => {
            "the other side does not speak this protocol: it is no Hawser, of another version, or another of its roles".into()
        }
        other => other.to_string(),
    }
}

/// What to give rustls as the name of any server: it is neither sent nor compared.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into())
}

/// Hybrid post-quantum key exchange where the other side has it.
fn hop_groups() -> Vec<&'static dyn rustls::crypto::SupportedKxGroup> {
    vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1]
}

/// Both ends are ours: nothing less than the hybrid.
fn end_to_end_groups() -> Vec<&'static dyn rustls::crypto::SupportedKxGroup> {
    vec![kx_group::X25519MLKEM768]
}

fn provider(kx_groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups,
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn server(
    provider: Arc<CryptoProvider>,
    clients: Option<Clients>,
    own: Own,
    alpn: &'static [u8],
) -> Result<Arc<ServerConfig>, IdentityError> {
    server_with(provider, clients, Arc::new(own), alpn)
}

fn server_with(
    provider: Arc<CryptoProvider>,
    clients: Option<Clients>,
    own: Arc<dyn ResolvesServerCert>,
    alpn: &'static [u8],
) -> Result<Arc<ServerConfig>, IdentityError> {
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| make(&e))?;
    let builder = match clients {
        Some(verifier) => {
            builder.with_client_cert_verifier(Arc::new(verifier) as Arc<dyn ClientCertVerifier>)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(own);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client(
    provider: Arc<CryptoProvider>,
    server: impl ServerCertVerifier + 'static,
    own: Option<SharedCredentials>,
    alpn: &'static [u8],
) -> Result<Arc<ClientConfig>, IdentityError> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| make(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(server));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(Own::Node(own))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// The same, sending the name of the server.
fn named(mut config: Arc<ClientConfig>) -> Result<Arc<ClientConfig>, IdentityError> {
    Arc::make_mut(&mut config).enable_sni = true;
    Ok(config)
}

fn make(error: &rustls::Error) -> IdentityError {
    IdentityError::Make {
        what: "TLS configuration",
        detail: error.to_string(),
    }
}

/// Where a party's own certificate comes from.
#[derive(Debug)]
enum Own {
    Hub(HubIdentity),
    Node(SharedCredentials),
}

impl Own {
    fn certified(&self) -> Arc<CertifiedKey> {
        match self {
            Own::Hub(hub) => hub.certified(),
            Own::Node(credentials) => credentials.load().certified(),
        }
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls refuses a client that offers other protocols only; one that offers none is refused here.
        hello.alpn().map(|_| self.certified())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
