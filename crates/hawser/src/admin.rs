//! Administration of a running process: metrics and health on a loopback address, and status as JSON on a socket in each state
//! directory, which only the user who runs it may open. What a host is told to do with its machines comes by that socket too;
//! everything else that changes goes through the store.

use std::{
    convert::Infallible,
    fmt::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::config::LoopbackAddress;

/// The socket's name in a state directory.
pub(crate) const SOCKET: &str = "admin.sock";
/// Longest body of a POST in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Most administration requests served at once.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take over its request's head, and a daemon over its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What runs here, to be asked.
pub(crate) trait Source: Send + Sync {
    /// `hub` or `gateway`.
    fn name(&self) -> &'static str;
    /// Everything that `hawser status` shows.
    fn status(&self) -> Value;
    /// Everything that `hawser services` shows.
    fn services(&self) -> Value;
    /// Whether it can do its job now, or why not.
    fn ready(&self) -> Result<(), String>;
    /// What else it tells, by path.
    fn look(&self, _path: &str) -> Option<Value> {
        None
    }
    /// Does what it is told, by the path and body of a POST; the answer, or why not. Without a meaning for the path: none.
    fn act(&self, _path: &str, _body: Value) -> Option<BoxFuture<'static, Result<Value, String>>> {
        None
    }
}

/// All that the loopback listener tells.
pub(crate) struct Health {
    pub(crate) registry: Mutex<Registry>,
    pub(crate) sources: Vec<Arc<dyn Source>>,
}

/// Serves metrics and health until the returned guard is dropped.
pub(crate) async fn serve_health(listen: LoopbackAddress, health: Arc<Health>) -> anyhow::Result<Served> {
    let listener = TcpListener::bind(listen.0)
        .await
        .with_context(|| format!("admin.listen: {} cannot be listened on", listen.0))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving metrics and health");
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let task = tokio::spawn(async move {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let health = health.clone();
                    tokio::spawn(async move {
                        connection(stream, move |request| {
                            let answer = match *request.method() {
                                Method::GET | Method::HEAD => health.answer(request.uri().path()),
                                _ => Answer::only_tells(),
                            };
                            std::future::ready(answer)
                        })
                        .await;
                        drop(permit);
                    });
                }
                Err(e) => pause(e).await,
            }
        }
    });
    Ok(Served { task, socket: None })
}

/// One state directory is one process's: fails when another one runs on it.
pub(crate) async fn refuse_second(state: &Path) -> anyhow::Result<()> {
    if UnixStream::connect(state.join(SOCKET)).await.is_ok() {
        bail!(
            "{} is in use by a hawser that runs already; stop it first",
            state.display()
        );
    }
    Ok(())
}

/// Serves a source's status in its state directory until the returned guard is dropped.
pub(crate) async fn serve_status(state: &Path, source: Arc<dyn Source>) -> anyhow::Result<Served> {
    refuse_second(state).await?;
    let path = state.join(SOCKET);
    if let Err(e) = std::fs::remove_file(&path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(e).with_context(|| format!("{} cannot be replaced", path.display()));
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{} cannot be made private", path.display()))?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let task = tokio::spawn(async move {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let source = source.clone();
                    tokio::spawn(async move {
                        connection(stream, move |request| answer(source.clone(), request)).await;
                        drop(permit);
                    });
                }
                Err(e) => pause(e).await,
            }
        }
    });
    Ok(Served {
        task,
        socket: Some(path),
    })
}

/// Asks the process that runs on a state directory. None when there is none.
pub(crate) async fn ask(state: &Path, path: &str) -> anyhow::Result<Option<Value>> {
    let request = Request::get(path).header("host", "admin").body(Full::default())?;
    exchange(state, request, PATIENCE).await
}

/// Tells the process that runs on a state directory to do something; its refusal is an error. None when there is none.
pub(crate) async fn tell(
    state: &Path,
    path: &str,
    body: &impl serde::Serialize,
    patience: Duration,
) -> anyhow::Result<Option<Value>> {
    let body = Full::new(Bytes::from(serde_json::to_vec(body)?));
    let request = Request::post(path).header("host", "admin").body(body)?;
    exchange(state, request, patience).await
}

async fn exchange(
    state: &Path,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> anyhow::Result<Option<Value>> {
    let socket = state.join(SOCKET);
    let stream = match UnixStream::connect(&socket).await {
        Ok(s) => s,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(e) => {
            return Err(e).with_context(|| {
                format!(
                    "{} cannot be opened; run this as the user who runs hawser",
                    socket.display()
                )
            });
        }
    };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        anyhow::Ok((status, body))
    };
    let gave_none = || format!("{} gave no answer", socket.display());
    match tokio::time::timeout(patience, exchange).await {
        Ok(answer) => {
            let (status, body) = answer.with_context(gave_none)?;
            if status == StatusCode::CONFLICT {
                bail!("{}", String::from_utf8_lossy(&body).trim_end());
            }
            serde_json::from_slice(&body).map(Some).with_context(gave_none)
        }
        Err(_) => bail!(
            "{} gave no answer in {} s; its process hangs",
            socket.display(),
            patience.as_secs()
        ),
    }
}

/// A listener that ends when this is dropped.
pub(crate) struct Served {
    task: tokio::task::JoinHandle<()>,
    socket: Option<PathBuf>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Health {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => Answer::text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            _ => Answer::not_found("there are /metrics, /healthz and /readyz"),
        }
    }

    fn metrics(&self) -> Answer {
        let mut text = String::new();
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => Answer {
                status: StatusCode::OK,
                kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body: text,
            },
            Err(_) => Answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics could not be written\n",
            ),
        }
    }

    fn readiness(&self) -> Answer {
        let mut status = StatusCode::OK;
        let mut text = String::new();
        for source in &self.sources {
            let word = match source.ready() {
                Ok(()) => "ready".to_string(),
                Err(why) => {
                    status = StatusCode::SERVICE_UNAVAILABLE;
                    why
                }
            };
            let _ = writeln!(text, "{}: {word}", source.name());
        }
        Answer::text(status, text)
    }
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    fn only_tells() -> Self {
        Self::text(StatusCode::METHOD_NOT_ALLOWED, "this only tells: GET and HEAD\n")
    }

    fn not_found(advice: &str) -> Self {
        Self::text(StatusCode::NOT_FOUND, format!("not here; {advice}\n"))
    }
}

fn json(value: &Value) -> Answer {
    Answer {
        status: StatusCode::OK,
        kind: "application/json",
        body: value.to_string(),
    }
}

/// What a source says on its socket.
async fn answer(source: Arc<dyn Source>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/status") => json(&source.status()),
        (&Method::GET | &Method::HEAD, "/services") => json(&source.services()),
        (&Method::GET | &Method::HEAD, path) => match source.look(path) {
            Some(value) => json(&value),
            None => Answer::not_found("there are /status and /services"),
        },
        (&Method::POST, _) => act(&*source, &path, request).await,
        _ => Answer::only_tells(),
    }
}

async fn act(source: &dyn Source, path: &str, request: Request<Incoming>) -> Answer {
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
        return Answer::text(StatusCode::BAD_REQUEST, "the body is cut off, or too long\n");
    };
    let Ok(body) = serde_json::from_slice(&body.to_bytes()) else {
        return Answer::text(StatusCode::BAD_REQUEST, "the body is no JSON\n");
    };
    match source.act(path, body) {
        None => Answer::only_tells(),
        Some(done) => match done.await {
            Ok(value) => json(&value),
            Err(why) => Answer::text(StatusCode::CONFLICT, why),
        },
    }
}

async fn connection<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request);
        async move {
            let answer = answer.await;
            let mut response = Response::new(Full::new(Bytes::from(answer.body)));
            *response.status_mut() = answer.status;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
            Ok::<_, Infallible>(response)
        }
    });
    // A client that goes away in the middle of its answer is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// After a failed accept: out of descriptors, most likely, which only time heals.
async fn pause(error: std::io::Error) {
    tracing::warn!(%error, "an administration connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(200)).await;
}
