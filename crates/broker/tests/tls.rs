//! Applications that prove themselves by a client certificate instead of a token.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use hawser_broker::{Broker, Directory, Settings};
use hawser_identity::tls::publishing_server;
use hawser_store::Store;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn certificate(name: &str) -> (KeyPair, rcgen::Certificate) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (key, certificate)
}

async fn ask(
    broker: &Broker,
    trusted: &CertificateDer<'static>,
    own: Option<&(KeyPair, rcgen::Certificate)>,
) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let config = match own {
        Some((key, certificate)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate.der().clone()], key)
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(broker.status().listen[0]).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/v1/deliveries/none").header("host", "localhost");
    let answer = send
        .send_request(request.body(Full::<bytes::Bytes>::default()).unwrap())
        .await
        .unwrap();
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_known_by_the_certificate_that_it_holds_the_key_of() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = Store::open(&state).unwrap();
    let (server, application, stranger) =
        (certificate("localhost"), certificate("mail"), certificate("mail"));
    let files = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    std::fs::write(&files.0, server.1.pem()).unwrap();
    std::fs::write(&files.1, server.0.serialize_pem()).unwrap();
    let hash = hawser_seal::sha256(application.1.der());
    let directory = Directory::new(&store);
    directory
        .add_application(&"mail".parse().unwrap(), Some(hash))
        .await
        .unwrap();
    let settings = Settings {
        state,
        domain: "acme".parse().unwrap(),
        control: "https://devices.acme.example".into(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        clients: vec!["127.0.0.0/8".parse().unwrap()],
        tls: Some(publishing_server(&files.0, &files.1).unwrap()),
        ttl: Duration::from_secs(60),
        inline_max: 4096,
    };
    let broker = Broker::start(settings, &store, &mut Registry::default())
        .await
        .unwrap();
    let trusted = server.1.der();
    assert_eq!(
        ask(&broker, trusted, Some(&application)).await,
        404,
        "let in, and no such delivery"
    );
    assert_eq!(ask(&broker, trusted, Some(&stranger)).await, 401);
    assert_eq!(ask(&broker, trusted, None).await, 401);
}
