//! A recorded request, sent to its origin again: through the export as it is now, its policy included, on behalf of the gateway that
//! sent it first.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use hawser_proto::ServiceName;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;

use super::{Exporter, faulty};
use crate::{
    callbacks,
    calls::{Call, Side},
    headers::fresh_request_id,
    inspect::{
        Exchange,
        record::Recording,
        show::{self, Shown},
    },
    problem::{Asker, empty},
    seam::{Body, BoxError},
};

/// Longest wait for the head of a replay's answer, and for the rest of it, in all.
const PATIENCE: Duration = Duration::from_secs(25);

/// What came of a replay.
#[derive(Debug, Serialize)]
pub struct Replayed {
    /// Id of the new exchange.
    pub request: String,
    /// Status of the answer; none: it took too long.
    pub status: Option<u16>,
    /// Whether the answer came to its end in time.
    pub complete: bool,
}

impl Exporter {
    /// An exchange, by its id or the beginning of that, with what is recorded of it, secrets masked.
    pub fn shown(&self, id: &str) -> Result<Shown, String> {
        let (exchange, recording) = self.0.cx.metrics.inspector().find(id)?;
        let name = exchange.service.parse::<ServiceName>().ok();
        let export = name.and_then(|name| self.0.export(&name));
        let now = export.as_ref().and_then(|e| e.plan.inspect.as_deref());
        Ok(show::shown(exchange, recording.as_deref(), now))
    }

    /// Sends a recorded request again. Cancel safe: the call is dropped.
    pub async fn replay(&self, id: &str) -> Result<Replayed, String> {
        let (first, recording) = self.0.cx.metrics.inspector().find(id)?;
        let recording = recording.ok_or(show::NOT_RECORDED);
        let recording = recording.map_err(|why| cannot(&first, why))?;
        if let Some(why) = recording.not_replayable() {
            return Err(cannot(&first, why));
        }
        let name = first
            .service
            .parse::<ServiceName>()
            .map_err(|_| cannot(&first, "it names no service"))?;
        let export = self.0.export(&name);
        let export = export.ok_or_else(|| cannot(&first, "its service is no longer exported"))?;
        let request = again(&recording);
        let asker = Asker::of(request.method(), request.headers());
        let new = fresh_request_id();
        let mut call = Call::begin(
            &self.0.cx.metrics,
            Side::Export,
            new,
            recording.peer.to_string(),
            request.method().clone(),
            format!("{name}{}", callbacks::path::shown(request.uri().path())),
        );
        call.service(&name);
        call.replays(first.request);
        let request = call.record(export.plan.inspect.as_ref(), &recording.peer, request);
        let mut replayed = Replayed {
            request: new.to_string(),
            status: None,
            complete: false,
        };
        let call = Arc::new(Mutex::new(Some(call)));
        let exchange = async {
            let answered = self
                .0
                .call(&export, &recording.peer, new, request, call.clone())
                .await;
            let answer = answered.unwrap_or_else(|fault| faulty(&fault, new, asker));
            let followed = call.lock().ok().and_then(|mut call| call.take());
            let answer = match followed {
                Some(call) => call.follow(answer, None),
                None => answer,
            };
            replayed.status = Some(answer.status().as_u16());
            let mut body = answer.into_body();
            replayed.complete = loop {
                match body.frame().await {
                    None => break true,
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break false,
                }
            };
        };
        // What takes longer is cut off: the exchange says so.
        let _ = tokio::time::timeout(PATIENCE, exchange).await;
        Ok(replayed)
    }
}

fn cannot(first: &Exchange, why: &str) -> String {
    format!("{} cannot be sent again: {why}", first.request)
}

/// The request as it came through the tunnel. A body of unannounced length stays one.
fn again(recording: &Recording) -> Request<Body> {
    let body = match recording.body.none {
        true => empty(),
        false => {
            let data = Bytes::copy_from_slice(&recording.body.data);
            let data = (!data.is_empty()).then(|| Frame::data(data));
            let trailers = recording.body.trailers.clone().map(Frame::trailers);
            let frames = data.into_iter().chain(trailers).map(Ok::<_, BoxError>);
            StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
        }
    };
    let mut request = Request::new(body);
    *request.method_mut() = recording.method.clone();
    *request.uri_mut() = recording.uri.clone();
    *request.headers_mut() = recording.headers.clone();
    *request.version_mut() = http::Version::HTTP_2;
    request
}
