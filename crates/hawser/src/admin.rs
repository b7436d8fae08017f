//! Administration of a running process, read-only: metrics and health on a loopback address, and status as JSON on a socket
//! in each state directory, which only the user who runs it may open.

use std::{
    convert::Infallible,
    fmt::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Full};
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
                        connection(stream, move |path| health.answer(path)).await;
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
                        connection(stream, move |path| match path {
                            "/status" => json(&source.status()),
                            "/services" => json(&source.services()),
                            _ => Answer::not_found("there are /status and /services"),
                        })
                        .await;
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
        let request = Request::get(path)
            .header("host", "admin")
            .body(Empty::<Bytes>::new())?;
        let body = sender
            .send_request(request)
            .await?
            .into_body()
            .collect()
            .await?
            .to_bytes();
        connection.abort();
        anyhow::Ok(serde_json::from_slice(&body)?)
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(answer) => answer
            .map(Some)
            .with_context(|| format!("{} gave no answer", socket.display())),
        Err(_) => bail!(
            "{} gave no answer in {} s; its process hangs",
            socket.display(),
            PATIENCE.as_secs()
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

async fn connection<S>(stream: S, answer: impl Fn(&str) -> Answer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = if matches!(*request.method(), Method::GET | Method::HEAD) {
            answer(request.uri().path())
        } else {
            Answer::text(StatusCode::METHOD_NOT_ALLOWED, "this only tells: GET and HEAD\n")
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.body)));
        *response.status_mut() = answer.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
        std::future::ready(Ok::<_, Infallible>(response))
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
