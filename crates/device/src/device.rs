//! An enrolled device at work: what it asks control and the mailbox for.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use bytes::Bytes;
use hawser_identity::tls;
use hawser_proto::{
    UnixTime,
    broker::{
        ItemId,
        api::{Acks, Ask, DeviceView, Granted, Profile, Token},
        envelope::{Content, MAX_ANSWER},
        statement::{AckCode, Acknowledgement, FetchRequest},
    },
};
use hawser_seal::{DeviceKeys, Opener, Recipient, dpop, random};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use minicbor::bytes::ByteVec;
use serde::Serialize;

use crate::{
    DeviceError, Home, Identity,
    clock::Clock,
    http::{Answer, Call, Server, Streaming},
};

/// Longest JSON answer that is read, in bytes.
const MAX_JSON: usize = 256 * 1024;
/// Most acknowledgements in one request.
pub(crate) const MAX_ACKS: usize = 256;

/// An enrolled device whose keys are open.
pub struct Device {
    pub(crate) home: Home,
    pub(crate) identity: Identity,
    pub(crate) keys: Arc<DeviceKeys>,
    pub(crate) opener: Opener,
    pub(crate) clock: Clock,
    mailbox: Server,
    control: Server,
}

/// Content that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What came.
    pub content: Content,
}

/// Which server to ask.
#[derive(Debug, Clone, Copy)]
enum At {
    Mailbox,
    Control,
}

pub(crate) fn header_value(text: &str) -> Result<HeaderValue, DeviceError> {
    HeaderValue::from_str(text).map_err(|e| DeviceError::Protocol {
        to: "the server".into(),
        detail: e.to_string(),
    })
}

pub(crate) fn json_body(value: &impl Serialize, headers: &mut HeaderMap) -> Result<Bytes, DeviceError> {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::to_vec(value).map_err(|e| DeviceError::Protocol {
        to: "the server".into(),
        detail: e.to_string(),
    })?;
    Ok(body.into())
}

impl Device {
    /// Opens the device in a directory by its passphrase. Takes as long as the key file's cost asks for.
    pub fn open(home: Home, passphrase: &str) -> Result<Self, DeviceError> {
        let identity = home.identity()?;
        let certificate = identity.certificate()?;
        let keys = Arc::new(home.keys(passphrase)?);
        let mailbox = Server::new(&identity.mailbox, tls::device_mailbox(identity.hub)?)?;
        let control = tls::device_control(identity.domain.clone(), identity.root)?;
        let control = Server::new(&identity.control, control)?;
        let opener = Opener::new(identity.sender()?, keys.clone(), Recipient::from(&certificate));
        Ok(Self {
            home,
            identity,
            keys,
            opener,
            clock: Clock::default(),
            mailbox,
            control,
        })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Asks for content: what a notice names, or the whole of what came shortened. `accept` as in HTTP; empty: by the profile.
    /// The device's user and key are checked again by the domain. Not cancel safe: a grant may be spent.
    pub async fn fetch(&mut self, item: ItemId, accept: &str) -> Result<Fetched, DeviceError> {
        let nonce = random::<16>()?;
        let request = FetchRequest {
            device: self.identity.device,
            item,
            nonce,
            at: self.clock.now(),
            accept: accept.into(),
            accept_language: self.identity.profile.languages.clone(),
            save_data: false,
        };
        let signed = self.keys.signing().sign(&request)?;
        let ask = Ask {
            request: B64.encode(signed.to_bytes()),
        };
        let answer = self
            .call(At::Mailbox, Method::POST, "/v1/items", Some(&ask), MAX_JSON)
            .await?;
        let granted: Granted = self.mailbox.json(&answer)?;
        let grant: String = granted
            .grant
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
            .collect();
        let path = format!("/v1/grants/{grant}");
        let answer = self
            .call(At::Mailbox, Method::GET, &path, None::<&()>, MAX_ANSWER)
            .await?;
        let opened = self.opener.open_answer(&answer.body, &nonce, self.clock.now())?;
        Ok(Fetched {
            content: opened.content,
        })
    }

    /// Tells the domain that the user has seen the message with this number.
    pub async fn seen(&mut self, sequence: u64) -> Result<(), DeviceError> {
        let state = self.home.state()?;
        let recent = state.recent(sequence).ok_or_else(|| DeviceError::File {
            path: self.home.path().into(),
            detail: format!("no message {sequence} among the last that came"),
        })?;
        let ack = self.ack(sequence, recent.digest, AckCode::Opened)?;
        self.acknowledge(&[ack]).await
    }

    /// A signed acknowledgement.
    pub(crate) fn ack(
        &self,
        sequence: u64,
        envelope: [u8; 32],
        code: AckCode,
    ) -> Result<ByteVec, DeviceError> {
        let ack = Acknowledgement {
            device: self.identity.device,
            sequence,
            code,
            envelope,
            at: self.clock.now(),
        };
        Ok(self.keys.signing().sign(&ack)?.to_bytes().into())
    }

    /// Hands acknowledgements to the mailbox.
    pub(crate) async fn acknowledge(&mut self, acks: &[ByteVec]) -> Result<(), DeviceError> {
        for some in acks.chunks(MAX_ACKS) {
            let acks = Acks {
                acks: some.iter().map(|ack| B64.encode(ack.as_slice())).collect(),
            };
            self.call(At::Mailbox, Method::POST, "/v1/acks", Some(&acks), MAX_JSON)
                .await?;
        }
        Ok(())
    }

    /// What control knows of this device.
    pub async fn view(&mut self) -> Result<DeviceView, DeviceError> {
        let answer = self.with_token(Method::GET, "/v1/device", None::<&()>).await?;
        self.control.json(&answer)
    }

    /// Changes what the device can show, at control and here.
    pub async fn set_profile(&mut self, profile: Profile) -> Result<(), DeviceError> {
        self.with_token(Method::PUT, "/v1/device/profile", Some(&profile))
            .await?;
        self.identity.profile = profile;
        self.home.save_identity(&self.identity)
    }

    /// Asks control to revoke this device: it receives nothing from then on. The directory stays.
    pub async fn revoke(&mut self) -> Result<(), DeviceError> {
        self.with_token(Method::DELETE, "/v1/device", None::<&()>)
            .await
            .map(drop)
    }

    /// The stream of what is queued, from after `last`.
    pub(crate) async fn stream(&self, last: u64) -> Result<Streaming, DeviceError> {
        let mut again = true;
        loop {
            let mut headers = self.proof(At::Mailbox, &Method::GET, "/v1/stream", None)?;
            headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
            headers.insert(
                HeaderName::from_static("last-event-id"),
                header_value(&last.to_string())?,
            );
            let call = Call {
                method: Method::GET,
                path: "/v1/stream",
                headers,
                body: Bytes::new(),
            };
            let mut wrong = false;
            match self
                .mailbox
                .stream(call, |date| wrong = self.clock.learn(date))
                .await
            {
                Err(DeviceError::Refused { status: 401, .. }) if wrong && again => again = false,
                other => return other,
            }
        }
    }

    /// By the server's clock, now.
    pub(crate) fn now(&self) -> UnixTime {
        self.clock.now()
    }

    async fn with_token(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, DeviceError> {
        let answer = self
            .call(At::Control, Method::POST, "/v1/token", None::<&()>, MAX_JSON)
            .await?;
        let token: Token = self.control.json(&answer)?;
        self.call_with(
            At::Control,
            method,
            path,
            body,
            MAX_JSON,
            Some(&token.access_token),
        )
        .await
    }

    async fn call(
        &mut self,
        at: At,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: usize,
    ) -> Result<Answer, DeviceError> {
        self.call_with(at, method, path, body, limit, None).await
    }

    /// Calls with a proof; once more by the server's clock, if it is that ours is wrong.
    async fn call_with(
        &mut self,
        at: At,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: usize,
        token: Option<&str>,
    ) -> Result<Answer, DeviceError> {
        let mut again = true;
        loop {
            let mut headers = self.proof(at, &method, path, token)?;
            let body = match body {
                Some(body) => json_body(body, &mut headers)?,
                None => Bytes::new(),
            };
            let call = Call {
                method: method.clone(),
                path,
                headers,
                body,
            };
            let clock = &self.clock;
            let mut wrong = false;
            let server = match at {
                At::Mailbox => &mut self.mailbox,
                At::Control => &mut self.control,
            };
            match server.call(call, limit, |date| wrong = clock.learn(date)).await {
                Err(DeviceError::Refused { status: 401, .. }) if wrong && again => again = false,
                other => return other,
            }
        }
    }

    fn proof(
        &self,
        at: At,
        method: &Method,
        path: &str,
        token: Option<&str>,
    ) -> Result<HeaderMap, DeviceError> {
        let origin = match at {
            At::Mailbox => self.mailbox.origin(),
            At::Control => self.control.origin(),
        };
        let url = format!("{origin}{path}");
        let proof = dpop::prove(
            self.keys.signing(),
            method.as_str(),
            &url,
            token,
            self.clock.now(),
        )?;
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("dpop"), header_value(&proof)?);
        headers.insert(
            HeaderName::from_static("hawser-device"),
            header_value(&self.identity.device.to_string())?,
        );
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, header_value(&format!("DPoP {token}"))?);
        }
        Ok(headers)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.identity.device)
    }
}
