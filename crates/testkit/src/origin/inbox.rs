//! A receiver of messages that remembers what it took, through its own restarts: HTTP/1.1, on any host.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, header::HeaderMap, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::Host;

/// A message that came.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Letter {
    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What was taken, and what is not to be. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Letters(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    taken: Vec<Letter>,
    /// Letters that were answered with an error.
    refused: Vec<Letter>,
    /// Statuses in place of 204, by path.
    answers: HashMap<String, u16>,
}

impl Letters {
    /// All that was taken, in order.
    pub fn taken(&self) -> Vec<Letter> {
        self.state().taken.clone()
    }

    /// All that was refused, in order.
    pub fn refused(&self) -> Vec<Letter> {
        self.state().refused.clone()
    }

    /// Answers this status on a path from now on; 0 is the usual 204.
    pub fn answer(&self, path: &str, status: u16) {
        let mut state = self.state();
        match status {
            0 => state.answers.remove(path),
            status => state.answers.insert(path.into(), status),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running receiver; nobody is there once it is dropped.
pub struct Inbox(Option<Runtime>);

impl Inbox {
    /// Starts it on a host's port.
    pub fn start(host: &Host, port: u16, letters: &Letters) -> Result<Self> {
        let runtime = host.runtime()?;
        let listener = host.listen(host.at(port))?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(listener, letters.clone()));
        Ok(Self(Some(runtime)))
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The port is to be closed when this returns.
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

async fn accept(listener: TcpListener, letters: Letters) {
    while let Ok((stream, _)) = listener.accept().await {
        let letters = letters.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| take(letters.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn take(letters: Letters, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Full::default());
    // What broke off was not taken, and nobody is there to be told.
    let Ok(body) = body.collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let letter = Letter {
        target: parts.uri.to_string(),
        headers: parts.headers,
        body: body.to_bytes(),
    };
    let mut state = letters.state();
    let status = state.answers.get(parts.uri.path()).copied();
    let status = status.and_then(|s| StatusCode::from_u16(s).ok());
    let status = status.unwrap_or(StatusCode::NO_CONTENT);
    if status.is_success() {
        state.taken.push(letter);
    } else {
        state.refused.push(letter);
    }
    *response.status_mut() = status;
    Ok(response)
}
