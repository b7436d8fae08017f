//! The last exchanges of each service, for an operator's eyes (`hawser inspect`): who asked whom for what, what came of it, and
//! which messages belong together. Metadata alone, bounded in number and size; heads and bodies where an export's `inspect` table asks
//! for them (`record`), masked when shown (`mask`).

pub(crate) mod mask;
pub(crate) mod record;
pub(crate) mod show;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use hawser_callback::{Report, Soap};
use serde::Serialize;

use record::{Memory, Recording};
pub use show::{Shown, ShownBody, ShownRequest, ShownResponse};

/// Exchanges that are kept of each service.
const PER_SERVICE: usize = 200;
/// Services of which any are kept; names come from exports and routes, never from callers.
const SERVICES: usize = 512;

/// One exchange, ended.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// Its id, the same at both gateways.
    pub request: String,
    /// `client` where the call came in, `export` where it was served, `visit` where it came from outside by a published name.
    pub side: &'static str,
    /// Whom the call came from: a client's address, a gateway, or a published name.
    pub who: String,
    /// The user who logged in, at a published name that asks for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The service, as this gateway knows it.
    pub service: String,
    /// Method of the request.
    pub method: String,
    /// Service and path, without the query.
    pub what: String,
    /// Status of the answer; none if there was none.
    pub status: Option<u16>,
    /// From the request's head to the end of the answer, in milliseconds.
    pub ms: u64,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// `complete`, `broken` or `dropped`.
    pub outcome: &'static str,
    /// What a SOAP request says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soap: Option<SoapNote>,
    /// Addresses for calls back that were replaced: where each stood.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// Those that stayed, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// Ids of the calls that this one answers, as far as they are kept here (WS-Addressing `RelatesTo`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// Id of the exchange whose recorded request this one sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replays: Option<String>,
    /// Whether its recording is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recorded: bool,
    /// Number of its recording.
    #[serde(skip)]
    pub(crate) recording: Option<u64>,
}

/// What a SOAP message says of itself (WS-Addressing 1.0, section 3).
#[derive(Debug, Clone, Serialize)]
pub struct SoapNote {
    /// `wsa:Action`.
    pub action: Option<String>,
    /// Local name of the body's first element.
    pub operation: Option<String>,
    /// `wsa:MessageID`.
    pub message_id: Option<String>,
    /// `wsa:RelatesTo`.
    pub relates_to: Vec<String>,
    /// Whether its header is signed.
    pub signed: bool,
}

impl From<&Soap> for SoapNote {
    fn from(soap: &Soap) -> Self {
        Self {
            action: soap.action.clone(),
            operation: soap.operation.clone(),
            message_id: soap.message_id.clone(),
            relates_to: soap.relates_to.clone(),
            signed: soap.signed,
        }
    }
}

/// What was seen in a message while it passed.
#[derive(Debug, Default)]
pub struct Seen {
    pub(crate) soap: Option<SoapNote>,
    pub(crate) replaced: Vec<String>,
    pub(crate) left: Vec<String>,
}

impl Seen {
    /// Takes in what an editor says of a message.
    pub(crate) fn report(&mut self, report: &Report) {
        self.soap = self.soap.take().or(report.soap.as_deref().map(SoapNote::from));
        self.replaced
            .extend(report.replaced.iter().map(|r| r.place.to_string()));
        let left = report.left.iter().map(|left| match &left.place {
            Some(place) => format!("{place}: {}", left.why),
            None => left.why.to_string(),
        });
        self.left.extend(left);
    }
}

/// The kept exchanges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inspector {
    kept: Arc<Mutex<BTreeMap<String, VecDeque<Exchange>>>>,
    memory: Arc<Memory>,
}

impl Inspector {
    /// Keeps an exchange, and forgets the oldest of its service when there are too many.
    pub(crate) fn keep(&self, exchange: Exchange) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= SERVICES && !kept.contains_key(&exchange.service) {
            exchange.recording.iter().for_each(|n| self.memory.forget(*n));
            return;
        }
        let of_service = kept.entry(exchange.service.clone()).or_default();
        if of_service.len() >= PER_SERVICE {
            let gone = of_service.pop_front().and_then(|gone| gone.recording);
            gone.iter().for_each(|n| self.memory.forget(*n));
        }
        of_service.push_back(exchange);
    }

    /// Those that are kept, oldest first, each with the calls that it answers.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Exchange> = kept.values().flatten().cloned().collect();
        drop(kept);
        all.sort_by_key(|e| e.at);
        let mut asked: BTreeMap<String, String> = BTreeMap::new();
        for e in &all {
            if let Some(id) = e.soap.as_ref().and_then(|s| s.message_id.clone()) {
                asked.insert(id, e.request.clone());
            }
        }
        for e in &mut all {
            let related = e.soap.iter().flat_map(|s| &s.relates_to);
            e.answers = related.filter_map(|id| asked.get(id).cloned()).collect();
            e.recorded = e.recording.is_some_and(|n| self.memory.recording(n).is_some());
        }
        all
    }

    /// The exchange whose id begins so, and what is recorded of it.
    pub(crate) fn find(&self, id: &str) -> Result<(Exchange, Option<Arc<Recording>>), String> {
        let mut found = self.exchanges();
        found.retain(|e| !id.is_empty() && e.request.starts_with(id));
        // Ids come from the calling gateway: the same one twice must not stand for one exchange.
        if found.len() > 1 && found.iter().any(|e| e.recorded) {
            found.retain(|e| e.recorded);
        }
        match found.len() {
            0 => Err(format!(
                "no exchange {id:?} is kept: see `hawser inspect` for those that are, and name one by its REQUEST"
            )),
            1 => {
                let exchange = found.remove(0);
                let recording = exchange.recording.and_then(|n| self.memory.recording(n));
                Ok((exchange, recording))
            }
            several => Err(format!(
                "{several} exchanges have an id that begins with {id:?}: write more of it (`hawser inspect --json` has it whole)"
            )),
        }
    }

    /// Where recordings go.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(service: &str, at: u64, message_id: Option<&str>, relates_to: &[&str]) -> Exchange {
        Exchange {
            at,
            request: format!("id{at}"),
            side: "client",
            who: "10.0.0.1:1".into(),
            user: None,
            service: service.into(),
            method: "POST".into(),
            what: "x".into(),
            status: Some(202),
            ms: 1,
            bytes: 0,
            outcome: "complete",
            soap: Some(SoapNote {
                action: None,
                operation: None,
                message_id: message_id.map(Into::into),
                relates_to: relates_to.iter().map(|s| (*s).to_owned()).collect(),
                signed: false,
            }),
            replaced: Vec::new(),
            left: Vec::new(),
            answers: Vec::new(),
            replays: None,
            recorded: false,
            recording: None,
        }
    }

    #[test]
    fn an_answer_is_found_to_the_call_that_it_relates_to() {
        let inspector = Inspector::default();
        inspector.keep(exchange("hawser-callbacks", 2, None, &["urn:1", "urn:unknown"]));
        inspector.keep(exchange("orders.beta", 1, Some("urn:1"), &[]));
        let all = inspector.exchanges();
        assert_eq!(all[0].request, "id1");
        assert_eq!(all[1].answers, ["id1"]);
    }

    #[test]
    fn the_oldest_of_a_service_goes_and_others_stay() {
        let inspector = Inspector::default();
        inspector.keep(exchange("a.b", 0, None, &[]));
        for at in 1..=PER_SERVICE as u64 + 1 {
            inspector.keep(exchange("c.d", at, None, &[]));
        }
        let all = inspector.exchanges();
        assert_eq!(all.len(), PER_SERVICE + 1);
        assert_eq!((all[0].at, all[1].at), (0, 2));
    }
}
