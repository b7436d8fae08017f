//! What an exported service says of itself: its registered description, and descriptions that it serves, with addresses that
//! work where the caller is; and requests held against it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use hawser_describe::{
    Description, Location, Place as HintedPlace, Summary, Validator, callbacks, is_description, rewrite,
};
use hawser_proto::{Fault, Place, ServiceId};
use hawser_session::collect;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING,
    },
    uri::Authority,
};
use http_body::Body as _;
use http_body_util::{BodyExt, BodyStream, Limited, StreamBody};
use serde::Serialize;
use tokio::time::timeout;

use super::origin::Origin;
use crate::{
    config::{DocumentPlan, HostHeader, InterfacePlan, OriginUrl, OriginVersion},
    front::target::Suffix,
    headers::{fresh_request_id, value},
    problem::{broken, empty},
    seam::{Body, Links, REQUEST_ID, SERVICE},
};

/// Where the registered description of each service is, below the service's own name.
pub(crate) const PATH: &str = "/.hawser/interface";
/// Bytes of an answer that are looked at before it is decided whether it is a description.
const SNIFF: usize = 1024;
/// How long a description that was fetched is taken for the one that is there.
const FRESH: Duration = Duration::from_secs(60);
/// Longest wait for one to be fetched.
const FETCH: Duration = Duration::from_secs(10);
/// Largest body of a request that is held against a description, in bytes.
const MAX_CHECKED: usize = 4 << 20;

/// A service's registered description.
pub(super) struct Interface {
    plan: InterfacePlan,
    read: Mutex<Option<(Instant, Arc<Document>)>>,
}

/// A description that was read.
struct Document {
    bytes: Bytes,
    hint: Option<String>,
    validator: Option<Validator>,
}

impl Interface {
    /// Reads a file at once, so that a wrong one is told of where it is named; what is fetched is fetched when it is needed.
    pub(super) fn new(plan: &InterfacePlan) -> Result<Self, String> {
        let interface = Self {
            plan: plan.clone(),
            read: Mutex::default(),
        };
        if let DocumentPlan::File(path) = &plan.at {
            let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let hint = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let document = interface
                .document(bytes.into(), hint)
                .map_err(|e| format!("{}: {e}", path.display()))?;
            interface.keep(document);
        }
        Ok(interface)
    }

    /// Answers for the description, with addresses under `authority`, as the caller knows the service.
    /// Of clients, which have no `origin`, it says nothing of where they are: addresses stay.
    pub(super) async fn serve(
        &self,
        origin: Option<&Origin>,
        authority: &Authority,
    ) -> Result<Response<Body>, Fault> {
        let document = self.get(origin).await?;
        let own = |location, address: &str| match location {
            Location::Endpoint if origin.is_some() => Some(under(authority, address)),
            Location::Endpoint | Location::Import => None,
        };
        let bytes = rewrite(&document.bytes, document.hint.as_deref(), &mut { own })
            .map_err(|e| unreadable(&e.to_string()))?;
        let kind = content_type(document.hint.as_deref(), &bytes);
        let mut response = Response::new(hawser_session::full(bytes));
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }

    /// Refuses a request that the description does not know, where that is asked for.
    pub(super) async fn admit(
        &self,
        origin: &Origin,
        request: Request<Body>,
    ) -> Result<Request<Body>, Fault> {
        if !self.plan.validate {
            return Ok(request);
        }
        let document = self.get(Some(origin)).await?;
        let Some(validator) = &document.validator else {
            return Ok(request);
        };
        let (mut parts, body) = request.into_parts();
        let body = match body.is_end_stream() {
            true => Bytes::new(),
            false => collect(body, MAX_CHECKED).await.map_err(|e| too_large(&*e))?,
        };
        let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        validator
            .request(&parts.method, target, &parts.headers, &body)
            .map_err(|e| invalid(&e.to_string()))?;
        if !body.is_empty() {
            parts.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let body = if body.is_empty() {
            empty()
        } else {
            hawser_session::full(body)
        };
        Ok(Request::from_parts(parts, body))
    }

    async fn get(&self, origin: Option<&Origin>) -> Result<Arc<Document>, Fault> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_file = matches!(self.plan.at, DocumentPlan::File(_));
        if let Some((when, document)) = &known
            && (is_file || when.elapsed() < FRESH)
        {
            return Ok(document.clone());
        }
        let fetched = match &self.plan.at {
            DocumentPlan::Origin(path) => match origin {
                Some(origin) => fetch(origin, path.as_str()).await,
                None => Err("there is no origin".into()),
            },
            DocumentPlan::Elsewhere(url, path) => {
                let other = Origin::new(url, None, OriginVersion::One, HostHeader::Origin, None, FETCH);
                match other {
                    Ok(other) => fetch(&other, path.as_str()).await,
                    Err(error) => Err(error.to_string()),
                }
            }
            DocumentPlan::File(_) => Err("it was not read".into()),
        };
        match (
            fetched.and_then(|(bytes, hint)| self.document(bytes, hint)),
            known,
        ) {
            (Ok(document), _) => Ok(self.keep(document)),
            (Err(error), Some((_, old))) => {
                tracing::warn!(
                    error,
                    "a service's description cannot be had; the last one is used"
                );
                Ok(self.keep_again(old))
            }
            (Err(error), None) => Err(unreadable(&error)),
        }
    }

    fn document(&self, bytes: Bytes, hint: Option<String>) -> Result<Document, String> {
        let description = Description::parse(&bytes, hint.as_deref()).map_err(|e| e.to_string())?;
        let validator = match self.plan.validate {
            true => Some(Validator::new(&[description]).map_err(|e| e.to_string())?),
            false => None,
        };
        Ok(Document {
            bytes,
            hint,
            validator,
        })
    }

    fn keep(&self, document: Document) -> Arc<Document> {
        self.keep_again(Arc::new(document))
    }

    fn keep_again(&self, document: Arc<Document>) -> Arc<Document> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        *read = Some((Instant::now(), document.clone()));
        document
    }
}

/// A service's description, as its callers get it.
#[derive(Debug, Clone, Serialize)]
pub struct InterfaceView {
    /// The document.
    pub text: String,
    /// What it says in short.
    pub summary: Summary,
    /// Where requests name addresses to be called back at, if it says so.
    pub hints: Hints,
}

/// Places in requests that a description says are addresses to be called back at, in the words of `[[gateway.callbacks.rule]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hints {
    /// JSON pointers.
    pub json: BTreeSet<String>,
    /// Headers.
    pub headers: BTreeSet<String>,
    /// Query parameters.
    pub query: BTreeSet<String>,
}

impl Hints {
    fn of(description: &Description) -> Self {
        let mut hints = Self::default();
        let Description::OpenApi(api) = description else {
            return hints;
        };
        for hint in callbacks(api) {
            match hint.place {
                HintedPlace::Body(pointer) if !pointer.is_empty() => hints.json.insert(pointer),
                HintedPlace::Query(name) => hints.query.insert(name),
                HintedPlace::Header(name) => hints.headers.insert(name),
                // Paths and answers are not looked through; a whole body is no JSON that a rule could name.
                _ => false,
            };
        }
        hints
    }
}

/// Asks the gateway that exports `service` for its registered description. Cancel safe.
pub(crate) async fn ask(links: &Links, suffix: &Suffix, service: &ServiceId) -> Result<InterfaceView, Fault> {
    let lease = links.http(service).await?;
    let request = Request::get(format!("http://{service}.{suffix}{PATH}"))
        .version(Version::HTTP_2)
        .header(SERVICE, value(&service.name))
        .header(REQUEST_ID, value(fresh_request_id()))
        .body(empty())
        .map_err(|e| unreadable(&e.to_string()))?;
    let response = lease.send(request).await.map_err(|e| e.fault)?;
    let status = response.status();
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let bytes = collect(response.into_body(), hawser_describe::MAX_BYTES).await;
    let bytes = bytes.map_err(|e| unreadable(&e.to_string()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if status != StatusCode::OK {
        return Err(unreadable(&format!(
            "the gateway answered {status}: {}",
            text.chars().take(500).collect::<String>()
        )));
    }
    let read = Description::parse(&bytes, kind.as_deref()).map_err(|e| unreadable(&e.to_string()))?;
    Ok(InterfaceView {
        text,
        summary: read.summary(),
        hints: Hints::of(&read),
    })
}

/// Whether a request may be for a description: then its answer must come in plain.
pub(super) fn may_ask_for_one(method: &Method, uri: &Uri) -> bool {
    if *method != Method::GET {
        return false;
    }
    let path = uri.path().to_ascii_lowercase();
    let query = uri.query().unwrap_or_default().to_ascii_lowercase();
    let has = |text: &str, any: &[&str]| any.iter().any(|w| text.contains(w));
    let ends = [".wsdl", ".xsd", ".json", ".yaml", ".yml"];
    has(&query, &["wsdl", "xsd"])
        || has(&path, &["openapi", "swagger", "api-docs", "wsdl"])
        || ends.iter().any(|e| path.ends_with(e))
}

/// Asks the origin to send it in plain.
pub(super) fn ask_in_plain(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// An answer to what [may be a question for a description](may_ask_for_one), in which the addresses of the service `url` become
/// those by which the caller knows it. Anything else passes as it is, streamed after its first kilobyte.
pub(super) async fn served(url: &OriginUrl, asked: &Uri, response: Response<Body>) -> Response<Body> {
    let Some(authority) = asked.authority() else {
        return response;
    };
    let headers = response.headers();
    let coded = headers.get(CONTENT_ENCODING).is_some_and(|c| c != "identity");
    let events = headers
        .get(CONTENT_TYPE)
        .is_some_and(|c| c.as_bytes().starts_with(b"text/event-stream"));
    if response.status() != StatusCode::OK || coded || events || response.body().is_end_stream() {
        return response;
    }
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let (mut parts, mut body) = response.into_parts();
    let mut seen = Vec::new();
    let mut frames = Vec::new();
    while seen.len() < SNIFF {
        match body.frame().await {
            Some(Ok(frame)) => {
                seen.extend_from_slice(frame.data_ref().map_or(&[], |d| &d[..]));
                frames.push(Ok(frame));
            }
            Some(Err(error)) => {
                frames.push(Err(error));
                break;
            }
            None => break,
        }
    }
    let rest = StreamBody::new(futures_util::stream::iter(frames).chain(BodyStream::new(body)));
    if !is_description(kind.as_deref(), &seen) {
        return Response::from_parts(parts, rest.boxed_unsync());
    }
    let whole = match collect(rest.boxed_unsync(), hawser_describe::MAX_BYTES).await {
        Ok(whole) => whole,
        Err(error) => return Response::from_parts(parts, broken(error)),
    };
    let own = |_: Location, address: &str| named(url, asked, authority, address);
    match rewrite(&whole, kind.as_deref(), &mut { own }) {
        Ok(changed) => {
            parts.headers.remove(TRANSFER_ENCODING);
            parts.headers.insert(CONTENT_LENGTH, changed.len().into());
            Response::from_parts(parts, hawser_session::full(changed))
        }
        Err(error) => {
            tracing::info!(%error, path = asked.path(), "a description passes as it is");
            Response::from_parts(parts, hawser_session::full(whole))
        }
    }
}

/// The address by which the caller reaches what the service calls `address`, if that is itself: the origin as it is configured, the
/// host that the caller used, or whatever host at the very path that was asked for.
fn named(url: &OriginUrl, asked: &Uri, authority: &Authority, address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    uri.scheme()?;
    let host = uri.authority()?;
    let port = host.port_u16().unwrap_or(if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    });
    let bare = host.host().trim_start_matches('[').trim_end_matches(']');
    let itself = bare.eq_ignore_ascii_case(url.host()) && port == url.port();
    (itself || host == authority || uri.path() == asked.path()).then(|| under(authority, address))
}

/// Path and query of `address` under another host. An address without a path stays one: clients append theirs.
fn under(authority: &Authority, address: &str) -> String {
    let rest = match address.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("", |at| &rest[at..]),
        None => address,
    };
    let slash = if rest.is_empty() || rest.starts_with('/') {
        ""
    } else {
        "/"
    };
    format!("http://{authority}{slash}{rest}")
}

async fn fetch(origin: &Origin, path: &str) -> Result<(Bytes, Option<String>), String> {
    let request = Request::get(path)
        .version(Version::HTTP_11)
        .header(ACCEPT_ENCODING, "identity")
        .body(empty())
        .map_err(|e| e.to_string())?;
    let response = timeout(FETCH, origin.check(request)).await;
    let response = response
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|e| e.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("GET {path} was answered {}", response.status()));
    }
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let body = Limited::new(response.into_body(), hawser_describe::MAX_BYTES).collect();
    let body = timeout(FETCH, body)
        .await
        .map_err(|_| "it did not end in time".to_owned())?;
    Ok((body.map_err(|e| e.to_string())?.to_bytes(), kind))
}

fn content_type(hint: Option<&str>, bytes: &[u8]) -> HeaderValue {
    let hint = hint.unwrap_or_default().to_ascii_lowercase();
    HeaderValue::from_static(match bytes.trim_ascii_start().first() {
        Some(b'<') | None => "text/xml; charset=utf-8",
        _ if hint.ends_with("yaml") || hint.ends_with("yml") => "application/yaml",
        Some(b'{') => "application/json",
        _ => "application/yaml",
    })
}

fn fault(status: u16, code: &str, detail: String, advice: &str) -> Fault {
    Fault::new(Place::ServerGateway, status, code, detail, advice)
}

/// A service that has none.
pub(super) fn none() -> Fault {
    fault(
        404,
        "no-interface",
        "the service has no registered description".into(),
        "name one in the [gateway.export.interface] of its gateway",
    )
}

fn unreadable(why: &str) -> Fault {
    fault(
        502,
        "interface-unreadable",
        format!("the service's description cannot be had: {why}"),
        "see the [gateway.export.interface] of its gateway",
    )
}

fn invalid(why: &str) -> Fault {
    fault(
        400,
        "request-invalid",
        format!("the request is not as the service's description says: {why}"),
        "`hawser services describe SERVICE` shows the description",
    )
}

fn too_large(why: &(dyn std::error::Error + Send + Sync)) -> Fault {
    fault(
        413,
        "request-too-large",
        format!("the request's body cannot be held against the service's description: {why}"),
        "send 4 MiB at most, or set validate = false in the [gateway.export.interface] of its gateway",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_service_itself_become_what_the_caller_calls_it() {
        let url: OriginUrl = "http://erp.internal:8080".parse().unwrap();
        let asked: Uri = "http://orders.beta.hawser/orders?wsdl".parse().unwrap();
        let authority = asked.authority().unwrap();
        let named = |address| named(&url, &asked, authority, address);
        assert_eq!(
            named("http://ERP.internal:8080/a?x=1").as_deref(),
            Some("http://orders.beta.hawser/a?x=1")
        );
        assert_eq!(
            named("http://orders.beta.hawser/b").as_deref(),
            Some("http://orders.beta.hawser/b")
        );
        assert_eq!(
            named("https://www.erp.example/orders").as_deref(),
            Some("http://orders.beta.hawser/orders"),
            "the path asked for"
        );
        assert_eq!(named("http://other.internal/x"), None);
        assert_eq!(named("relative.xsd"), None);
        assert_eq!(
            under(authority, "http://erp.internal:8080"),
            "http://orders.beta.hawser"
        );
        assert_eq!(under(authority, "/v1"), "http://orders.beta.hawser/v1");
        assert_eq!(under(authority, "v1"), "http://orders.beta.hawser/v1");
    }

    #[test]
    fn places_of_addresses_become_rules() {
        let callback = |expression: &str| format!("{{\"{expression}\":{{\"post\":{{}}}}}}");
        let text = format!(
            "{{\"openapi\":\"3.1.0\",\"info\":{{\"title\":\"t\",\"version\":\"1\"}},\"paths\":{{\"/s\":{{\"post\":{{\"callbacks\":{{\
             \"a\":{},\"b\":{},\"c\":{},\"d\":{}}}}}}}}}}}",
            callback("{$request.body#/callbackUrl}/data"),
            callback("{$request.query.url}"),
            callback("{$request.header.X-Callback}"),
            callback("{$response.body#/self}"),
        );
        let hints = Hints::of(&Description::parse(text.as_bytes(), None).unwrap());
        let set = |s: &str| BTreeSet::from([s.to_owned()]);
        assert_eq!(
            hints,
            Hints {
                json: set("/callbackUrl"),
                headers: set("x-callback"),
                query: set("url"),
            }
        );
    }

    #[test]
    fn what_may_be_a_description_is_asked_for_in_plain() {
        let may = |target: &str| may_ask_for_one(&Method::GET, &target.parse().unwrap());
        for yes in [
            "/orders?wsdl",
            "/orders?WSDL=x.wsdl",
            "/a?xsd=1",
            "/openapi.json",
            "/v3/api-docs",
            "/s.yaml",
        ] {
            assert!(may(yes), "{yes}");
        }
        assert!(!may("/orders?id=4") && !may_ask_for_one(&Method::POST, &"/orders?wsdl".parse().unwrap()));
    }
}
