//! HTTP on one connection of a visitor.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use hawser_proto::HostName;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{MAX_STREAMS, Public, call, stall::Stall};
use crate::{
    config::LimitsConfig,
    front::Linger,
    ingress::{Visit, VisitStream},
    seam::Body,
};

/// Receive window of one HTTP/2 stream in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of an HTTP/2 connection in bytes: 16 streams may stall without a word from the others being held up.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Bytes that wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 64 * 1024;
/// A visitor who takes nothing of what is sent for this long is cut.
const STALLED: Duration = Duration::from_secs(60);
/// How often it is looked whether an HTTP/2 connection is idle.
const LOOK: Duration = Duration::from_secs(5);

/// A visitor's connection.
pub(super) struct Connection {
    pub(super) public: Public,
    /// The name that it asked for.
    pub(super) name: HostName,
    /// Logins on it that were wrong.
    pub(super) wrong: AtomicU32,
    /// Cancelled to let what is under way end, and take no more.
    pub(super) close: CancellationToken,
    /// Requests whose answers have not ended.
    active: AtomicUsize,
    /// Requests so far.
    begun: AtomicUsize,
}

/// Serves a visitor until the connection ends, is idle for too long, or the gateway drains.
pub(super) async fn connection(public: Public, visit: Visit) {
    let limits = public.0.table.load().limits.clone();
    let two = visit.stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
    let cx = Arc::new(Connection {
        public,
        name: visit.name,
        wrong: AtomicU32::new(0),
        close: visit.drain.child_token(),
        active: AtomicUsize::new(0),
        begun: AtomicUsize::new(0),
    });
    let name = cx.name.clone();
    let open = CancellationToken::new();
    let io = Stall::new(visit.stream, STALLED, open.clone().drop_guard());
    let ended = match two {
        true => http_two(cx, &limits, io).await,
        false => http_one(cx, &limits, io).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%name, %error, "a visitor's connection ended badly");
    }
    // A WebSocket may have it: it counts among the visitors until it has ended, too.
    open.cancelled().await;
}

type Io = Stall<VisitStream>;

async fn http_one(cx: Arc<Connection>, limits: &LimitsConfig, io: Io) -> Result<(), hyper::Error> {
    let close = cx.close.clone();
    let unread = Arc::new(AtomicBool::new(false));
    let io = Linger::new(io, unread.clone());
    let service = service_fn(move |request: Request<Incoming>| {
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
        () = close.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn http_two(cx: Arc<Connection>, limits: &LimitsConfig, io: Io) -> Result<(), hyper::Error> {
    let counted = cx.clone();
    let service = service_fn(move |request| answer(cx.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams.min(MAX_STREAMS))
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.header_timeout)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = counted.close.cancelled() => {}
        () = idle(&counted, limits.header_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Ends when no request was under way for about `longest`.
async fn idle(cx: &Connection, longest: Duration) {
    let mut look = interval(LOOK.min(longest));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut since) = (0, tokio::time::Instant::now());
    loop {
        look.tick().await;
        let begun = cx.begun.load(Ordering::Acquire);
        if cx.active.load(Ordering::Acquire) > 0 || begun != seen {
            (seen, since) = (begun, tokio::time::Instant::now());
        } else if since.elapsed() >= longest {
            return;
        }
    }
}

async fn answer(cx: Arc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    cx.begun.fetch_add(1, Ordering::AcqRel);
    cx.active.fetch_add(1, Ordering::AcqRel);
    let under_way = UnderWay(cx.clone());
    let response = call::answer(&cx, request).await;
    Ok(response.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        body.map_frame(move |frame| {
            let _ = &under_way;
            frame
        })
        .boxed_unsync()
    }))
}

/// A request whose answer has not ended.
struct UnderWay(Arc<Connection>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}
