//! A mailbox in a directory of its own, a gateway that does what a test tells it, and devices that speak real HTTP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hawser_identity::{Fingerprint, Proved};
use hawser_proto::{
    DomainName, NodeId, UnixTime,
    broker::{
        DeviceHandle, Envelope, Header, KeyId, Kind, Urgency,
        envelope::{EPOCH_KEY, SUITE, VERSION, encoded},
        mailbox::{FromMailbox, Happening, Outcome, ToMailbox},
        statement::{AckCode, Acknowledgement, Signed, Skip, SkipReason},
    },
};
use hawser_seal::{SigningKey, dpop};
use hawser_session::hop::{ControlReceiver, ControlSender, halves};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::super::*;
use crate::{
    door::{Door, DoorLimits},
    lives::{Lives, Living},
    shared::Party,
};

/// Longer than anything here takes on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(30);
pub(super) const URL: &str = "https://mail.example.org";

pub(super) struct Rig {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) metrics: Registry,
    pub(super) dir: Arc<tempfile::TempDir>,
    pub(super) door: Door,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(MailboxLimits::default()).await
    }

    pub(super) async fn with(limits: MailboxLimits) -> Self {
        Self::within(limits, Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub(super) async fn within(limits: MailboxLimits, dir: Arc<tempfile::TempDir>) -> Self {
        let mut metrics = Registry::default();
        let plan = MailboxPlan {
            name: "mail.example.org".parse().unwrap(),
            certificate: None,
            url: URL.into(),
            limits,
        };
        let stop = CancellationToken::new();
        let registered = Metrics::register(&mut metrics);
        let mailbox = Mailbox::open(&plan, &dir.path().join("hub"), registered, stop.clone())
            .await
            .unwrap();
        let door = Door::new(DoorLimits {
            total: 10_000,
            per_source: 10_000,
        });
        let rig = Self {
            mailbox,
            metrics,
            dir,
            door,
            stop,
        };
        rig.domains(&["acme", "beta"], &[]).await;
        rig
    }

    /// Which domains are admitted, and which are barred.
    pub(super) async fn domains(&self, admitted: &[&str], barred: &[&str]) {
        let names =
            |names: &[&str]| -> Vec<DomainName> { names.iter().map(|n| n.parse().unwrap()).collect() };
        let (admitted, barred) = (names(admitted), names(barred));
        self.mailbox
            .domains(admitted.iter(), barred.iter())
            .await
            .unwrap();
    }

    /// Connects a gateway, which has been welcomed.
    pub(super) async fn gateway(&self, name: &str) -> Gateway {
        let mut gateway = self.stranger(name);
        match gateway.hear().await {
            FromMailbox::Welcome { url, .. } => assert_eq!(url, URL),
            other => panic!("{other:?}"),
        }
        gateway
    }

    /// Connects somebody with an identity.
    pub(super) fn stranger(&self, name: &str) -> Gateway {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (sender, receiver) = halves::<FromMailbox, ToMailbox, _>(ours, "gateway");
        let lives: Arc<Lives<Party>> = Arc::default();
        let living = lives.enter([None, None]);
        let id: NodeId = format!("spiffe://{name}").parse().unwrap();
        let party = Party::new(Proved {
            issuer: id.clone(),
            id,
            not_after: UnixTime::now().plus(LONG * 100),
            root: Fingerprint::of_key(b"root"),
        });
        let serve = self
            .mailbox
            .clone()
            .converse(party, living.life().clone(), sender, receiver);
        tokio::spawn(serve);
        let (sender, receiver) = halves(theirs, "hub");
        Gateway {
            sender,
            receiver,
            living,
            next: 0,
            aside: Vec::new(),
        }
    }

    /// Serves a device's connection.
    pub(super) fn accept<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let from: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let place = self.door.enter(from.ip()).unwrap();
        tokio::spawn(self.mailbox.clone().serve(stream, from, place));
    }

    /// A device's HTTP connection.
    pub(super) async fn http(&self) -> SendRequest<Full<Bytes>> {
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        self.accept(ours);
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(theirs))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let mut http = self.http().await;
        timeout(LONG, http.send_request(request)).await.unwrap().unwrap()
    }

    /// One request; status, and body as JSON or null.
    pub(super) async fn ask(&self, request: Request<Full<Bytes>>) -> (StatusCode, serde_json::Value) {
        let response = self.send(request).await;
        let status = response.status();
        let body = timeout(LONG, response.into_body().collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Whether these bytes stand in any file of the mailbox.
    pub(super) fn holds(&self, needle: &[u8]) -> bool {
        std::fs::read_dir(self.dir.path().join("hub"))
            .unwrap()
            .any(|file| {
                let content = std::fs::read(file.unwrap().path()).unwrap();
                content.windows(needle.len()).any(|w| w == needle)
            })
    }
}

pub(super) struct Gateway {
    pub(super) sender: ControlSender<ToMailbox>,
    pub(super) receiver: ControlReceiver<FromMailbox>,
    pub(super) living: Living<Party>,
    next: u64,
    /// Heard while waiting for something else.
    aside: Vec<FromMailbox>,
}

impl Gateway {
    pub(super) async fn say(&mut self, message: ToMailbox) {
        timeout(LONG, self.sender.send(&message)).await.unwrap().unwrap();
    }

    /// The next message but pings.
    pub(super) async fn hear(&mut self) -> FromMailbox {
        loop {
            match timeout(LONG, self.receiver.recv()).await.unwrap().unwrap() {
                FromMailbox::Ping(_) => {}
                message => return message,
            }
        }
    }

    /// The first message of which something is wanted, whether it came or comes.
    pub(super) async fn wait<T>(&mut self, mut want: impl FnMut(&FromMailbox) -> Option<T>) -> T {
        if let Some((at, found)) = self
            .aside
            .iter()
            .enumerate()
            .find_map(|(at, message)| Some((at, want(message)?)))
        {
            self.aside.remove(at);
            return found;
        }
        loop {
            let message = self.hear().await;
            match want(&message) {
                Some(found) => return found,
                None => self.aside.push(message),
            }
        }
    }

    pub(super) async fn request(&mut self, message: impl FnOnce(u64) -> ToMailbox) -> Outcome {
        self.next += 1;
        let id = self.next;
        self.say(message(id)).await;
        self.wait(|message| match message {
            FromMailbox::Done { id: n, outcome } if *n == id => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    pub(super) async fn admit(&mut self, device: &Device) {
        let (handle, thumbprint) = (device.handle, device.key.public().thumbprint());
        let outcome = self
            .request(|id| ToMailbox::Admit {
                id,
                device: handle,
                thumbprint,
                epoch: 1,
            })
            .await;
        assert_eq!(outcome, Outcome::Kept);
    }

    pub(super) async fn deposit(&mut self, envelope: Vec<u8>) -> Outcome {
        self.request(|id| ToMailbox::Deposit { id, envelope }).await
    }

    pub(super) async fn revoke(&mut self, device: DeviceHandle) -> Outcome {
        self.request(|id| ToMailbox::Revoke { id, device }).await
    }

    pub(super) async fn skip(&mut self, device: DeviceHandle, from: u64, to: u64) -> Outcome {
        let said = Skip {
            device,
            from,
            to,
            reason: SkipReason::Withdrawn,
        };
        let record = Signed::<Skip>::new(encoded(&said), [0; 64]).to_bytes();
        self.request(|id| ToMailbox::Skip {
            id,
            device,
            from,
            to,
            record,
        })
        .await
    }

    /// The next reports' happenings, which are taken.
    pub(super) async fn reports(&mut self) -> Vec<Happening> {
        let reports = self
            .wait(|message| match message {
                FromMailbox::Reports(reports) => Some(reports.clone()),
                _ => None,
            })
            .await;
        self.say(ToMailbox::Taken(reports.last().unwrap().number)).await;
        reports.into_iter().map(|r| r.what).collect()
    }
}

pub(super) struct Device {
    pub(super) handle: DeviceHandle,
    pub(super) key: SigningKey,
}

impl Device {
    pub(super) fn new(n: u8) -> Self {
        Self {
            handle: DeviceHandle([n; 16]),
            key: SigningKey::generate().unwrap(),
        }
    }

    /// A request with a proof.
    pub(super) fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let proof = self.proof(method.as_str(), path, UnixTime::now());
        self.with(&proof, method, path, body)
    }

    pub(super) fn get(&self, path: &str) -> Request<Full<Bytes>> {
        self.request(Method::GET, path, "")
    }

    pub(super) fn proof(&self, method: &str, path: &str, at: UnixTime) -> String {
        dpop::prove(&self.key, method, &format!("{URL}{path}"), None, at).unwrap()
    }

    pub(super) fn with(
        &self,
        proof: &str,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "mail.example.org")
            .header("dpop", proof)
            .header("hawser-device", self.handle.to_string())
            .body(Full::new(body.into()))
            .unwrap()
    }

    /// The request that acknowledges these envelopes.
    pub(super) fn ack(&self, sequences: &[u64]) -> Request<Full<Bytes>> {
        let acks: Vec<_> = sequences
            .iter()
            .map(|&sequence| {
                let said = Acknowledgement {
                    device: self.handle,
                    sequence,
                    code: AckCode::Delivered,
                    envelope: [0; 32],
                    at: UnixTime::now(),
                };
                URL_SAFE_NO_PAD.encode(self.key.sign(&said).unwrap().to_bytes())
            })
            .collect();
        let body = serde_json::json!({ "acks": acks }).to_string();
        self.request(Method::POST, "/v1/acks", body)
    }

    /// An envelope for it.
    pub(super) fn envelope(&self, sequence: u64, ciphertext: &[u8]) -> Vec<u8> {
        self.sealed(sequence, ciphertext, Duration::from_secs(600), None)
    }

    pub(super) fn sealed(
        &self,
        sequence: u64,
        ciphertext: &[u8],
        life: Duration,
        collapse: Option<[u8; 32]>,
    ) -> Vec<u8> {
        let header = Header {
            version: VERSION,
            suite: SUITE,
            kind: Kind::Event,
            device: self.handle,
            sequence,
            epoch: 1,
            sender: KeyId([0; 8]),
            expires: UnixTime::now().plus(life),
            urgency: Urgency::Normal,
            collapse,
        };
        Envelope {
            header: encoded(&header),
            epoch_key: vec![0; EPOCH_KEY],
            wrapped: vec![1; 200],
            ciphertext: ciphertext.to_vec(),
            signature: [0; 64],
        }
        .to_bytes()
    }
}

/// What comes on a stream: event, id, data.
pub(super) struct Events {
    body: Incoming,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) event: String,
    pub(super) id: String,
    pub(super) data: Vec<u8>,
}

impl Rig {
    /// Opens a stream.
    pub(super) async fn stream(&self, device: &Device, last: Option<u64>) -> Events {
        let mut request = device.get("/v1/stream");
        if let Some(last) = last {
            let headers = request.headers_mut();
            headers.insert("last-event-id", last.into());
        }
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        Events {
            body: response.into_body(),
            text: String::new(),
        }
    }
}

impl Events {
    /// The next event; none at the stream's end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    let line = block.lines().find_map(|l| l.strip_prefix(name));
                    line.map(|l| l.trim_start().to_owned()).unwrap_or_default()
                };
                let event = field("event:");
                if !event.is_empty() {
                    return Some(Event {
                        event,
                        id: field("id:"),
                        data: URL_SAFE_NO_PAD.decode(field("data:")).unwrap(),
                    });
                }
            }
            let frame = timeout(LONG, self.body.frame())
                .await
                .expect("a stream that says nothing");
            match frame {
                None => return None,
                Some(frame) => {
                    let data = frame.ok()?.into_data().unwrap();
                    self.text.push_str(std::str::from_utf8(&data).unwrap());
                }
            }
        }
    }

    /// The numbers of the next events.
    pub(super) async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let event = self.next().await.expect("the stream has ended");
            numbers.push(event.id.parse().unwrap());
        }
        numbers
    }
}

/// Waits for something that comes soon.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LONG;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
