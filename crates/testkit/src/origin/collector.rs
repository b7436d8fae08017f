//! A collector of traces in this process: takes OTLP over HTTP as OpenTelemetry's own collector does, and keeps what came.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use crate::Host;

const TYPE: &str = "application/x-protobuf";

/// A running collector; ends when dropped.
pub struct Collector {
    runtime: Option<Runtime>,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: Vec<(HeaderMap, Bytes)>,
    /// What it answers in place of taking anything.
    refuses: Option<StatusCode>,
    asked: usize,
}

/// One span, with what its resource says.
#[derive(Debug, Clone)]
pub struct Span {
    /// As it came.
    pub span: v1::Span,
    resource: Vec<KeyValue>,
}

impl Collector {
    /// Starts it on a host's port; with TLS, if there are files of a certificate and its key.
    pub fn start(host: &Host, port: u16, tls: Option<(&Path, &Path)>) -> Result<Self> {
        let tls = tls
            .map(|(certificate, key)| acceptor(certificate, key))
            .transpose()?;
        let address = host.at(port);
        let runtime = host.runtime()?;
        let listener = host.listen(address)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let state = Arc::default();
        runtime.spawn(accept(listener, tls, Arc::clone(&state)));
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

    /// Answers with this status from now on, or takes spans again.
    pub fn refuse(&self, status: Option<StatusCode>) {
        lock(&self.state).refuses = status;
    }

    /// How often it was asked to take spans.
    pub fn asked(&self) -> usize {
        lock(&self.state).asked
    }

    /// Head and body of every request that it took.
    pub fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        lock(&self.state).requests.clone()
    }

    /// All spans that it took.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let mut all = Vec::new();
        for (_, body) in self.requests() {
            for of_one in ExportTraceServiceRequest::decode(body)?.resource_spans {
                let resource = of_one.resource.context("spans without a resource")?.attributes;
                let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
                all.extend(spans.map(|span| Span {
                    span,
                    resource: resource.clone(),
                }));
            }
        }
        Ok(all)
    }
}

impl Span {
    /// An attribute as text; a number in digits.
    pub fn attribute(&self, key: &str) -> Option<String> {
        find(&self.span.attributes, key)
    }

    /// The same of its resource.
    pub fn resource(&self, key: &str) -> Option<String> {
        find(&self.resource, key)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn find(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|a| a.key == key)?.value.clone()?.value?;
    match found {
        Value::StringValue(text) => Some(text),
        Value::IntValue(n) => Some(n.to_string()),
        _ => None,
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes());
    let mut state = lock(state);
    state.asked += 1;
    let is_otlp =
        head.uri.path() == "/v1/traces" && head.headers.get(CONTENT_TYPE).is_some_and(|t| t == TYPE);
    let status = match (state.refuses, body) {
        (Some(status), _) => status,
        (None, Ok(body)) if is_otlp && ExportTraceServiceRequest::decode(body.clone()).is_ok() => {
            state.requests.push((head.headers, body));
            let taken = ExportTraceServiceResponse::default().encode_to_vec();
            *response.body_mut() = Full::new(taken.into());
            StatusCode::OK
        }
        _ => StatusCode::BAD_REQUEST,
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TYPE));
    response
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
