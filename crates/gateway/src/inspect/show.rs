//! A recorded exchange as it is shown: secrets masked, bodies decoded as far as that is bounded.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde::Serialize;

use super::{
    Exchange,
    mask::{Masks, Withheld},
    record::{Kept, Recording},
};
use crate::config::InspectPlan;

/// Most bytes that a body is decoded to.
const DECODED: usize = 4 << 20;

/// An exchange, with what is recorded of it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// What is known of every exchange.
    pub exchange: Exchange,
    /// What was asked; none: not recorded, or dropped to make room.
    pub request: Option<ShownRequest>,
    /// What was answered; none: not recorded, or there was no answer.
    pub response: Option<ShownResponse>,
    /// Why it cannot be sent again; none: it can.
    pub not_replayable: Option<&'static str>,
}

/// A request.
#[derive(Debug, Serialize)]
pub struct ShownRequest {
    /// Method.
    pub method: String,
    /// Host, as the client wrote it.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: ShownBody,
}

/// An answer.
#[derive(Debug, Serialize)]
pub struct ShownResponse {
    /// Status.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: ShownBody,
}

/// A body.
#[derive(Debug, Default, Serialize)]
pub struct ShownBody {
    /// Bytes that passed.
    pub bytes: u64,
    /// Those that are kept.
    pub kept: usize,
    /// Whether bytes that passed are not kept.
    pub truncated: bool,
    /// Whether it came to its end.
    pub ended: bool,
    /// The content coding that was undone.
    pub decoded: Option<String>,
    /// What is kept, if it is text.
    pub text: Option<String>,
    /// What is kept, if it is none.
    pub base64: Option<String>,
    /// Why neither is shown.
    pub withheld: Option<String>,
}

/// What is shown of an exchange, with the masks of now besides those that it was recorded under.
pub(crate) fn shown(exchange: Exchange, recording: Option<&Recording>, now: Option<&InspectPlan>) -> Shown {
    let masks = Masks::of(recording.map(|r| &*r.plan).into_iter().chain(now));
    let not_replayable = match recording {
        Some(recording) => recording.not_replayable(),
        None => Some(NOT_RECORDED),
    };
    Shown {
        exchange,
        request: recording.map(|r| ShownRequest {
            method: r.method.to_string(),
            host: r.uri.authority().map(ToString::to_string).unwrap_or_default(),
            target: masks.target(r.uri.path_and_query().map_or("/", |p| p.as_str())),
            headers: headers(&masks, &r.headers),
            body: body(&masks, &r.headers, &r.body),
        }),
        response: recording.and_then(|r| r.answer.as_ref()).map(|a| ShownResponse {
            status: a.status.as_u16(),
            headers: headers(&masks, &a.headers),
            body: body(&masks, &a.headers, &a.body),
        }),
        not_replayable,
    }
}

/// Said of what is not there.
pub(crate) const NOT_RECORDED: &str = "it is not recorded: its export has no `inspect` table, it is older than that, or it was \
     dropped to make room (gateway.inspect.memory_bytes)";

impl Recording {
    /// Why it cannot be sent again as it was; none: it can.
    pub(crate) fn not_replayable(&self) -> Option<&'static str> {
        if self.upgraded {
            Some("it became a WebSocket, and what was said there is not recorded")
        } else if self.body.is_truncated() {
            Some(
                "its request's body was longer than what is kept of it: raise body_bytes of the export's `inspect` table",
            )
        } else if !self.body.ended {
            Some("its request's body did not come to its end, or was not read to it")
        } else {
            None
        }
    }
}

/// The gateways' own stay theirs.
fn headers(masks: &Masks, headers: &HeaderMap) -> Vec<(String, String)> {
    let lines = headers.iter().filter(|(n, _)| !n.as_str().starts_with("hawser-"));
    lines
        .map(|(n, v)| (n.to_string(), masks.header(n, v.as_bytes())))
        .collect()
}

fn body(masks: &Masks, headers: &HeaderMap, kept: &Kept) -> ShownBody {
    let text = |name: &HeaderName| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let coding = text(&CONTENT_ENCODING)
        .filter(|c| !c.trim().is_empty() && !c.trim().eq_ignore_ascii_case("identity"));
    let mut shown = ShownBody {
        bytes: kept.total,
        kept: kept.data.len(),
        truncated: kept.is_truncated(),
        ended: kept.ended,
        ..ShownBody::default()
    };
    if kept.data.is_empty() {
        return shown;
    }
    let plain = match &coding {
        None => Ok(kept.data.clone()),
        Some(coding) => hawser_callback::decoded(coding, &kept.data, DECODED).ok_or(Withheld(
            "its content coding cannot be undone here, so that its secrets cannot be found",
        )),
    };
    let kind = text(&CONTENT_TYPE).unwrap_or_default();
    match plain.and_then(|plain| masks.body(&kind, plain)) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => shown.text = Some(text),
            Err(e) => shown.base64 = Some(STANDARD.encode(e.as_bytes())),
        },
        Err(Withheld(why)) => shown.withheld = Some(why.into()),
    }
    shown.decoded = coding.map(|c| c.into_owned());
    shown
}
