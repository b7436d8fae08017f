//! HTTP/2 (RFC 9113) between two gateways, inside an end-to-end session.
//!
//! Unread data of one stream must never hold up another. So the connection window covers every stream's whole window
//! (`streams x stream window`), a request is placed only on a session that has a free [`Slot`], and what is large goes on a
//! session of the [`Class::Bulk`] kind, with few streams and big windows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hawser_proto::{NodeId, UnixTime, session::Open};
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming, client::conn::http2 as client, server::conn::http2 as server, service::HttpService,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    body::{Body, BoxError, empty},
    end_to_end::{Binding, EndToEnd, SessionError},
    slots::{Held, Slots},
};

pub use crate::slots::SlotGuard;

/// Largest list of header fields in bytes, as HTTP/2 counts it (Kerberos tickets are long).
pub const MAX_HEADER_LIST: u32 = 64 * 1024;
/// An HTTP/2 PING goes out after this silence, also when no request is under way.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// A PING unanswered for this long ends the session.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which a session is asked for a sign of life before it is used.
pub const ASK_AFTER: Duration = Duration::from_secs(10);
/// Authority of requests that the gateways themselves answer.
pub const INTERNAL: &str = "hawser.internal";
/// Path of the sign of life, answered 204.
pub const PING_PATH: &str = "/ping";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Many streams, moderate windows.
    Ordinary,
    /// Few streams, big windows.
    Bulk,
}

impl Class {
    /// Concurrent streams of one session.
    pub const fn streams(self) -> u32 {
        match self {
            Class::Ordinary => 64,
            Class::Bulk => 8,
        }
    }

    /// Receive window of one stream in bytes.
    pub const fn stream_window(self) -> u32 {
        match self {
            Class::Ordinary => 1 << 20,
            Class::Bulk => 8 << 20,
        }
    }

    /// Receive window of the connection in bytes: all streams' windows together.
    pub const fn connection_window(self) -> u32 {
        self.streams() * self.stream_window()
    }
}

/// The dialling side of an HTTP session. Clones share the session; it closes when the last one and all streams are gone.
#[derive(Debug, Clone)]
pub struct HttpSession {
    send: client::SendRequest<Body>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peer: NodeId,
    peer_not_after: UnixTime,
    binding: Binding,
    class: Class,
    born: Instant,
    /// Milliseconds after `born`.
    used: AtomicU64,
    slots: Slots,
    cut: CancellationToken,
    ended: CancellationToken,
}

/// Room for one request on a session.
#[derive(Debug)]
pub struct Slot {
    session: HttpSession,
    guard: SlotGuard,
}

/// Why a request failed before a response came.
#[derive(Debug)]
pub struct SendError {
    /// What hyper says.
    pub error: hyper::Error,
    /// The request, when nothing of it was sent: it may go elsewhere.
    pub request: Option<Request<Body>>,
}

impl HttpSession {
    /// Opens an HTTP session on an end-to-end session just dialled.
    pub async fn connect(mut session: EndToEnd, class: Class) -> Result<Self, SessionError> {
        session
            .write_frame(&Open::Http {
                bulk: class == Class::Bulk,
            })
            .await?;
        let (peer, peer_not_after) = (session.peer.clone(), session.peer_not_after);
        let binding = session.binding;
        let io = TokioIo::new(session.into_stream());
        let (send, connection) = client::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(class.stream_window())
            .initial_connection_window_size(class.connection_window())
            .max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_reset_streams(class.streams() as usize)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(io)
            .await
            .map_err(|source| SessionError::Http {
                peer: peer.to_string(),
                source,
            })?;
        let shared = Arc::new(Shared {
            peer,
            peer_not_after,
            binding,
            class,
            born: Instant::now(),
            used: AtomicU64::new(0),
            slots: Slots::new(class.streams() as usize),
            cut: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let (cut, ended) = (shared.cut.clone(), shared.ended.clone().drop_guard());
        tokio::spawn(async move {
            let _ended = ended;
            tokio::select! {
                () = cut.cancelled() => {}
                // How a connection ends, its streams are told.
                _ = connection => {}
            }
        });
        Ok(Self { send, shared })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &NodeId {
        &self.shared.peer
    }

    /// When the peer's certificate ends.
    pub fn peer_not_after(&self) -> UnixTime {
        self.shared.peer_not_after
    }

    /// What it is for.
    pub fn class(&self) -> Class {
        self.shared.class
    }

    /// Room for a request, if there is any.
    pub fn reserve(&self) -> Option<Slot> {
        if self.is_closed() {
            return None;
        }
        let permit = self.shared.slots.take()?;
        Some(Slot {
            session: self.clone(),
            guard: SlotGuard(Arc::new(permit)),
        })
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.shared.slots.in_use()
    }

    /// Whether it takes no more requests: broken, cut, or the peer said goodbye.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed() || self.shared.ended.is_cancelled()
    }

    /// Completes when the connection has ended.
    pub async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Since it was opened.
    pub fn age(&self) -> Duration {
        self.shared.born.elapsed()
    }

    /// Since a request was last sent or a response last began.
    pub fn idle_for(&self) -> Duration {
        self.age()
            .saturating_sub(Duration::from_millis(self.shared.used.load(Ordering::Relaxed)))
    }

    /// Asks the peer for a sign of life; false when none comes within `wait`.
    pub async fn ping(&self, wait: Duration) -> bool {
        let request = Request::get(format!("http://{INTERNAL}{PING_PATH}")).body(empty());
        let (Some(slot), Ok(request)) = (self.reserve(), request) else {
            return false;
        };
        matches!(timeout(wait, slot.send(request)).await, Ok(Ok(response)) if response.status().is_success())
    }

    /// Ends it at once, with all its streams.
    pub fn cut(&self) {
        self.shared.cut.cancel();
    }
}

impl Slot {
    /// The session that it is on.
    pub fn session(&self) -> &HttpSession {
        &self.session
    }

    /// Sends a request; the response's body, and a [`SlotGuard`] in its extensions, keep the slot.
    /// Cancel safe: a cancelled request is reset.
    pub async fn send(mut self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        self.session.touch();
        let sent = self.session.send.try_send_request(request).await;
        self.session.touch();
        match sent {
            Ok(mut response) => {
                response.extensions_mut().insert(self.guard.clone());
                let guard = self.guard;
                Ok(response.map(|body| Held::new(body, guard).boxed_unsync()))
            }
            Err(mut e) => {
                let request = e.take_message();
                Err(SendError {
                    error: e.into_error(),
                    request,
                })
            }
        }
    }
}

impl HttpSession {
    /// By which its two ends can speak of it in another session.
    pub fn binding(&self) -> &Binding {
        &self.shared.binding
    }

    fn touch(&self) {
        self.shared
            .used
            .store(self.shared.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// How a served session is ended from outside.
#[derive(Debug, Clone, Default)]
pub struct ServeControl {
    /// Cancelled: no new streams, the session ends with the last one.
    pub drain: CancellationToken,
    /// Cancelled: it ends at once.
    pub cut: CancellationToken,
}

/// The accepting side: answers requests with `service` until the session ends. The [`Open::Http`] has been read, and says
/// the class.
pub async fn serve<S, B>(
    session: EndToEnd,
    class: Class,
    service: S,
    control: ServeControl,
) -> Result<(), hyper::Error>
where
    S: HttpService<Incoming, ResBody = B> + Send,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let io = TokioIo::new(session.into_stream());
    let connection = server::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .initial_stream_window_size(class.stream_window())
        .initial_connection_window_size(class.connection_window())
        .max_concurrent_streams(class.streams() + 1)
        .max_header_list_size(MAX_HEADER_LIST)
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            () = control.cut.cancelled() => return Ok(()),
            () = control.drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => return ended,
        }
    }
}
