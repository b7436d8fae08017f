//! Forged ends: the hub as a TLS server or client of its own in a session between two gateways, with whatever certificates
//! and keys an attacker could have.
//!
//! The forger itself checks nothing of the other side, so that every refusal is the victim's.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use hawser_identity::file;
use hawser_proto::{
    ALPN_END_TO_END, NodeId, ServiceName,
    frame::MAX_FRAME_UNPROVED,
    session::{Open, Opened, REQUEST_ID, RequestId},
};
use hawser_session::frame::{read_frame, write_frame};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName as Name, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::middle::{Middle, with_ends};

/// What every forged answer holds: no client may ever see it.
pub const FORGED: &str = "forged by the hub";

/// A certificate chain and a key to show: somebody's, or made up.
#[derive(Debug, Clone)]
pub struct Mask {
    certified: Arc<CertifiedKey>,
}

impl Mask {
    /// A gateway's own certificates and key, stolen from its state directory.
    pub fn stolen(state: &Path) -> Result<Self> {
        let chain = chain(state)?;
        let key = PrivateKeyDer::from_pem_file(state.join(file::NODE_KEY))?;
        Self::new(chain, &key)
    }

    /// A gateway's own certificates, which the hub sees at its hop, with a key that does not belong to them.
    pub fn without_key(state: &Path) -> Result<Self> {
        Self::new(chain(state)?, &private(&KeyPair::generate()?))
    }

    /// A chain for `victim` made by a key of the hub's own as authority, under the names of the domain's real `root`, which
    /// the hub has since it admitted it. `show_real` puts the real root at the end of the chain instead of the copy.
    pub fn minted(
        key: &KeyPair,
        victim: &NodeId,
        root: &CertificateDer<'_>,
        show_real: bool,
    ) -> Result<Self> {
        let mut copy = named(&format!("spiffe://{}", victim.domain))?;
        copy.distinguished_name
            .push(DnType::CommonName, format!("Hawser root of {}", victim.domain));
        copy.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        copy.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let shown = if show_real {
            root.clone().into_owned()
        } else {
            copy.self_signed(key)?.der().clone()
        };
        let root_signer = Issuer::from_ca_cert_der(root, key)?;
        let issuer_key = KeyPair::generate()?;
        let mut params = named(&format!("spiffe://{}/issuer/{}", victim.domain, victim.name))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = params.signed_by(&issuer_key, &root_signer)?;
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf_params(victim)?.signed_by(&leaf_key, &Issuer::from_params(&params, &issuer_key))?;
        Self::new(
            vec![leaf.der().clone(), issuer.der().clone(), shown],
            &private(&leaf_key),
        )
    }

    /// A leaf for `victim` signed by the hub's own certificate, as it stands.
    pub fn signed_by_hub(key: &KeyPair, hub: &CertificateDer<'_>, victim: &NodeId) -> Result<Self> {
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf_params(victim)?.signed_by(&leaf_key, &Issuer::from_ca_cert_der(hub, key)?)?;
        Self::new(
            vec![leaf.der().clone(), hub.clone().into_owned()],
            &private(&leaf_key),
        )
    }

    /// A leaf for `victim` that a gateway's stolen key signs as if it were an authority.
    pub fn signed_by_gateway(state: &Path, victim: &NodeId) -> Result<Self> {
        let key = KeyPair::from_pem(&std::fs::read_to_string(state.join(file::NODE_KEY))?)?;
        let stolen = chain(state)?;
        let leaf_key = KeyPair::generate()?;
        let gateway = stolen.first().context("no certificate")?;
        let leaf = leaf_params(victim)?.signed_by(&leaf_key, &Issuer::from_ca_cert_der(gateway, key)?)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(stolen);
        Self::new(chain, &private(&leaf_key))
    }

    /// A leaf for `victim` by the stolen issuer key of another domain's gateway.
    pub fn by_issuer_of(state: &Path, victim: &NodeId) -> Result<Self> {
        let key = KeyPair::from_pem(&std::fs::read_to_string(state.join(file::ISSUER_KEY))?)?;
        let mut chain = chain(state)?;
        let issuer = chain.get(1).context("no issuer's certificate")?;
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf_params(victim)?.signed_by(&leaf_key, &Issuer::from_ca_cert_der(issuer, key)?)?;
        chain[0] = leaf.der().clone();
        Self::new(chain, &private(&leaf_key))
    }

    /// A leaf for `victim` that nobody signed but itself.
    pub fn self_signed(victim: &NodeId) -> Result<Self> {
        let key = KeyPair::generate()?;
        Self::new(
            vec![leaf_params(victim)?.self_signed(&key)?.der().clone()],
            &private(&key),
        )
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>) -> Result<Self> {
        let key = aws_lc_rs::sign::any_supported_type(key)?;
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, key)),
        })
    }

    /// The certificates that are shown.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// A middle that plays the called gateway behind this mask and answers everything with [`FORGED`]. It tells `note` what
    /// the caller asked of it, or why it came to nothing.
    pub fn in_its_place(
        &self,
        note: impl Fn(Result<String, String>) + Clone + Send + Sync + 'static,
    ) -> Middle {
        let mask = self.clone();
        with_ends(move |ends| {
            let (mask, note) = (mask.clone(), note.clone());
            async move { note(mask.serve(ends.dialling).await.map_err(|e| format!("{e:#}"))) }
        })
    }

    /// Plays the called gateway on a raw stream; what it was asked.
    pub async fn serve(&self, stream: TcpStream) -> Result<String> {
        let mut stream = TlsAcceptor::from(self.server()?).accept(stream).await?;
        let open: Open = read_frame(&mut stream, MAX_FRAME_UNPROVED).await?;
        let asked = format!("{open:?}");
        match open {
            Open::Http { .. } => {
                let answer = |_: Request<Incoming>| async {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(
                        FORGED.as_bytes(),
                    ))))
                };
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await?;
            }
            _ => {
                write_frame(&mut stream, &Opened::Accepted).await?;
                stream.write_all(FORGED.as_bytes()).await?;
                stream.shutdown().await?;
            }
        }
        Ok(asked)
    }

    /// Calls an HTTP service of a gateway on a raw stream, behind this mask; the status and body that came.
    pub async fn call(
        &self,
        stream: TcpStream,
        service: &ServiceName,
        target: &NodeId,
    ) -> Result<(u16, String)> {
        let mut stream = self.connect(stream).await?;
        write_frame(&mut stream, &Open::Http { bulk: false }).await?;
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(format!("http://{service}.{}.hawser/", target.domain))
            .header("hawser-service", service.as_str())
            .header("hawser-request-id", RequestId([7; REQUEST_ID]).to_string())
            .header(header::USER_AGENT, "hostile")
            .body(Empty::<Bytes>::new())?;
        let answered = send.send_request(request).await;
        let answer = match answered {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.into_body().collect().await?.to_bytes();
                Ok((status, String::from_utf8_lossy(&body).into_owned()))
            }
            Err(e) => Err(anyhow::Error::new(e)),
        };
        drop(send);
        connection.abort();
        answer
    }

    /// Calls a TCP service; what the gateway said to it.
    pub async fn open(&self, stream: TcpStream, service: &ServiceName) -> Result<Opened> {
        let mut stream = self.connect(stream).await?;
        write_frame(
            &mut stream,
            &Open::Tcp {
                service: service.clone(),
                request: RequestId([7; REQUEST_ID]),
            },
        )
        .await?;
        Ok(read_frame(&mut stream, MAX_FRAME_UNPROVED).await?)
    }

    async fn connect(&self, stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = hawser_identity::tls::server_name();
        Ok(TlsConnector::from(self.client()?).connect(name, stream).await?)
    }

    fn server(&self) -> Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ALPN_END_TO_END.to_vec()];
        Ok(Arc::new(config))
    }

    fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ALPN_END_TO_END.to_vec()];
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Mask {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.clone())
    }
}

impl ResolvesClientCert for Mask {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A gateway's certificates: leaf, issuer, root.
pub fn chain(state: &Path) -> Result<Vec<CertificateDer<'static>>> {
    Ok(hawser_identity::read_certificates(
        &state.join(file::NODE_CERTIFICATE),
        "a gateway's certificates",
    )?)
}

fn leaf_params(id: &NodeId) -> Result<CertificateParams> {
    let mut params = named(&id.to_string())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    Ok(params)
}

fn named(uri: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = Name::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes anybody for anybody.
#[derive(Debug)]
struct Anybody;

impl Anybody {
    fn schemes() -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
