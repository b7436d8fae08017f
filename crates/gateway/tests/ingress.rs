//! Clients from outside reach what a gateway publishes, through a real hub, with real clients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::Duration,
};

use common::*;
use futures_util::future::BoxFuture;
use hawser_gateway::{
    Gateway,
    ingress::{Handler, Visit},
};
use hawser_identity::{Fingerprint, read_certificates, tls};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};
use tokio_rustls::TlsConnector;

const NAME: &str = "devices.acme.example";

/// Says how the client came, once it has sent a head.
struct Page;

impl Handler for Page {
    fn visit(&self, mut visit: Visit) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = visit.stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            let body = format!("a page of {}, by root: {}", visit.name, visit.by_root);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = visit.stream.write_all(answer.as_bytes()).await;
            let _ = visit.stream.shutdown().await;
        })
    }
}

/// An authority of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not that of the certificates that it signs, which would be taken for self-signed.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let file = dir.join(format!("{name}.crt"));
        fs::write(&file, certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }

    /// A certificate for [`NAME`] and its key, each replaced as a whole.
    fn issue(&self, dir: &Path) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(path.with_extension("new"), text).unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
            path
        };
        [
            write("page.crt", certificate.pem()),
            write("page.key", key.serialize_pem()),
        ]
    }
}

async fn start(world: &World, tables: &str) -> (PathBuf, Gateway) {
    world.publish("acme", &[NAME]).await;
    let dir = world.domain("acme", "gw1", DAY).await;
    let table = format!("[broker]\nname = \"{NAME}\"\n{tables}");
    let gateway = gateway(&dir, &table, DAY).await;
    assert!(gateway.status().published.is_empty(), "nobody serves it yet");
    gateway.publish(Arc::new(Page));
    eventually(|| gateway.status().published.iter().any(|p| p.allowed)).await;
    (dir, gateway)
}

async fn curl(world: &World, authority: &Path, more: &[&str]) -> Output {
    let port = world.address.port();
    let work = Command::new("curl")
        .args(["-q", "-sS", "--noproxy", "*", "--max-time", "15", "--cacert"])
        .arg(authority)
        .args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")])
        .args(more)
        .arg(format!("https://{NAME}:{port}/"))
        .output();
    within(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_openssl_reach_a_page_that_the_gateway_terminates() {
    let world = World::new(&[]).await;
    let files = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|n| Authority::new(files.path(), n));
    let [certificate, key] = first.issue(files.path());
    let table = format!("certificate = {certificate:?}\nkey = {key:?}\n");
    let (dir, gateway) = start(&world, &table).await;

    let out = curl(&world, &first.file, &[]).await;
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        format!("a page of {NAME}, by root: false"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-servername", NAME])
        .args(["-verify_hostname", NAME, "-connect", &world.address.to_string()])
        .arg("-CAfile")
        .arg(&first.file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let out = within(client.wait_with_output()).await.unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.ends_with("by root: false"), "{said}");

    // Nobody else's certificate, and nothing but TLS 1.3.
    assert!(!curl(&world, &second.file, &[]).await.status.success());
    assert!(
        !curl(&world, &first.file, &["--tls-max", "1.2"])
            .await
            .status
            .success()
    );
    // A device that knows the root needs no authority.
    assert_eq!(
        device(&world, &dir).await,
        format!("a page of {NAME}, by root: true")
    );

    // The certificate is renewed by another authority.
    second.issue(files.path());
    within(async {
        while !curl(&world, &second.file, &[]).await.status.success() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(!curl(&world, &first.file, &[]).await.status.success());
    // One that cannot be used changes nothing.
    fs::write(&certificate, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(curl(&world, &second.file, &[]).await.status.success());
    assert_eq!(world.hub.status().publishes, [format!("acme may publish {NAME}")]);
    gateway.drain(Duration::from_secs(5)).await;
    // The hub hears of it a moment later.
    within(async {
        loop {
            let refused = curl(&world, &second.file, &[]).await;
            if String::from_utf8_lossy(&refused.stderr).contains("unrecognized name") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// What a device reads that trusts the domain's root alone.
async fn device(world: &World, dir: &Path) -> String {
    let chain = read_certificates(&dir.join("node.crt"), "the gateway's chain").unwrap();
    let root = Fingerprint::of_certificate(&chain[2]).unwrap();
    let config = tls::device_control("acme".parse().unwrap(), root).unwrap();
    let tcp = TcpStream::connect(world.address.to_string()).await.unwrap();
    let mut stream = within(TlsConnector::from(config).connect(NAME.try_into().unwrap(), tcp))
        .await
        .unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut said = String::new();
    within(stream.read_to_string(&mut said)).await.unwrap();
    said.rsplit("\r\n").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_given_certificate_devices_that_know_the_root_get_in_and_nobody_else() {
    let world = World::new(&[]).await;
    let (dir, gateway) = start(&world, "").await;
    assert!(device(&world, &dir).await.ends_with("by root: true"));
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new(files.path(), "some");
    let refused = curl(&world, &authority.file, &[]).await;
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("no application protocol"), "{why}");

    // The hub's operator takes the name away: the gateway hears of it, and nobody comes any more.
    world.publish("acme", &["other.acme.example"]).await;
    eventually(|| gateway.status().published.iter().all(|p| !p.allowed)).await;
    let refused = curl(&world, &authority.file, &[]).await;
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("unrecognized name"), "{why}");
    assert!(gateway.status().links.hubs[0].state.connected);
}
