//! The dialling side of a channel.

use std::net::SocketAddr;

use hawser_identity::{SharedCredentials, SharedTrust, tls};
use hawser_proto::NodeId;
use socket2::SockRef;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Channel, HANDSHAKE_TIMEOUT, LinkError, WELCOME, fellow_host, tune};

/// Opens a channel to `expect` and nobody else, and returns when it has let us in. Cancel safe.
pub async fn dial(
    address: SocketAddr,
    expect: &NodeId,
    own: SharedCredentials,
    trust: SharedTrust,
) -> Result<Channel, LinkError> {
    let opened = timeout(HANDSHAKE_TIMEOUT, open(address, expect, own, &trust)).await;
    let stream = opened.map_err(|_| LinkError::Timeout {
        peer: format!("{expect} at {address}"),
    })??;
    let (socket, connection) = stream.into_inner();
    let socket = socket.into_std().map_err(|source| LinkError::Setup {
        what: "a channel",
        source,
    })?;
    Channel::new(socket, connection.into(), &trust, &expect.to_string())
}

async fn open(
    address: SocketAddr,
    expect: &NodeId,
    own: SharedCredentials,
    trust: &SharedTrust,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let peer = || expect.to_string();
    fellow_host(&own, expect)?;
    let config = tls::host_client(own, trust.clone(), expect.clone())
        .map_err(|source| LinkError::Identity { peer: peer(), source })?;
    let connect = |source| LinkError::Connect {
        peer: expect.clone(),
        address,
        source,
    };
    let socket = TcpStream::connect(address).await.map_err(connect)?;
    tune(SockRef::from(&socket)).map_err(connect)?;
    let tls = |source| LinkError::Tls { peer: peer(), source };
    let mut stream = TlsConnector::from(config)
        .connect(tls::server_name(), socket)
        .await
        .map_err(tls)?;
    // With TLS 1.3 our handshake ends before the other side has judged us: what it thinks of us comes now.
    match stream.read_u8().await.map_err(tls)? {
        WELCOME => Ok(stream),
        _ => Err(LinkError::NotExpected { peer: expect.clone() }),
    }
}
