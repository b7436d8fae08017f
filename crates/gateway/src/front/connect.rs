//! CONNECT: a tunnel to a service. To a TCP service it carries bytes; to an HTTP service the gateway itself speaks HTTP
//! inside it, so that clients which tunnel everything (`curl --proxytunnel`, many WebSocket clients) reach it as well.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawser_proto::{Fault, ServiceId, control::Protocol, session::RequestId};
use hawser_session::tcp::{self, BridgeEnd, Moved};
use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    admit::{Admitted, Door},
    call::Outcome,
    linger::Linger,
    opening::{ClientSocket, Opening, Prefixed, read_opening},
    serve::{self, Connection},
};
use crate::{calls::Call, problem::empty, seam::EndToEnd};

/// Opens a tunnel.
pub(super) async fn open(
    cx: &Arc<Connection>,
    admitted: Admitted,
    mut request: Request<Incoming>,
    call: &mut Option<Call>,
) -> Result<Outcome, Fault> {
    let upgrade = hyper::upgrade::on(&mut request);
    let service = admitted.service;
    if cx.shared.links.routes().protocol(&service) == Some(Protocol::Http) {
        cx.shared.tasks.spawn(http(cx.clone(), service, upgrade));
        return Ok(Outcome::Answer(Response::new(empty())));
    }
    // Of a service that nobody knows, the links tell why.
    let id = call.as_ref().map_or(RequestId([0; 16]), Call::id);
    let tunnel = cx.shared.links.tcp(&service, id).await?;
    cx.shared
        .tasks
        .spawn(bytes(cx.clone(), upgrade, tunnel, call.take()));
    Ok(Outcome::Upgraded(Response::new(empty())))
}

async fn http(cx: Arc<Connection>, service: ServiceId, upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    http_inside(cx, service, TokioIo::new(upgraded)).await;
}

/// HTTP inside a tunnel to an HTTP service. Boxed, for what is served inside could in its type open a tunnel again.
pub(super) fn http_inside<T>(cx: Arc<Connection>, service: ServiceId, io: T) -> BoxFuture<'static, ()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let cut = cx.shared.cut.clone();
    let inside = inside(cx, service, io);
    Box::pin(async move {
        tokio::select! {
            () = inside => {}
            () = cut.cancelled() => {}
        }
    })
}

async fn inside<T>(cx: Arc<Connection>, service: ServiceId, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wait = cx.shared.plan.load().limits.header_timeout;
    let Some((opening, io)) = read_opening(io, wait).await else {
        return;
    };
    if !matches!(opening, Opening::Http1 | Opening::Http2) {
        tracing::warn!(
            client = %cx.client,
            %service,
            "a client speaks {} inside CONNECT to an HTTP service; use http:// instead of https:// (the tunnel \
             encrypts end to end), or export the service by `tcp` if it brings its own TLS",
            if opening == Opening::Tls { "TLS" } else { "no HTTP" }
        );
        return;
    }
    let door = Door::Service {
        service: service.clone(),
        tunnel: true,
    };
    let inner = Connection {
        shared: cx.shared.clone(),
        client: cx.client,
        door,
        abort: cx.abort.clone(),
        permit: cx.permit.clone(),
    };
    serve::serve(Arc::new(inner), opening, io).await;
}

async fn bytes(cx: Arc<Connection>, upgrade: OnUpgrade, tunnel: EndToEnd, call: Option<Call>) {
    let Ok(upgraded) = upgrade.await else { return };
    carry(&cx, bare(upgraded), tunnel, call).await;
}

/// Moves bytes until either side ends.
pub(super) async fn carry(cx: &Connection, from: Bare, mut tunnel: EndToEnd, call: Option<Call>) {
    let cut = cx.shared.cut.clone();
    let (end, moved) = match from {
        Bare::Gone => (BridgeEnd::LocalReset, Moved::default()),
        Bare::Socket(socket, early) => {
            let sent = early.len() as u64;
            if !early.is_empty() && tunnel.send_early(&early).await.is_err() {
                hawser_session::socket::reset_on_close(&socket);
                (BridgeEnd::TunnelReset, Moved::default())
            } else {
                let (end, moved) = tcp::bridge(socket, tunnel, cut).await;
                (
                    end,
                    Moved {
                        sent: moved.sent + sent,
                        ..moved
                    },
                )
            }
        }
        Bare::Stream(stream) => tcp::bridge_stream(TokioIo::new(stream), tunnel, cut).await,
    };
    if end != BridgeEnd::Closed {
        cx.abort.store(true, Ordering::Release);
    }
    if let Some(call) = call {
        tracing::debug!(request = %call.id(), end = end.as_str(), "a tunnel ended");
        call.end_stream(
            StatusCode::OK,
            moved.sent,
            moved.received,
            end == BridgeEnd::Closed,
        );
    }
}

/// What a client's connection is made of.
pub(super) enum Bare {
    /// A socket, and what the client sent before it was asked to.
    Socket(TcpStream, Bytes),
    /// A stream inside HTTP/2, or inside another tunnel.
    Stream(Upgraded),
    /// Nothing is left of it.
    Gone,
}

impl Bare {
    /// A connection on which nothing but the beginning was read.
    pub(super) fn of(io: Prefixed<ClientSocket>) -> Self {
        let (early, socket) = io.into_parts();
        socket.take().map_or(Bare::Gone, |tcp| Bare::Socket(tcp, early))
    }
}

fn bare(upgraded: Upgraded) -> Bare {
    match upgraded.downcast::<TokioIo<Linger<Prefixed<ClientSocket>>>>() {
        Ok(parts) => {
            let (prefix, socket) = parts.io.into_inner().into_inner().into_parts();
            let early = match (prefix.is_empty(), parts.read_buf.is_empty()) {
                (true, _) => parts.read_buf,
                (false, true) => prefix,
                // What hyper has read came first.
                (false, false) => [parts.read_buf, prefix].concat().into(),
            };
            match socket.take() {
                Some(tcp) => Bare::Socket(tcp, early),
                None => Bare::Gone,
            }
        }
        Err(stream) => Bare::Stream(stream),
    }
}
