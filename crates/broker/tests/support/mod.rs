//! A mailbox and devices without a network, and HTTP clients in the same process.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by tests that each use a part"
)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawser_broker::{
    Broker, Directory, Settings,
    link::{Heard, MailboxLink, Reply, Request, Said, Unanswered},
};
use hawser_proto::{
    DomainName, UnixTime,
    broker::{
        DeviceHandle, Envelope,
        api::{Delivery, Enrol, Enrolled, Profile},
        enrolment::{EnrolmentAnswer, EnrolmentRequest, LINK_LIFE},
        envelope::{MAX_ENVELOPE, encoded, whole},
        mailbox::{FetchAnswer, Happening, Outcome, Report},
        statement::{AckCode, Acknowledgement, DeviceCertificate, FetchRequest, Signed},
    },
};
use hawser_seal::{DeviceKeys, Opened, Opener, PublicKey, Recipient, dpop, enrolment::Transcript};
use hawser_store::Store;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub const CONTROL: &str = "https://devices.acme.example";
pub const MAILBOX: &str = "https://mail.example.org";
const PATIENCE: Duration = Duration::from_secs(20);

pub fn domain() -> DomainName {
    "acme".parse().unwrap()
}

/// What the mailbox's disk holds.
#[derive(Debug, Default)]
pub struct Kept {
    pub admitted: BTreeMap<DeviceHandle, u32>,
    pub revoked: BTreeSet<DeviceHandle>,
    pub queues: HashMap<DeviceHandle, BTreeMap<u64, Vec<u8>>>,
    pub skips: BTreeSet<(DeviceHandle, u64)>,
    pub reports: Vec<Report>,
    pub taken: u64,
    /// Outcomes to give before any is kept.
    pub moods: Vec<Outcome>,
    number: u64,
}

/// A connection with it.
#[derive(Debug)]
pub struct Link {
    pub kept: Arc<Mutex<Kept>>,
    pub replies: mpsc::UnboundedSender<Reply>,
    /// Requests are not answered while this is set.
    pub dead: std::sync::atomic::AtomicBool,
}

impl MailboxLink for Link {
    fn pin(&self) -> [u8; 32] {
        [9; 32]
    }

    fn url(&self) -> &str {
        MAILBOX
    }

    fn request(&self, request: Request) -> BoxFuture<'_, Result<Outcome, Unanswered>> {
        Box::pin(async move {
            if self.dead.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(Unanswered::Ended("gone".into()));
            }
            let mut kept = self.kept.lock().unwrap();
            Ok(kept.request(request))
        })
    }

    fn reply(&self, reply: Reply) -> BoxFuture<'_, Result<(), Unanswered>> {
        Box::pin(async move {
            if let Reply::Taken(number) = reply {
                let mut kept = self.kept.lock().unwrap();
                kept.taken = number;
                kept.reports.retain(|r| r.number > number);
            }
            let _ = self.replies.send(reply);
            Ok(())
        })
    }
}

impl Kept {
    fn request(&mut self, request: Request) -> Outcome {
        match request {
            Request::Admit { device, epoch, .. } => {
                if self.revoked.contains(&device) {
                    return Outcome::Revoked;
                }
                self.admitted.insert(device, epoch);
                Outcome::Kept
            }
            Request::Revoke { device } => {
                self.admitted.remove(&device);
                self.revoked.insert(device);
                self.queues.remove(&device);
                Outcome::Kept
            }
            Request::Skip { device, from, to, .. } => {
                for n in from..=to {
                    self.queues.entry(device).or_default().remove(&n);
                    self.skips.insert((device, n));
                }
                Outcome::Kept
            }
            Request::Deposit { envelope } => {
                let (_, header) = Envelope::parse(&envelope, MAX_ENVELOPE).unwrap();
                if self.revoked.contains(&header.device) {
                    return Outcome::Revoked;
                }
                if !self.admitted.contains_key(&header.device) {
                    return Outcome::UnknownDevice;
                }
                if let Some(mood) = self.moods.pop() {
                    return mood;
                }
                let queue = self.queues.entry(header.device).or_default();
                queue.entry(header.sequence).or_insert(envelope);
                Outcome::Kept
            }
        }
    }
}

pub struct World {
    dir: tempfile::TempDir,
    pub directory: Directory,
    pub broker: Arc<Broker>,
    pub mailbox: Arc<Mutex<Kept>>,
    pub link: Arc<Link>,
    pub replies: mpsc::UnboundedReceiver<Reply>,
}

async fn start(state: &Path) -> (Directory, Arc<Broker>) {
    let store = Store::open(state).unwrap();
    let settings = Settings {
        state: state.into(),
        domain: domain(),
        control: CONTROL.into(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        clients: vec!["127.0.0.0/8".parse().unwrap()],
        tls: None,
        ttl: Duration::from_secs(3600),
        inline_max: 4096,
    };
    let broker = Broker::start(settings, &store, &mut Registry::default())
        .await
        .unwrap();
    (Directory::new(&store), Arc::new(broker))
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (directory, broker) = start(&dir.path().join("state")).await;
        let mailbox = Arc::new(Mutex::new(Kept::default()));
        let (link, replies) = Self::connection(&mailbox);
        let world = Self {
            dir,
            directory,
            broker,
            mailbox,
            link,
            replies,
        };
        world.say(Said::Up).await;
        world
    }

    fn connection(mailbox: &Arc<Mutex<Kept>>) -> (Arc<Link>, mpsc::UnboundedReceiver<Reply>) {
        let (replies, heard) = mpsc::unbounded_channel();
        let link = Link {
            kept: mailbox.clone(),
            replies,
            dead: false.into(),
        };
        (Arc::new(link), heard)
    }

    pub async fn say(&self, said: Said) {
        let link: Arc<dyn MailboxLink> = self.link.clone();
        self.broker.heard(Heard { link, said }).await;
    }

    pub async fn disconnect(&self) {
        self.link.dead.store(true, std::sync::atomic::Ordering::SeqCst);
        self.say(Said::Down("a test".into())).await;
    }

    /// A new connection; the mailbox repeats what was not taken.
    pub async fn connect(&mut self) {
        (self.link, self.replies) = Self::connection(&self.mailbox);
        self.say(Said::Up).await;
        self.report().await;
    }

    /// The process ends as it is, and another begins.
    pub async fn restart(&mut self) {
        self.restart_alone().await;
        self.connect().await;
    }

    /// The same, and it finds no mailbox.
    pub async fn restart_alone(&mut self) {
        self.link.dead.store(true, std::sync::atomic::Ordering::SeqCst);
        let state = self.dir.path().join("state");
        // Nothing of the old one may write any more: it goes on a copy of the files, as kill -9 leaves them.
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join("state");
        std::fs::create_dir(&to).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o700)).unwrap();
        for file in std::fs::read_dir(&state).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        (self.directory, self.broker) = start(&to).await;
        self.dir = copy;
    }

    pub fn report_later(&self, device: DeviceHandle, what: Happening) {
        let mut kept = self.mailbox.lock().unwrap();
        kept.number += 1;
        let number = kept.number;
        kept.reports.push(Report { number, device, what });
    }

    pub async fn report(&self) {
        let reports = self.mailbox.lock().unwrap().reports.clone();
        if !reports.is_empty() {
            self.say(Said::Reports(reports)).await;
        }
    }

    /// Enrols a device by a link, as a device does.
    pub async fn enrol(&self, user: &str, profile: Profile) -> Device {
        let link = self
            .directory
            .make_link(&user.parse().unwrap(), LINK_LIFE)
            .await
            .unwrap();
        let keys = Arc::new(DeviceKeys::generate().unwrap());
        let request = encoded(&EnrolmentRequest {
            enrolment: link.enrolment,
            signing_key: keys.public().as_bytes().to_vec(),
            sealing_key: *keys.sealing_public(),
            name: "phone".into(),
            profile: serde_json::to_string(&profile).unwrap(),
        });
        let transcript = Transcript::new(&link.enrolment, &link.secret, &request);
        let message = Enrol {
            request: URL_SAFE_NO_PAD.encode(&request),
            mac: URL_SAFE_NO_PAD.encode(transcript.request_mac().unwrap()),
        };
        let body = serde_json::to_vec(&message).unwrap();
        let (status, answer) = self.control(&keys, "POST", "/v1/devices", None, None, body).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
        let enrolled: Enrolled = serde_json::from_slice(&answer).unwrap();
        let answer = URL_SAFE_NO_PAD.decode(enrolled.answer).unwrap();
        let mac = URL_SAFE_NO_PAD.decode(enrolled.mac).unwrap();
        transcript.check_answer(&answer, &mac).unwrap();
        let answer: EnrolmentAnswer = whole(&answer).unwrap();
        assert_eq!(
            (answer.mailbox.as_str(), answer.control.as_str()),
            (MAILBOX, CONTROL)
        );
        let sender = PublicKey::from_bytes(&answer.sender_key).unwrap();
        let certificate = Signed::<DeviceCertificate>::parse(&answer.certificate).unwrap();
        let certificate = hawser_seal::check_certificate(&certificate, &sender, UnixTime::now()).unwrap();
        let me = Recipient::from(&certificate);
        Device {
            handle: answer.device,
            opener: Opener::new(sender.clone(), keys.clone(), me),
            sender,
            keys,
        }
    }

    /// One request to control with a proof by these keys.
    pub async fn control(
        &self,
        keys: &DeviceKeys,
        method: &str,
        path: &str,
        handle: Option<DeviceHandle>,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> (u16, Bytes) {
        let url = format!("{CONTROL}{path}");
        let proof = dpop::prove(keys.signing(), method, &url, token, UnixTime::now()).unwrap();
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("dpop", proof);
        if let Some(handle) = handle {
            request = request.header("hawser-device", handle.to_string());
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("DPoP {token}"));
        }
        self.visit(request.body(Full::from(body)).unwrap()).await
    }

    /// One request that came under the published name.
    pub async fn visit(&self, request: http::Request<Full<Bytes>>) -> (u16, Bytes) {
        let answer = self.visited(request).await;
        (answer.status().as_u16(), answer.into_body())
    }

    /// The same with the answer's head.
    pub async fn visited(&self, request: http::Request<Full<Bytes>>) -> http::Response<Bytes> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let broker = self.broker.clone();
        tokio::spawn(async move { broker.visit(far, CancellationToken::new()).await });
        exchange(near, request).await
    }

    /// One request to the publishing interface.
    pub async fn publish(&self, request: http::Request<Full<Bytes>>) -> (u16, Bytes) {
        let address = self.broker.status().listen[0];
        let answer = exchange(TcpStream::connect(address).await.unwrap(), request).await;
        (answer.status().as_u16(), answer.into_body())
    }

    pub async fn delivery(&self, token: &str, id: &str) -> Delivery {
        let request = http::Request::get(format!("/v1/deliveries/{id}"))
            .header("authorization", format!("Bearer {token}"));
        let (status, body) = self.publish(request.body(Full::default()).unwrap()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Waits until something about the mailbox is so.
    pub async fn until<T>(&self, what: &str, found: impl Fn(&Kept) -> Option<T>) -> T {
        let look = async {
            loop {
                let seen = found(&self.mailbox.lock().unwrap());
                match seen {
                    Some(seen) => return seen,
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let looked = timeout(PATIENCE, look).await;
        looked.unwrap_or_else(|_| panic!("{what}: {:?}", self.mailbox.lock().unwrap()))
    }

    /// Waits for an envelope in a device's queue.
    pub async fn envelope(&self, device: DeviceHandle, sequence: u64) -> Vec<u8> {
        self.until("an envelope", |kept| {
            kept.queues.get(&device)?.get(&sequence).cloned()
        })
        .await
    }

    /// Waits until a delivery is as wanted.
    pub async fn delivered(&self, token: &str, id: &str, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
        let look = async {
            loop {
                let delivery = self.delivery(token, id).await;
                if wanted(&delivery) {
                    return delivery;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(PATIENCE, look).await {
            Ok(delivery) => delivery,
            Err(_) => panic!("{:?}", self.delivery(token, id).await),
        }
    }

    /// Asks for content as a device does; the whole answer, or the refusal's status.
    pub async fn fetch(&mut self, device: DeviceHandle, id: u64, request: Vec<u8>) -> Result<Vec<u8>, u16> {
        self.say(Said::Fetch { id, device, request }).await;
        let answer = loop {
            match self.reply().await {
                Reply::Fetched { id: of, answer } if of == id => break answer,
                _ => {}
            }
        };
        let size = match answer {
            FetchAnswer::Granted { size, .. } => size,
            FetchAnswer::Refused { status, .. } => return Err(status),
        };
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            self.say(Said::Pull {
                id,
                offset: bytes.len() as u64,
            })
            .await;
            let Reply::Piece { bytes: piece, .. } = self.reply().await else {
                continue;
            };
            assert!(!piece.is_empty(), "over before its end");
            bytes.extend(piece);
        }
        self.say(Said::Over(id)).await;
        Ok(bytes)
    }

    pub async fn reply(&mut self) -> Reply {
        timeout(PATIENCE, self.replies.recv()).await.unwrap().unwrap()
    }
}

pub struct Device {
    pub handle: DeviceHandle,
    pub keys: Arc<DeviceKeys>,
    pub sender: PublicKey,
    pub opener: Opener,
}

impl Device {
    pub fn open(&mut self, envelope: &[u8]) -> Opened {
        self.opener.open(envelope, UnixTime::now()).unwrap()
    }

    pub fn ack(&self, sequence: u64, code: AckCode, envelope: [u8; 32]) -> Happening {
        let ack = Acknowledgement {
            device: self.handle,
            sequence,
            code,
            envelope,
            at: UnixTime::now(),
        };
        Happening::Acknowledged(self.keys.signing().sign(&ack).unwrap().to_bytes())
    }

    pub fn request(&self, item: hawser_proto::broker::ItemId, nonce: u8, accept: &str) -> Vec<u8> {
        let request = FetchRequest {
            device: self.handle,
            item,
            nonce: [nonce; 16],
            at: UnixTime::now(),
            accept: accept.into(),
            accept_language: String::new(),
            save_data: false,
        };
        self.keys.signing().sign(&request).unwrap().to_bytes()
    }
}

/// An event in the binary form.
pub fn event(
    token: &str,
    id: &str,
    to: &str,
    kind: &str,
    data: impl Into<Bytes>,
) -> http::Request<Full<Bytes>> {
    event_with(token, id, to, kind, data, &[])
}

pub fn event_with(
    token: &str,
    id: &str,
    to: &str,
    kind: &str,
    data: impl Into<Bytes>,
    more: &[(&str, &str)],
) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post("/v1/events")
        .header("authorization", format!("Bearer {token}"))
        .header("ce-specversion", "1.0")
        .header("ce-id", id)
        .header("ce-source", "/test")
        .header("ce-type", "org.example.message")
        .header("ce-subject", "A message")
        .header("ce-recipient", to)
        .header("content-type", kind);
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    request.body(Full::from(data.into())).unwrap()
}

async fn exchange<S>(stream: S, mut request: http::Request<Full<Bytes>>) -> http::Response<Bytes>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    request
        .headers_mut()
        .insert("host", "devices.acme.example".parse().unwrap());
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = timeout(PATIENCE, send.send_request(request))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = answer.into_parts();
    http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}
