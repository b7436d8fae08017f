//! Control: where devices enrol, get tokens, tell their profile and revoke themselves, and where the device page comes from.
//! Delivery does not need it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_content::Class;
use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        api::{DeviceView, Enrol, Enrolled, Profile, Token},
        enrolment::{EnrolmentAnswer, EnrolmentRequest, MAX_NAME, MAX_REQUEST},
        envelope::{encoded, whole},
    },
};
use hawser_seal::{
    PublicKey, Replays,
    dpop::{self, DpopError, Proof},
    enrolment::Transcript,
    token,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Duration, timeout};
use tracing::{debug, info, warn};

use crate::{
    core::Core,
    directory::{Device, DirectoryError, NewDevice, link_key},
    link::{MailboxLink, Request as Ask},
    metrics::count,
    page,
    web::{self, Answer, Problem},
};

/// Most bytes of a request's body.
const MAX_BODY: usize = 16 * 1024;
/// Keys whose proofs are remembered at one time.
const MAX_KEYS: usize = 100_000;
/// Longest wait for the mailbox to know a new device before it is answered; it will a moment later, else.
const ADMISSION: Duration = Duration::from_secs(2);

/// See the module page.
pub(crate) struct Control {
    core: Arc<Core>,
    replays: Mutex<Replays>,
}

impl Control {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            replays: Mutex::new(Replays::new(UnixTime::now(), MAX_KEYS)),
        }
    }

    /// Serves one request that came under the published name.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Problem> {
        let path = request.uri().path().to_owned();
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match (request.method().as_str(), path.as_str()) {
            ("POST", "/v1/devices") => self.enrol(request).await,
            ("POST", "/v1/token") => self.token(&request),
            ("GET" | "HEAD", "/v1/device") => self.device(&request).await,
            ("DELETE", "/v1/device") => self.revoke(&request).await,
            ("PUT", "/v1/device/profile") => self.profile(request).await,
            (_, "/v1/devices" | "/v1/token") => Err(Problem::method("POST")),
            (_, "/v1/device") => Err(Problem::method("GET, HEAD, DELETE")),
            (_, "/v1/device/profile") => Err(Problem::method("PUT")),
            (_, path) if page::file(path).is_some() && !get => Err(Problem::method("GET, HEAD")),
            (_, path) => self.page(path),
        }
    }

    fn page(&self, path: &str) -> Result<Answer, Problem> {
        let file = page::file(path).ok_or_else(Problem::not_found)?;
        let mut answer = Response::new(Full::from(file.bytes));
        // Known without a connection, too: the page lives longer than that.
        let mailbox = self.core.mailbox.load();
        let mailboxes: Vec<&str> = mailbox.iter().map(String::as_str).collect();
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
        for (name, value) in page::headers(&mailboxes) {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Ok(answer)
    }

    async fn enrol(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        let result = self.take_in(request).await;
        let outcome = if result.is_ok() { "enrolled" } else { "refused" };
        count(&self.core.metrics.enrolments, outcome);
        result
    }

    async fn take_in(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        let now = UnixTime::now();
        let (head, body) = request.into_parts();
        let message: Enrol = web::read(body, MAX_BODY).await?;
        let bytes = decoded(&message.request)
            .filter(|b| b.len() <= MAX_REQUEST)
            .ok_or_else(malformed)?;
        let mac = decoded(&message.mac).ok_or_else(malformed)?;
        let asked: EnrolmentRequest = whole(&bytes).map_err(|_| malformed())?;
        let key = PublicKey::from_bytes(&asked.signing_key).map_err(|e| malformed_by(&e.to_string()))?;
        // The link's secret first: who does not have it learns nothing else, and takes up no room.
        let directory = &self.core.directory;
        let secret = directory
            .link_secret(&asked.enrolment, now)
            .await
            .map_err(refused)?;
        let transcript = Transcript::new(&asked.enrolment, &secret, &bytes);
        transcript.check_request(&mac).map_err(|_| {
            Problem::new(
                403,
                "link",
                "the link's secret is not right: use the whole link, as it was given",
            )
        })?;
        let proof = self.proof(&head.headers, &head.method, "/v1/devices", None)?;
        if proof.key.as_bytes() != key.as_bytes() {
            return Err(Problem::new(
                403,
                "proof",
                "the proof is by another key than is to be enrolled",
            ));
        }
        let (name, profile) = (name(&asked.name)?, profile(&asked.profile)?);
        let internal = |_| Problem::new(500, "internal", "the answer could not be signed: try again");
        let link = self.core.link();
        let link = link.ok_or_else(|| {
            Problem::later(
                503,
                "mailbox",
                "the gateway is not connected with its mailbox: try again",
                5,
            )
        })?;
        let spent = directory
            .spend_link(&asked.enrolment, hawser_seal::sha256(&bytes), now)
            .await;
        let spent = spent.map_err(refused)?;
        let new = NewDevice {
            user: spent.user,
            name,
            signing_key: asked.signing_key.clone(),
            sealing_key: asked.sealing_key,
            thumbprint: key.thumbprint(),
            profile,
            enrolment: link_key(&asked.enrolment),
            check: transcript.check_number().map_err(internal)?,
        };
        let device = directory.enrol(spent.device, &new).await.map_err(refused)?;
        if device.revoked.is_some() {
            return Err(Problem::new(
                403,
                "revoked",
                "the device of this link was revoked",
            ));
        }
        self.admitted(&device, &*link).await;
        info!(device = %device.handle, user = %device.user, "a device was enrolled");
        let certificate = self.core.sealer.certificate(&device, now).map_err(internal)?;
        let answer = encoded(&EnrolmentAnswer {
            certificate: certificate.to_bytes(),
            sender_key: self.core.sealer.sender.public().as_bytes().to_vec(),
            user: device.user,
            device: device.handle,
            mailbox: link.url().into(),
            hub_pin: Some(link.pin()),
            control: self.core.control.clone(),
            at: now,
        });
        let mac = transcript.answer_mac(&answer).map_err(internal)?;
        let enrolled = Enrolled {
            answer: URL_SAFE_NO_PAD.encode(answer),
            mac: URL_SAFE_NO_PAD.encode(mac),
        };
        web::json(StatusCode::CREATED, &enrolled)
    }

    /// Waits until this process and the mailbox know a new device, so that it can go on at once.
    async fn admitted(&self, device: &Device, link: &dyn MailboxLink) {
        let mut reconciled = self.core.reconciled.subscribe();
        let known = async {
            while self.core.snapshot.load().good(&device.handle).is_none() {
                if reconciled.changed().await.is_err() {
                    return;
                }
            }
            let admit = Ask::Admit {
                device: device.handle,
                thumbprint: device.thumbprint,
                epoch: device.epoch,
            };
            // The mailbox is told by the directory's follower, too.
            let _ = link.request(admit).await;
        };
        if timeout(ADMISSION, known).await.is_err() {
            debug!(device = %device.handle, "a new device may reach the mailbox before the mailbox knows it");
        }
    }

    fn token(&self, request: &Request<Incoming>) -> Result<Answer, Problem> {
        let proof = self.proof(request.headers(), request.method(), "/v1/token", None)?;
        let handle = handle(request.headers())?;
        let snapshot = self.core.snapshot.load();
        let device = snapshot
            .good(&handle)
            .filter(|d| d.thumbprint == proof.thumbprint);
        let device = device.ok_or_else(not_let_in)?;
        self.first_time(&proof)?;
        let core = &self.core;
        let token = token::issue(
            &core.sealer.sender,
            &core.domain,
            &core.control,
            device.handle,
            &device.thumbprint,
            UnixTime::now(),
        );
        let access_token =
            token.map_err(|_| Problem::new(500, "internal", "no token could be signed: try again"))?;
        let token = Token {
            access_token,
            token_type: "DPoP".into(),
            expires_in: token::LIFE.as_secs(),
        };
        web::json(StatusCode::OK, &token)
    }

    async fn device(&self, request: &Request<Incoming>) -> Result<Answer, Problem> {
        let device = self
            .authorized(request.headers(), request.method(), "/v1/device")
            .await?;
        self.view(device)
    }

    async fn profile(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        let (head, body) = request.into_parts();
        let device = self
            .authorized(&head.headers, &head.method, "/v1/device/profile")
            .await?;
        let bytes = web::body(body, MAX_BODY).await?;
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        let profile = profile(text)?;
        let device = self
            .core
            .directory
            .set_profile(&device.handle, &profile)
            .await
            .map_err(refused)?;
        self.view(device)
    }

    async fn revoke(&self, request: &Request<Incoming>) -> Result<Answer, Problem> {
        let device = self
            .authorized(request.headers(), request.method(), "/v1/device")
            .await?;
        let actor = format!("user {}", device.user);
        let revoked = self
            .core
            .directory
            .revoke(&device.handle, &actor, "by the device itself")
            .await;
        revoked.map_err(refused)?;
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    }

    fn view(&self, device: Device) -> Result<Answer, Problem> {
        let certificate = self.core.sealer.certificate(&device, UnixTime::now());
        let certificate = certificate
            .map_err(|_| Problem::new(500, "internal", "no certificate could be signed: try again"))?;
        let view = DeviceView {
            user: device.user,
            device: device.handle,
            name: device.name,
            profile: device.profile,
            certificate: URL_SAFE_NO_PAD.encode(certificate.to_bytes()),
        };
        web::json(StatusCode::OK, &view)
    }

    /// The device whose token and proof came, as the store has it at this moment.
    async fn authorized(&self, headers: &HeaderMap, method: &Method, path: &str) -> Result<Device, Problem> {
        let token = headers
            .get(AUTHORIZATION)
            .and_then(|v| v.to_str().ok()?.strip_prefix("DPoP "))
            .ok_or_else(|| challenge("invalid_token", "a token is needed: get one at POST /v1/token"))?;
        let core = &self.core;
        let bearer = token::verify(
            token,
            core.sealer.sender.public(),
            &core.domain,
            &core.control,
            UnixTime::now(),
        )
        .map_err(|e| challenge("invalid_token", e.to_string()))?;
        let proof = self.proof(headers, method, path, Some(token))?;
        if proof.thumbprint != bearer.thumbprint {
            return Err(refused_proof(&DpopError::Key));
        }
        let device = core.directory.device(&bearer.device).await.map_err(refused)?;
        let device = device
            .filter(|d| d.revoked.is_none() && d.thumbprint == bearer.thumbprint)
            .ok_or_else(not_let_in)?;
        if !core.directory.has_user(&device.user).await.map_err(refused)? {
            return Err(not_let_in());
        }
        self.first_time(&proof)?;
        Ok(device)
    }

    fn proof(
        &self,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
        token: Option<&str>,
    ) -> Result<Proof, Problem> {
        let mut proofs = headers.get_all("dpop").iter();
        let (Some(proof), None) = (proofs.next().and_then(|v| v.to_str().ok()), proofs.next()) else {
            return Err(challenge(
                "invalid_dpop_proof",
                "exactly one DPoP header is needed (RFC 9449)",
            ));
        };
        let url = format!("{}{path}", self.core.control);
        dpop::check(proof, method.as_str(), &url, token, UnixTime::now()).map_err(|e| refused_proof(&e))
    }

    /// Each proof by a known key counts once.
    fn first_time(&self, proof: &Proof) -> Result<(), Problem> {
        self.replays()
            .admit(proof, UnixTime::now())
            .map_err(|e| refused_proof(&e))
    }

    fn replays(&self) -> MutexGuard<'_, Replays> {
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn handle(headers: &HeaderMap) -> Result<DeviceHandle, Problem> {
    let value = headers
        .get("hawser-device")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    value.ok_or_else(|| {
        Problem::new(
            400,
            "device",
            "the header Hawser-Device must name the device's handle",
        )
    })
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A device's name: one line that people can read.
fn name(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    let good = !name.is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control);
    match good {
        true => Ok(name.into()),
        false => Err(malformed_by(&format!(
            "a device's name has 1 to {MAX_NAME} characters on one line"
        ))),
    }
}

/// A profile that content can be adapted to.
fn profile(text: &str) -> Result<Profile, Problem> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|e| malformed_by(&format!("the profile: {e}")))?;
    Class::of(&profile).map_err(|e| Problem::new(400, "profile", e.to_string()))?;
    Ok(profile)
}

fn malformed() -> Problem {
    malformed_by("its fields are not those of this version")
}

fn malformed_by(why: &str) -> Problem {
    Problem::new(400, "malformed", format!("the request is malformed: {why}"))
}

fn not_let_in() -> Problem {
    Problem::new(
        403,
        "revoked",
        "this device is not let in: it was revoked, or never enrolled here",
    )
}

fn challenge(error: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(401, error, detail).with(WWW_AUTHENTICATE, format!("DPoP error=\"{error}\""))
}

fn refused_proof(e: &DpopError) -> Problem {
    challenge(e.code(), e.to_string())
}

fn refused(e: DirectoryError) -> Problem {
    match e {
        DirectoryError::Link(_) => Problem::new(403, "link", e.to_string()),
        DirectoryError::Full { .. } => Problem::new(409, "full", e.to_string()),
        DirectoryError::Unknown { .. } => not_let_in(),
        e => {
            warn!(error = %e, "the directory failed a device");
            Problem::later(
                503,
                "directory",
                "the gateway's directory cannot be used now: try again",
                5,
            )
        }
    }
}
