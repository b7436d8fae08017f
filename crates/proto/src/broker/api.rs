//! JSON that devices and applications exchange over HTTP. Bytes are base64url without padding. Errors are problem documents
//! (RFC 9457).

use serde::{Deserialize, Serialize};

use super::{DeliveryId, DeviceHandle, UserName, envelope::Urgency};
use crate::UnixTime;

/// `POST /v1/devices` at control: CBOR of the request, and its HMAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// CBOR of [`super::enrolment::EnrolmentRequest`].
    pub request: String,
    /// HMAC-SHA-256 over these bytes.
    pub mac: String,
}

/// Answer to [`Enrol`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// CBOR of [`super::enrolment::EnrolmentAnswer`].
    pub answer: String,
    /// HMAC-SHA-256 over the request's SHA-256 and these bytes.
    pub mac: String,
}

/// Answer to `POST /v1/token` at control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Bound to the device's key (RFC 9449).
    pub access_token: String,
    /// Always `DPoP`.
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
}

/// What a device can show (`PUT /v1/device/profile` at control, and at enrolment).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Media types with quality values, best first, as in `Accept`: `text/html, text/plain;q=0.5, image/png`.
    pub accept: String,
    /// Most bytes of one content.
    pub max_bytes: u64,
    /// Width and height of the screen in pixels.
    pub screen: Option<(u32, u32)>,
    /// Languages, as in `Accept-Language`.
    pub languages: String,
    /// Version of this format.
    pub schema: u32,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            accept: "text/plain".into(),
            max_bytes: 64 * 1024,
            screen: None,
            languages: String::new(),
            schema: 1,
        }
    }
}

/// What a device may know of itself (`GET /v1/device` at control).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Whose.
    pub user: UserName,
    /// Its handle.
    pub device: DeviceHandle,
    /// For people.
    pub name: String,
    /// What it can show.
    pub profile: Profile,
    /// Its certificate, signed anew: base64url of [`super::statement::Signed`] [`super::statement::DeviceCertificate`].
    pub certificate: String,
}

/// Answer to `GET /v1/envelopes` at the mailbox (long poll).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// In order of their sequence.
    pub items: Vec<Queued>,
}

/// One thing in a device's queue. In the event stream the `event` field says which, `id` is the (last) sequence number, and
/// `data` the base64url.
///
/// They come in the order in which they reached the mailbox: a skip record may follow a later envelope. What a device sends as
/// `Last-Event-ID`, or as `after`, is therefore not the last `id` that it saw, but the highest number up to which it has
/// everything or an explanation. Whatever is above is sent again until it is acknowledged; skip records up to there are forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Queued {
    /// [`super::Envelope`].
    Envelope(String),
    /// [`super::statement::Signed`] [`super::statement::Skip`].
    Skip(String),
}

/// `POST /v1/acks` at the mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acks {
    /// Each [`super::statement::Signed`] [`super::statement::Acknowledgement`], at most 256.
    pub acks: Vec<String>,
}

/// `POST /v1/items` at the mailbox: asks for content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// [`super::statement::Signed`] [`super::statement::FetchRequest`].
    pub request: String,
}

/// Answer to [`Ask`]: the sealed answer can be read once at `GET /v1/grants/{grant}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// 16 random bytes.
    pub grant: String,
    /// Bytes of the sealed answer.
    pub size: u64,
    /// Seconds that it is good for.
    pub expires_in: u64,
}

/// How far a delivery to one device is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is in the gateway's outbox.
    #[n(0)]
    Accepted,
    /// It waits (the user has no device yet, quiet hours).
    #[n(1)]
    Held,
    /// It is sealed to the device.
    #[n(2)]
    Sealed,
    /// It is on the mailbox's disk.
    #[n(3)]
    Queued,
    /// It was written to a connection of the device.
    #[n(4)]
    Sent,
    /// The device opened it and handed it on; by its signature.
    #[n(5)]
    Acked,
    /// The user has seen it; by the device's signature.
    #[n(6)]
    Opened,
    /// The device could not open or deliver it; by its signature.
    #[n(7)]
    Failed,
    /// Its time was over.
    #[n(8)]
    Expired,
    /// A newer one took its place, another device was enough, or the device is gone.
    #[n(9)]
    Dropped,
    /// Given up after too many tries.
    #[n(10)]
    Dead,
}

impl State {
    /// Nothing more will happen, but that an acknowledged content may be opened yet.
    pub fn is_final(self) -> bool {
        self >= Self::Acked
    }
}

/// Answer to `POST /v1/events` at the gateway; `Location` names the delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// To be asked after at `/v1/deliveries/{id}`.
    pub delivery: DeliveryId,
    /// The same source and id was accepted before: nothing new happens.
    pub duplicate: bool,
}

/// `GET /v1/deliveries/{id}` at the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// This one.
    pub delivery: DeliveryId,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
    /// CloudEvents `type`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it was accepted.
    pub accepted: UnixTime,
    /// When it ends.
    pub expires: UnixTime,
    /// How urgent.
    pub urgency: Urgency,
    /// Each recipient's each device. A user without one has a single row without a device.
    pub recipients: Vec<Recipient>,
}

/// A row of a [`Delivery`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Who.
    pub user: UserName,
    /// Which device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceHandle>,
    /// Its name, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How far it is.
    pub state: State,
    /// Since when.
    pub since: UnixTime,
    /// Which variant of the content was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Why, where that says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// JWS (ES256) by the domain's sender key over what the device has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
}
