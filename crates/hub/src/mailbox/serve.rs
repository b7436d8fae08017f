//! Devices' connections: HTTP/1.1 by hyper on a TLS stream. A stream of events leaves hyper: its buffers would cost an idle
//! device as much as its TLS does.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hawser_session::Body;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{Mailbox, api, stream::Stream};
use crate::door::Place;

/// How long a connection may take to the first good proof.
const PROVE_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may take for the head of a request, idling included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request's head, and of what hyper reads ahead.
const MAX_HEAD: usize = 16 * 1024;
/// Header fields of a request.
const MAX_HEADERS: usize = 64;
/// Proofs that fail before a connection is closed.
const MAX_FAILURES: u32 = 8;
/// How long a connection may take to end.
const CLOSE: Duration = Duration::from_secs(5);

/// One connection, as requests on it know it.
pub(super) struct Visit {
    /// In the door, until the first good proof.
    place: Mutex<Option<Place>>,
    failures: AtomicU32,
    /// Something that was written waits for the connection to take it.
    unflushed: AtomicBool,
    /// A stream that is to take the connection over.
    taking: Mutex<Option<Stream>>,
}

impl Visit {
    /// A good proof came.
    pub(super) fn proved(&self) {
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// A proof failed. Whether it was one too many.
    pub(super) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILURES
    }

    /// Hands the connection to a stream; the request is never answered by hyper.
    pub(super) fn take(&self, stream: Stream) {
        *self.taking.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    fn taken(&self) -> Option<Stream> {
        if self.unflushed.load(Ordering::Relaxed) {
            return None;
        }
        self.taking.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn in_door(&self) -> bool {
        self.place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Mailbox {
    /// Serves a device's connection, on which TLS stands, until it ends. `place` is its place in the door, which it leaves at
    /// the first good proof. Cancelled, it closes the connection, unless a stream has taken that over.
    pub(crate) async fn serve<S>(self: Arc<Self>, stream: S, from: SocketAddr, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let visit = Arc::new(Visit {
            place: Mutex::new(Some(place)),
            failures: AtomicU32::new(0),
            unflushed: AtomicBool::new(false),
            taking: Mutex::new(None),
        });
        let io = Tracked {
            io: TokioIo::new(stream),
            visit: visit.clone(),
        };
        let service = service_fn({
            let (mailbox, visit) = (self.clone(), visit.clone());
            move |request: Request<Incoming>| -> Answer {
                Box::pin(api::answer(mailbox.clone(), visit.clone(), request))
            }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, service);
        let end = tokio::select! {
            () = self.stop.cancelled() => End::Close,
            () = unproved(&visit) => End::Cut,
            end = std::future::poll_fn(|cx| match connection.poll_without_shutdown(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(End::Close),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%from, %error, "a device's connection ended");
                    Poll::Ready(End::Close)
                }
                Poll::Pending => visit.taken().map_or(Poll::Pending, |s| Poll::Ready(End::Stream(Box::new(s)))),
            }) => end,
        };
        let parts = connection.into_parts();
        let mut stream = parts.io.io.into_inner();
        match end {
            End::Cut => {}
            End::Close => {
                let _ = timeout(CLOSE, stream.shutdown()).await;
            }
            // Whoever sends more before its stream has begun speaks out of turn.
            End::Stream(_) if !parts.read_buf.is_empty() => {}
            // A task of its own, and a small one.
            End::Stream(events) => {
                tokio::spawn(events.run(stream));
            }
        }
    }
}

enum End {
    Cut,
    Close,
    Stream(Box<Stream>),
}

/// Ends when the connection has proved nothing in time.
async fn unproved(visit: &Visit) {
    sleep(PROVE_WITHIN).await;
    if !visit.in_door() {
        std::future::pending::<()>().await;
    }
}

/// Knows whether all that was written has been taken.
struct Tracked<S> {
    io: TokioIo<S>,
    visit: Arc<Visit>,
}

impl<S: AsyncRead + Unpin> Read for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> Write for Tracked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.visit.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() {
            self.visit.unflushed.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
