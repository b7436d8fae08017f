//! HTTP on one connection of a client, or inside a tunnel that it opened.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Request;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
};

use super::{Shared, admit::Door, call, linger::Linger, opening::Opening};
use crate::config::LimitsConfig;

/// Receive window of one HTTP/2 stream in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// Receive window of an HTTP/2 connection in bytes: 64 streams may stall without a word from the others being held up.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// What is known of a connection when its requests come.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) client: SocketAddr,
    pub(super) door: Door,
    /// Makes the end of the client's socket a reset.
    pub(super) abort: Arc<AtomicBool>,
    /// The connection's place under the limit; kept by its tunnels as well.
    pub(super) permit: Arc<OwnedSemaphorePermit>,
}

/// Serves HTTP in the version of `opening` until the connection ends or the gateway drains.
pub(super) async fn serve<T>(cx: Arc<Connection>, opening: Opening, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = cx.shared.plan.load().limits.clone();
    let client = cx.client;
    let ended = match opening {
        Opening::Http2 => two(cx, &limits, io).await,
        _ => one(cx, &limits, io).await,
    };
    if let Err(e) = ended {
        tracing::debug!(%client, error = %e, "a client's connection ended badly");
    }
}

async fn one<T>(cx: Arc<Connection>, limits: &LimitsConfig, io: T) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let drain = cx.shared.drain.clone();
    let unread = Arc::new(AtomicBool::new(false));
    let io = Linger::new(io, unread.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        // Only what has no body can become a tunnel, whose end is its own.
        unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
        answer(cx.clone(), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(8192))
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn two<T>(cx: Arc<Connection>, limits: &LimitsConfig, io: T) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let drain = cx.shared.drain.clone();
    let service = service_fn(move |request| answer(cx.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.header_timeout)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn answer(
    cx: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<http::Response<crate::seam::Body>, Infallible> {
    Ok(call::answer(&cx, request).await)
}
