//! SOCKS 5 (RFC 1928) at the web proxy: CONNECT to a service by its name, without authentication, for clients that know no HTTP
//! proxy. Inside it is as inside HTTP's CONNECT.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hawser_proto::{Fault, ServiceId, control::Protocol};
use http::{Method, uri::Authority};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    connect,
    opening::{ClientSocket, Prefixed},
    serve::Connection,
    target::Destination,
};
use crate::{
    calls::{Call, Side},
    headers::fresh_request_id,
};

/// The first byte of every message.
pub(super) const VERSION: u8 = 5;
/// The only way to introduce oneself that is taken: not at all.
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
/// The only command.
const CONNECT: u8 = 1;

/// What a client is told (RFC 1928, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Done = 0,
    NotAllowed = 2,
    Unreachable = 4,
    Refused = 5,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

impl Reply {
    /// What comes nearest to a fault: the protocol has no words.
    fn of(fault: &Fault) -> Self {
        match fault.status {
            401 | 403 => Self::NotAllowed,
            404 | 504 => Self::Unreachable,
            _ => Self::Refused,
        }
    }

    /// With an address that says nothing: which one the connection has is nobody's business.
    fn encode(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Serves a client that begins with [`VERSION`].
pub(super) async fn serve(cx: Arc<Connection>, mut io: Prefixed<ClientSocket>) {
    let client = cx.client;
    let plan = cx.shared.plan.load_full();
    let asked = tokio::select! {
        asked = timeout(plan.limits.header_timeout, asked(&mut io)) => asked,
        // Nothing was asked yet, so nothing is lost.
        () = cx.shared.drain.cancelled() => return,
    };
    let authority = match asked {
        Ok(Ok(Ok(authority))) => authority,
        Ok(Ok(Err(reply))) => return told(io, reply).await,
        Ok(Err(error)) => return tracing::debug!(%client, %error, "a SOCKS client goes away"),
        Err(_) => return tracing::debug!(%client, "a SOCKS client does not say what it wants"),
    };
    let Destination::Service(service) = plan.suffix.destination(&authority) else {
        tracing::info!(%client, %authority, "a SOCKS client asks for what is no service: refused");
        return told(io, Reply::NotAllowed).await;
    };
    if cx.shared.links.routes().protocol(&service) == Some(Protocol::Http) {
        if io.write_all(&Reply::Done.encode()).await.is_ok() {
            connect::http_inside(cx, service, io).await;
        }
        return;
    }
    tunnel(&cx, &service, io).await;
}

async fn tunnel(cx: &Arc<Connection>, service: &ServiceId, mut io: Prefixed<ClientSocket>) {
    let shared = &cx.shared;
    let id = fresh_request_id();
    let (who, what) = (cx.client.to_string(), service.to_string());
    let mut call = Call::begin(&shared.metrics, Side::Client, id, who, Method::CONNECT, what);
    let tunnel = tokio::select! {
        tunnel = shared.links.tcp(service, id) => tunnel,
        () = shared.cut.cancelled() => return,
    };
    match tunnel {
        Ok(tunnel) => {
            call.service(service);
            if io.write_all(&Reply::Done.encode()).await.is_ok() {
                connect::carry(cx, connect::Bare::of(io), tunnel, Some(call)).await;
            }
        }
        Err(fault) => {
            tracing::warn!(request = %id, client = %cx.client, %service, %fault, "a SOCKS connection is refused");
            let status = http::StatusCode::from_u16(fault.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
            call.end_stream(status, 0, 0, true);
            told(io, Reply::of(&fault)).await;
        }
    }
}

async fn told(mut io: impl AsyncWrite + Unpin, reply: Reply) {
    let _ = io.write_all(&reply.encode()).await;
    let _ = io.shutdown().await;
}

/// Whom the client wants to be connected with; or what it is told instead. An error ends the connection.
async fn asked<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> io::Result<Result<Authority, Reply>> {
    let [version, count] = read(io).await?;
    let mut methods = vec![0; count.into()];
    io.read_exact(&mut methods).await?;
    if version != VERSION || !methods.contains(&NO_AUTHENTICATION) {
        io.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::Error::other("it offers no way in without authentication"));
    }
    io.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = read(io).await?;
    if version != VERSION {
        return Err(io::Error::other("its request is no SOCKS 5"));
    }
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(io).await?).to_string(),
        3 => {
            let [length] = read(io).await?;
            let mut name = vec![0; length.into()];
            io.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
        4 => format!("[{}]", Ipv6Addr::from(read::<16>(io).await?)),
        // How long it is cannot be known.
        _ => return Ok(Err(Reply::NoSuchAddress)),
    };
    let port = u16::from_be_bytes(read(io).await?);
    if command != CONNECT {
        return Ok(Err(Reply::NoSuchCommand));
    }
    let authority = format!("{host}:{port}").parse::<Authority>();
    Ok(authority
        .ok()
        .filter(|a| !a.as_str().contains('@') && !a.host().is_empty())
        .ok_or(Reply::NotAllowed))
}

async fn read<const N: usize>(io: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is understood, and what is answered.
    async fn talk(said: &[u8]) -> (io::Result<Result<Authority, Reply>>, Vec<u8>) {
        let (mut theirs, mut ours) = tokio::io::duplex(4096);
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        let understood = asked(&mut ours).await;
        drop(ours);
        let mut answered = Vec::new();
        theirs.read_to_end(&mut answered).await.unwrap();
        (understood, answered)
    }

    fn named(command: u8, host: &str) -> Vec<u8> {
        let mut said = vec![5, 2, 0, 2, 5, command, 0, 3, host.len() as u8];
        said.extend(host.as_bytes());
        said.extend([0, 80]);
        said
    }

    #[tokio::test]
    async fn names_and_addresses_are_understood() {
        let (understood, answered) = talk(&named(1, "orders.beta.hawser")).await;
        assert_eq!(understood.unwrap().unwrap().as_str(), "orders.beta.hawser:80");
        assert_eq!(answered, [5, 0]);
        let (v4, _) = talk(&[5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 7, 31, 144]).await;
        assert_eq!(v4.unwrap().unwrap().as_str(), "10.0.0.7:8080");
        let mut v6 = vec![5, 1, 0, 5, 1, 0, 4];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0, 80]);
        assert_eq!(talk(&v6).await.0.unwrap().unwrap().as_str(), "[::1]:80");
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused() {
        let (no_way_in, answered) = talk(&[5, 1, 2, 5, 1, 0, 3, 1, b'a', 0, 80]).await;
        assert!(no_way_in.is_err());
        assert_eq!(answered, [5, 0xff]);
        for (said, reply) in [
            (named(2, "orders.beta.hawser"), Reply::NoSuchCommand),
            (named(1, "a@b"), Reply::NotAllowed),
            (named(1, ""), Reply::NotAllowed),
            (vec![5, 1, 0, 5, 1, 0, 9], Reply::NoSuchAddress),
        ] {
            assert_eq!(talk(&said).await.0.unwrap(), Err(reply), "{said:?}");
        }
        for short in [&[5][..], &[5, 3, 0], &[5, 1, 0, 5, 1, 0, 3, 200, b'a']] {
            assert!(talk(short).await.0.is_err(), "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd(said in proptest::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(talk(&said));
        }
    }
}
