//! Figures rather than bounds, one at a time, since all tests share a process:
//! `cargo test -p hawser-hub --lib -- --ignored --nocapture an_idle_stream`, and `deposits_and_deliveries`.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use hawser_identity::{HubIdentity, tls};
use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        mailbox::{FromMailbox, ToMailbox},
    },
};
use hawser_seal::SigningKey;
use hawser_session::record::Records;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::rig::*;
use crate::mailbox::MailboxLimits;

const STREAMS: usize = 1000;
/// Tells a re-executed test binary to act as the devices: where the hub's state and their keys are, and its address.
const DIR: &str = "HAWSER_MEASURE_DIR";
const ADDRESS: &str = "HAWSER_MEASURE_ADDRESS";

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<usize>()
        .unwrap()
        * 1024
}

fn device(dir: &std::path::Path, n: usize) -> Device {
    let path = dir.join(format!("{n}.key"));
    let key = match std::fs::read(&path) {
        Ok(der) => SigningKey::from_pkcs8(&der).unwrap(),
        Err(_) => {
            let key = SigningKey::generate().unwrap();
            std::fs::write(&path, &*key.to_pkcs8().unwrap()).unwrap();
            key
        }
    };
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(&n.to_be_bytes());
    Device {
        handle: DeviceHandle(handle),
        key,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn an_idle_stream() {
    let rig = Rig::with(MailboxLimits::default()).await;
    let keys = tempfile::tempdir().unwrap();
    let identity = HubIdentity::load_or_create(keys.path()).unwrap();
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    for n in 0..STREAMS {
        gateway.admit(&device(keys.path(), n)).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls::hub_device(&identity).unwrap());
    let mailbox = rig.mailbox.clone();
    let door = rig.door.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, from) = listener.accept().await.unwrap();
            let (acceptor, mailbox) = (acceptor.clone(), mailbox.clone());
            let place = door.enter(from.ip()).unwrap();
            tokio::spawn(async move {
                let stream = acceptor.accept(Records::new(tcp)).await.unwrap();
                tokio::spawn(mailbox.serve(stream, from, place));
            });
        }
    });
    let devices = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mailbox::tests::measure::devices", "--nocapture"])
        .env(DIR, keys.path())
        .env(ADDRESS, address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut devices = Killed(devices);
    let out = devices.0.stdout.take().unwrap();
    let mut lines = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .filter(|l| l.starts_with("open "));
    tokio::task::block_in_place(|| lines.next().unwrap());
    let before = resident();
    drop(devices.0.stdin.take());
    tokio::task::block_in_place(|| lines.next().unwrap());
    until("all are idle", || rig.mailbox.status().streams == STREAMS).await;
    // The handshakes' tasks have gone, too.
    until("the door is empty", || rig.door.len() == 0).await;
    let after = resident();
    let each = after.saturating_sub(before) as f64 / (STREAMS - STREAMS / 10) as f64 / 1024.0;
    println!("{each:.1} KiB for each idle stream under TLS");
    let begin = Instant::now();
    let acme: std::sync::Arc<str> = "acme".into();
    for n in 0..STREAMS {
        rig.mailbox.cut(&acme, &device(keys.path(), n).handle);
    }
    until("all are cut", || rig.mailbox.status().streams == 0).await;
    println!("{STREAMS} streams cut in {:?}", begin.elapsed());
}

/// Ends the other process with the test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other process of [`an_idle_stream`]; nothing by itself.
#[tokio::test]
async fn devices() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let address = std::env::var(ADDRESS).unwrap();
    let identity = HubIdentity::load_or_create(&dir).unwrap();
    let connector = TlsConnector::from(tls::device_mailbox(identity.pin()).unwrap());
    let mut open = Vec::new();
    for n in 0..STREAMS {
        if n == STREAMS / 10 {
            println!("open {n}");
            tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
                .await
                .unwrap()
                .unwrap();
        }
        let device = device(&dir, n);
        let tcp = TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(tls::server_name(), tcp).await.unwrap();
        let proof = device.proof("GET", "/v1/stream", UnixTime::now());
        let head = format!(
            "GET /v1/stream HTTP/1.1\r\nhost: mail.example.org\r\ndpop: {proof}\r\nhawser-device: {}\r\n\r\n",
            device.handle
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.contains(": here") {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        open.push(stream);
    }
    println!("open {STREAMS}");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn deposits_and_deliveries() {
    const COUNT: u64 = 20_000;
    let dir = std::env::var("HAWSER_BENCH_DIR").unwrap_or("/var/tmp".into());
    let limits = MailboxLimits {
        envelopes_per_device: 100_000,
        bytes_per_device: 1 << 30,
        ..MailboxLimits::default()
    };
    let rig = Rig::within(limits, std::sync::Arc::new(tempfile::tempdir_in(dir).unwrap())).await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let envelopes: Vec<_> = (1..=COUNT).map(|n| a.envelope(n, &[7; 1000])).collect();
    let mut stream = rig.stream(&a, None).await;
    let Gateway {
        mut sender,
        mut receiver,
        ..
    } = gateway;
    let begin = Instant::now();
    tokio::spawn(async move {
        for (id, envelope) in envelopes.into_iter().enumerate() {
            let id = id as u64 + 1000;
            sender.send(&ToMailbox::Deposit { id, envelope }).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    let kept = tokio::spawn(async move {
        let mut kept = 0;
        while kept < COUNT {
            if let FromMailbox::Done { .. } = receiver.recv().await.unwrap() {
                kept += 1;
            }
        }
        begin.elapsed()
    });
    stream.numbers(COUNT as usize).await;
    let delivered = begin.elapsed();
    let kept = kept.await.unwrap();
    let rate = |time: std::time::Duration| COUNT as f64 / time.as_secs_f64();
    println!(
        "{:.0} durable deposits/s, {:.0} deliveries/s to one stream",
        rate(kept),
        rate(delivered)
    );
}
