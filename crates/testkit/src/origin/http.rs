//! An HTTP/1.1 and HTTP/2 (prior knowledge) server in this process, on any host.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | a greeting that says which host this is |
//! | `/echo` | what came, as JSON: method, path, version, headers, length and SHA-256 of the body |
//! | `/mirror` | the body, chunk by chunk as it comes |
//! | `/upload` | length and SHA-256 of the body, as JSON |
//! | `/bytes/N` | N bytes of the pattern, with their length; `/chunked/N` without |
//! | `/status/N` | that status |
//! | `/moved?URL` | 307 with `Location: URL` and `Link: <URL>; rel="next"` |
//! | `/say/TEXT/N` | TEXT, over and over, N times |
//! | `/events/KEY` | server-sent events, one for each text given to [`HttpOrigin::event`] |
//! | `/hold/KEY` | answers only after [`HttpOrigin::release`] |

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LINK, LOCATION},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Semaphore, mpsc},
};

use crate::{Host, pattern};

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Feed = (
    mpsc::UnboundedSender<String>,
    Option<mpsc::UnboundedReceiver<String>>,
);

/// A running server; ends when dropped.
pub struct HttpOrigin {
    runtime: Option<Runtime>,
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    greeting: String,
    feeds: Mutex<HashMap<String, Feed>>,
    holds: Mutex<HashMap<String, Arc<Semaphore>>>,
    served: AtomicU64,
    connections: AtomicU64,
}

impl HttpOrigin {
    /// Starts it on a host's port.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let address = host.at(port);
        let runtime = host.runtime()?;
        let listener = host.listen(address)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let greeting = format!("hello from {} at {}\n", host.name(), host.address());
        let state = Arc::new(State {
            greeting,
            ..State::default()
        });
        runtime.spawn(accept(listener, state.clone()));
        Ok(Self {
            runtime: Some(runtime),
            address,
            state,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one event to the reader of `/events/KEY`, now or when it comes.
    pub fn event(&self, key: &str, text: &str) {
        let _ = lock(&self.state.feeds)
            .entry(key.into())
            .or_insert_with(feed)
            .0
            .send(text.into());
    }

    /// Ends the stream of `/events/KEY`.
    pub fn end_events(&self, key: &str) {
        lock(&self.state.feeds).remove(key);
    }

    /// Lets one request to `/hold/KEY` be answered, now or when it comes.
    pub fn release(&self, key: &str) {
        self.state.hold(key).add_permits(1);
    }

    /// Requests whose answers were begun.
    pub fn served(&self) -> u64 {
        self.state.served.load(Ordering::Relaxed)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl HttpOrigin {
    /// Ends it now: its port is closed, and so are its connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

impl Drop for HttpOrigin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    fn hold(&self, key: &str) -> Arc<Semaphore> {
        lock(&self.holds)
            .entry(key.into())
            .or_insert_with(|| Arc::new(Semaphore::new(0)))
            .clone()
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        state.connections.fetch_add(1, Ordering::Relaxed);
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(request, &state).await) }
            });
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http2().enable_connect_protocol();
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: &Arc<State>) -> Response<Body> {
    state.served.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (what, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match what {
        "" => text(StatusCode::OK, state.greeting.clone()),
        "echo" => echo(request).await,
        "upload" => match consume(request.into_body()).await {
            Some((len, hash)) => json(&serde_json::json!({ "bytes": len, "sha256": hash })),
            None => text(StatusCode::BAD_REQUEST, "the body broke off\n"),
        },
        "mirror" => mirror(request),
        "bytes" => bytes(rest, true),
        "chunked" => bytes(rest, false),
        "status" => {
            let code = rest.parse().ok().and_then(|c| StatusCode::from_u16(c).ok());
            text(code.unwrap_or(StatusCode::BAD_REQUEST), "as asked\n")
        }
        "moved" => moved(request.uri().query().unwrap_or_default()),
        "say" => say(rest),
        "events" => events(rest, state),
        "hold" => {
            let hold = state.hold(rest);
            if let Ok(permit) = hold.acquire().await {
                permit.forget();
            }
            text(StatusCode::OK, "released\n")
        }
        _ => text(StatusCode::NOT_FOUND, "no such path\n"),
    }
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(n, v)| {
            [
                n.as_str().to_owned(),
                String::from_utf8_lossy(v.as_bytes()).into_owned(),
            ]
        })
        .collect();
    let mut seen = serde_json::json!({
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map(|p| p.as_str()),
        "authority": request.uri().authority().map(|a| a.as_str()),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    match request.into_body().collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            seen["bytes"] = body.len().into();
            seen["sha256"] = pattern::hash_of(&body).into();
            seen["body"] = String::from_utf8_lossy(&body).into();
            json(&seen)
        }
        Err(_) => text(StatusCode::BAD_REQUEST, "the body broke off\n"),
    }
}

async fn consume(mut body: Incoming) -> Option<(u64, String)> {
    let (mut len, mut hash) = (0, pattern::Hash::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            hash.update(&data);
            len += data.len() as u64;
        }
    }
    Some((len, hash.finish()))
}

fn moved(to: &str) -> Response<Body> {
    let mut answer = text(StatusCode::TEMPORARY_REDIRECT, "elsewhere\n");
    for (name, value) in [(LOCATION, to.to_owned()), (LINK, format!("<{to}>; rel=\"next\""))] {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

fn mirror(request: Request<Incoming>) -> Response<Body> {
    let data = stream::unfold(request.into_body(), |mut body| async move {
        loop {
            let frame = body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some((Ok(Frame::data(data)), body));
            }
        }
    });
    Response::new(StreamBody::new(data).boxed_unsync())
}

fn bytes(len: &str, say_length: bool) -> Response<Body> {
    let Ok(len) = len.parse::<u64>() else {
        return text(StatusCode::BAD_REQUEST, "how many?\n");
    };
    let data = stream::unfold(pattern::Reader::new(len), |mut r| async move {
        // Making a chunk costs no time worth the name, but a client must not starve the others.
        tokio::task::yield_now().await;
        r.next_chunk().map(|c| (Ok(Frame::data(c)), r))
    });
    let mut response = Response::new(StreamBody::new(data).boxed_unsync());
    if say_length {
        response.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
    response
}

fn say(rest: &str) -> Response<Body> {
    let Some((what, times)) = rest
        .split_once('/')
        .and_then(|(w, n)| Some((w.to_owned(), n.parse().ok()?)))
    else {
        return text(StatusCode::BAD_REQUEST, "say what, and how often?\n");
    };
    let data = stream::unfold(0_u64, move |n| {
        let chunk = (n < times).then(|| Bytes::from(format!("{what}\n")));
        async move {
            tokio::task::yield_now().await;
            chunk.map(|c| (Ok(Frame::data(c)), n + 1))
        }
    });
    Response::new(StreamBody::new(data).boxed_unsync())
}

fn events(key: &str, state: &State) -> Response<Body> {
    let receiver = lock(&state.feeds).entry(key.into()).or_insert_with(feed).1.take();
    let Some(receiver) = receiver else {
        return text(StatusCode::CONFLICT, "somebody reads these\n");
    };
    let data = stream::unfold(receiver, |mut r| async move {
        let text = r.recv().await?;
        Some((Ok(Frame::data(format!("data: {text}\n\n").into())), r))
    });
    let mut response = Response::new(StreamBody::new(data).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

fn feed() -> Feed {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Some(receiver))
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
