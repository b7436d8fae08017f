//! A domain's control and a hub's mailbox in one process, over real TLS on this machine's own addresses.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use bytes::Bytes;
use hawser_identity::{Credentials, HubIdentity, Issuer, NodeKey, RootAuthority, tls};
use hawser_proto::{
    DomainName, UnixTime,
    broker::{
        DeviceHandle, ItemId, Urgency,
        api::{Acks, Ask, DeviceView, Enrol, Enrolled, Granted, Profile, Token},
        enrolment::{EnrolmentAnswer, EnrolmentRequest, Fragment},
        envelope::{Content, Mode, encoded, whole},
        statement::{Acknowledgement, DeviceCertificate, FetchRequest, Signed, Skip, SkipReason},
    },
};
use hawser_seal::{
    EpochKey, Post, PublicKey, Replays, SealedContent, SenderKey, SigningKey, answer, dpop,
    enrolment::Transcript, seal, token, verify,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;

type Body = BoxBody<Bytes, Infallible>;

pub(crate) const DEVICE: DeviceHandle = DeviceHandle([0xd1; 16]);
pub(crate) const ITEM: ItemId = ItemId([7; 16]);
/// The highest number that the mailbox takes for one.
pub(crate) const MAX_SEQUENCE: u64 = 1 << 62;
const ENROLMENT: [u8; 16] = [0xe1; 16];
const SECRET: [u8; 16] = [0x5e; 16];

pub(crate) struct Fake {
    pub(crate) domain: DomainName,
    pub(crate) sender: SenderKey,
    pub(crate) control: String,
    pub(crate) mailbox: String,
    root: [u8; 32],
    hub: [u8; 32],
    inner: Mutex<Inner>,
    /// How many things have happened to the queue; streams wait for it.
    changed: watch::Sender<u64>,
    /// Each acknowledgement, verified.
    pub(crate) acked: mpsc::UnboundedSender<Acknowledgement>,
    /// Seconds that the servers' clock is ahead of this machine's.
    pub(crate) ahead: Mutex<i64>,
}

#[derive(Default)]
struct Inner {
    certificate: Option<(Signed<DeviceCertificate>, DeviceCertificate)>,
    epoch: Option<EpochKey>,
    queue: BTreeMap<u64, (&'static str, Vec<u8>)>,
    grants: BTreeMap<String, Vec<u8>>,
    profile: Option<Profile>,
    replays: Option<Replays>,
    revoked: bool,
    cut: u64,
    streams: u64,
}

impl Fake {
    pub(crate) async fn start() -> (Arc<Self>, mpsc::UnboundedReceiver<Acknowledgement>) {
        let dir = tempfile::tempdir().unwrap();
        let hub = HubIdentity::load_or_create(dir.path()).unwrap();
        let domain: DomainName = "acme".parse().unwrap();
        let root = RootAuthority::create(&domain).unwrap();
        let issuer = Issuer::create(&root, &domain, &"i1".parse().unwrap()).unwrap();
        let key = NodeKey::create().unwrap();
        let id = "spiffe://acme/gateway/gw1".parse().unwrap();
        let life = Duration::from_secs(3600);
        let chain = issuer.issue(&id, &key.csr().unwrap(), life).unwrap();
        let own = Credentials::new(chain, &key).unwrap().shared();
        let listen = async || TcpListener::bind("localhost:0").await.unwrap();
        let (control, mailbox) = (listen().await, listen().await);
        let origin = |l: &TcpListener| format!("https://localhost:{}", l.local_addr().unwrap().port());
        let (acked, acks) = mpsc::unbounded_channel();
        let fake = Arc::new(Self {
            domain,
            sender: SigningKey::generate().unwrap().into(),
            control: origin(&control),
            mailbox: origin(&mailbox),
            root: root.fingerprint().0,
            hub: hub.pin().0,
            inner: Mutex::default(),
            changed: watch::channel(0).0,
            acked,
            ahead: Mutex::new(0),
        });
        fake.clone().serve(control, tls::gateway_device(own).unwrap());
        fake.clone().serve(mailbox, tls::hub_device(&hub).unwrap());
        (fake, acks)
    }

    fn serve(self: Arc<Self>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (fake, acceptor) = (self.clone(), TlsAcceptor::from(tls.clone()));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let fake = fake.clone();
                        async move { Ok::<_, Infallible>(fake.answer(request).await) }
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
    }

    pub(crate) fn link(&self) -> String {
        let fragment = Fragment {
            enrolment: ENROLMENT,
            secret: SECRET,
            domain: self.domain.clone(),
            root: self.root,
        };
        format!("{}/enrol#{}", self.control, fragment.to_text())
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime(
            UnixTime::now()
                .0
                .saturating_add_signed(*self.ahead.lock().unwrap()),
        )
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Goes on under a new epoch key, as after a restart.
    pub(crate) fn renew(&self) {
        self.inner().epoch = None;
    }

    /// Puts an event into the queue.
    pub(crate) fn event(&self, sequence: u64, id: &str) {
        let bytes = self.envelope(sequence, id);
        self.queue(sequence, "envelope", bytes);
    }

    pub(crate) fn envelope(&self, sequence: u64, id: &str) -> Vec<u8> {
        let mut inner = self.inner();
        let now = self.now();
        if inner.epoch.is_none() {
            let (signed, _) = inner.certificate.as_ref().unwrap();
            inner.epoch = Some(EpochKey::new(&self.sender, signed, now).unwrap());
        }
        let sealed = SealedContent::new(&content(id)).unwrap();
        let post = Post {
            sequence,
            expires: now.plus(Duration::from_secs(600)),
            urgency: Urgency::Normal,
            collapse: None,
        };
        seal(&self.sender, inner.epoch.as_ref().unwrap(), &sealed, &post).unwrap()
    }

    pub(crate) fn queue(&self, sequence: u64, kind: &'static str, bytes: Vec<u8>) {
        self.inner().queue.insert(sequence, (kind, bytes));
        self.change();
    }

    pub(crate) fn skip(&self, from: u64, to: u64) {
        let skip = Skip {
            device: DEVICE,
            from,
            to,
            reason: SkipReason::Expired,
        };
        self.queue(to, "skip", self.sender.sign(&skip).unwrap().to_bytes());
    }

    /// Ends all streams, as a network does.
    pub(crate) fn cut(&self) {
        self.inner().cut += 1;
        self.change();
    }

    pub(crate) fn revoke(&self) {
        self.inner().revoked = true;
        self.change();
    }

    pub(crate) fn streams(&self) -> u64 {
        self.inner().streams
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let path = head.uri.path().to_owned();
        let control = path == "/v1/devices" || path == "/v1/token" || path.starts_with("/v1/device");
        let origin = if control { &self.control } else { &self.mailbox };
        let bearer = header("authorization").map(|a| a.strip_prefix("DPoP ").unwrap().to_owned());
        let url = format!("{origin}{path}");
        let proof = dpop::check(
            &header("dpop").unwrap_or_default(),
            head.method.as_str(),
            &url,
            bearer.as_deref(),
            self.now(),
        );
        let proof = match proof {
            Ok(proof) => proof,
            Err(e) => return self.problem(401, "proof", &e.to_string()),
        };
        if path == "/v1/devices" {
            return self.enrol(&body, &proof);
        }
        if header("hawser-device").as_deref() != Some(&DEVICE.to_string()) {
            return self.problem(401, "device", "no handle");
        }
        let (known, revoked) = {
            let mut inner = self.inner();
            let started = UnixTime(self.now().0 - 1);
            let replays = inner.replays.get_or_insert_with(|| Replays::new(started, 4));
            if replays.admit(&proof, self.now()).is_err() {
                drop(inner);
                return self.problem(401, "replayed", "a proof came twice");
            }
            let key = inner.certificate.as_ref().map(|(_, c)| c.signing_key.clone());
            (key == Some(proof.key.as_bytes().to_vec()), inner.revoked)
        };
        if !known || revoked {
            return self.problem(403, if known { "revoked" } else { "unknown" }, "not let in");
        }
        if let (true, Some(token)) = (control, &bearer) {
            let bearer = token::verify(
                token,
                self.sender.public(),
                &self.domain,
                &self.control,
                self.now(),
            )
            .unwrap();
            assert_eq!(bearer.thumbprint, proof.thumbprint);
        } else if control && path != "/v1/token" {
            return self.problem(401, "token", "no token");
        }
        let last = header("last-event-id").map_or(0, |l| l.parse().unwrap());
        self.route(head.method.as_str(), &path, &body, last)
    }

    fn route(self: &Arc<Self>, method: &str, path: &str, body: &[u8], last: u64) -> Response<Body> {
        match (method, path) {
            ("POST", "/v1/token") => {
                let thumbprint = self.key().thumbprint();
                let token = token::issue(
                    &self.sender,
                    &self.domain,
                    &self.control,
                    DEVICE,
                    &thumbprint,
                    self.now(),
                );
                self.json(&Token {
                    access_token: token.unwrap(),
                    token_type: "DPoP".into(),
                    expires_in: 600,
                })
            }
            ("GET", "/v1/device") => self.json(&self.view()),
            ("PUT", "/v1/device/profile") => {
                self.inner().profile = Some(serde_json::from_slice(body).unwrap());
                self.json(&self.view())
            }
            ("DELETE", "/v1/device") => {
                self.revoke();
                self.respond(StatusCode::NO_CONTENT, "text/plain", Bytes::new())
            }
            ("POST", "/v1/acks") => self.acks(body),
            ("POST", "/v1/items") => self.items(body),
            ("GET", "/v1/stream") => self.stream(last),
            ("GET", path) if path.starts_with("/v1/grants/") => {
                let sealed = self.inner().grants.remove(&path["/v1/grants/".len()..]);
                match sealed {
                    Some(bytes) => self.respond(StatusCode::OK, "application/octet-stream", bytes.into()),
                    None => self.problem(404, "grant-unknown", "it was read, or is not this device's"),
                }
            }
            _ => self.problem(404, "not-found", "no such thing"),
        }
    }

    fn enrol(&self, body: &[u8], proof: &dpop::Proof) -> Response<Body> {
        let enrol: Enrol = serde_json::from_slice(body).unwrap();
        let request = B64.decode(&enrol.request).unwrap();
        let transcript = Transcript::new(&ENROLMENT, &SECRET, &request);
        if transcript
            .check_request(&B64.decode(&enrol.mac).unwrap())
            .is_err()
        {
            return self.problem(403, "link", "the secret is another");
        }
        if self.inner().certificate.is_some() {
            return self.problem(410, "spent", "the link was used");
        }
        let asked: EnrolmentRequest = whole(&request).unwrap();
        assert_eq!(proof.key.as_bytes()[..], asked.signing_key);
        let certificate = DeviceCertificate {
            domain: self.domain.clone(),
            user: "alice".parse().unwrap(),
            device: DEVICE,
            name: asked.name,
            signing_key: asked.signing_key,
            sealing_key: asked.sealing_key,
            epoch: 1,
            issued: self.now(),
            expires: self.now().plus(Duration::from_secs(86_400)),
            sender: self.sender.key_id(),
        };
        let signed = self.sender.sign(&certificate).unwrap();
        let answer = encoded(&EnrolmentAnswer {
            certificate: signed.to_bytes(),
            sender_key: self.sender.public().as_bytes().to_vec(),
            user: certificate.user.clone(),
            device: DEVICE,
            mailbox: self.mailbox.clone(),
            hub_pin: Some(self.hub),
            control: self.control.clone(),
            at: self.now(),
        });
        let mut inner = self.inner();
        inner.certificate = Some((signed, certificate));
        inner.profile = Some(serde_json::from_str(&asked.profile).unwrap());
        drop(inner);
        self.json(&Enrolled {
            mac: B64.encode(transcript.answer_mac(&answer).unwrap()),
            answer: B64.encode(answer),
        })
    }

    fn key(&self) -> PublicKey {
        let inner = self.inner();
        PublicKey::from_bytes(&inner.certificate.as_ref().unwrap().1.signing_key).unwrap()
    }

    fn view(&self) -> DeviceView {
        let inner = self.inner();
        let (signed, certificate) = inner.certificate.as_ref().unwrap();
        DeviceView {
            user: certificate.user.clone(),
            device: DEVICE,
            name: certificate.name.clone(),
            profile: inner.profile.clone().unwrap(),
            certificate: B64.encode(signed.to_bytes()),
        }
    }

    fn acks(&self, body: &[u8]) -> Response<Body> {
        let acks: Acks = serde_json::from_slice(body).unwrap();
        let read = |ack: &String| {
            let signed = Signed::<Acknowledgement>::parse(&B64.decode(ack).unwrap()).unwrap();
            verify(&signed, &self.key()).unwrap()
        };
        let acks: Vec<_> = acks.acks.iter().map(read).collect();
        if acks.iter().any(|ack| ack.sequence > MAX_SEQUENCE) {
            return self.problem(400, "malformed", "no envelope has this number");
        }
        for ack in acks {
            self.inner().queue.remove(&ack.sequence);
            let _ = self.acked.send(ack);
        }
        self.respond(StatusCode::NO_CONTENT, "text/plain", Bytes::new())
    }

    fn items(&self, body: &[u8]) -> Response<Body> {
        let ask: Ask = serde_json::from_slice(body).unwrap();
        let signed = Signed::<FetchRequest>::parse(&B64.decode(ask.request).unwrap()).unwrap();
        let asked = verify(&signed, &self.key()).unwrap();
        if asked.item != ITEM {
            return self.problem(404, "refused", "no such item");
        }
        let content = Content {
            body: vec![b'x'; 300_000],
            ..content("large")
        };
        let sealed = SealedContent::new(&content).unwrap();
        let mut inner = self.inner();
        let expires = self.now().plus(Duration::from_secs(300));
        let (certificate, _) = inner.certificate.as_ref().unwrap();
        let bytes = answer(
            &self.sender,
            certificate,
            &sealed,
            asked.nonce,
            expires,
            self.now(),
        )
        .unwrap();
        let grant = B64.encode([3; 16]);
        let size = bytes.len() as u64;
        inner.grants.insert(grant.clone(), bytes);
        drop(inner);
        self.json(&Granted {
            grant,
            size,
            expires_in: 300,
        })
    }

    fn stream(self: &Arc<Self>, last: u64) -> Response<Body> {
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(16);
        let cut = {
            let mut inner = self.inner();
            inner.streams += 1;
            inner.cut
        };
        let fake = self.clone();
        tokio::spawn(async move {
            let mut changed = fake.changed.subscribe();
            let mut position = last;
            loop {
                changed.borrow_and_update();
                let (text, over) = {
                    let inner = fake.inner();
                    let mut text = String::new();
                    for (number, (kind, bytes)) in inner.queue.range(position + 1..) {
                        text += &format!("event: {kind}\nid: {number}\ndata: {}\n\n", B64.encode(bytes));
                        position = *number;
                    }
                    if inner.revoked {
                        text += "event: revoked\ndata:\n\n";
                    }
                    (text, inner.revoked || inner.cut != cut)
                };
                let text = if text.is_empty() {
                    ": tick\n\n".into()
                } else {
                    text
                };
                if sender.send(Ok(Frame::data(text.into()))).await.is_err() || over {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        });
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|frame| (frame, receiver))
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream)));
        response
            .headers_mut()
            .insert("content-type", "text/event-stream".parse().unwrap());
        response
    }

    fn json(&self, value: &impl serde::Serialize) -> Response<Body> {
        let body = serde_json::to_vec(value).unwrap();
        self.respond(StatusCode::OK, "application/json", body.into())
    }

    fn problem(&self, status: u16, reason: &str, detail: &str) -> Response<Body> {
        let body = serde_json::json!({ "reason": reason, "detail": detail }).to_string();
        let status = StatusCode::from_u16(status).unwrap();
        self.respond(status, "application/problem+json", body.into())
    }

    fn respond(&self, status: StatusCode, kind: &str, body: Bytes) -> Response<Body> {
        use time::{OffsetDateTime, macros::format_description};
        let at = OffsetDateTime::from_unix_timestamp(self.now().0 as i64).unwrap();
        let date = at.format(format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        ));
        let mut response = Response::new(Full::new(body).boxed());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert("content-type", kind.parse().unwrap());
        response
            .headers_mut()
            .insert("date", date.unwrap().parse().unwrap());
        response
    }
}

pub(crate) fn content(id: &str) -> Content {
    Content {
        source: "https://pbx.acme.example/".into(),
        id: id.into(),
        event_type: "example.call.missed".into(),
        subject: Some("Missed call".into()),
        created: UnixTime::now(),
        mode: Mode::Inline,
        content_type: "text/plain".into(),
        variant: "text".into(),
        body: format!("about {id}").into_bytes(),
        item: None,
        size: None,
        padding: Vec::new(),
    }
}
