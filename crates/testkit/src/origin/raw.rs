//! Servers below HTTP: they end connections the way no well-behaved server would.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use crate::{Host, pattern};

/// What a server does with each connection.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// An HTTP/1.1 answer by path: `/length/N` promises more than the N bytes that it sends, `/chunked/N` sends no last chunk;
    /// then a reset (`RST`). `/short/N` and `/open/N` are the same two with an orderly end (`FIN`) instead.
    HttpBrokenOff,
    /// Sends back what comes, and ends each direction when the other side ended it.
    Echo,
    /// Reads one byte, sends this many, and resets.
    ResetAfter(u64),
    /// Sends nothing, ever, and keeps the connection.
    Silent,
    /// Reads to the end, then sends length and SHA-256 of what came, then ends: needs half-closed connections.
    HashAtEnd,
    /// Reads 8 bytes (a big-endian number) and sends that much of the pattern, then ends.
    Source,
}

/// A running server; ends when dropped.
pub struct RawOrigin {
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl RawOrigin {
    /// Starts it on a host's port.
    pub fn start(host: &Host, port: u16, manner: Manner) -> Result<Self> {
        let address = host.at(port);
        let runtime = host.runtime()?;
        let listener = host.listen(address)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = serve(stream, manner).await;
                });
            }
        });
        Ok(Self {
            runtime: Some(runtime),
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl RawOrigin {
    /// Ends it now: its port is closed, and so are its connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(mut stream: TcpStream, manner: Manner) -> Result<()> {
    stream.set_nodelay(true)?;
    match manner {
        Manner::HttpBrokenOff => broken_off(stream).await,
        Manner::Echo => {
            let (mut r, mut w) = stream.split();
            tokio::io::copy(&mut r, &mut w).await?;
            w.shutdown().await?;
            Ok(())
        }
        Manner::ResetAfter(n) => {
            stream.read_u8().await?;
            send(&mut stream, n).await?;
            reset(stream)
        }
        Manner::Silent => {
            let mut buf = [0; 1024];
            while stream.read(&mut buf).await? > 0 {}
            std::future::pending().await
        }
        Manner::HashAtEnd => {
            let (mut len, mut hash, mut buf) = (0, pattern::Hash::new(), vec![0; 256 * 1024]);
            loop {
                let n = stream.read(&mut buf).await?;
                if n == 0 {
                    break;
                }
                hash.update(&buf[..n]);
                len += n;
            }
            stream
                .write_all(format!("{len} {}\n", hash.finish()).as_bytes())
                .await?;
            stream.shutdown().await?;
            Ok(())
        }
        Manner::Source => {
            let len = stream.read_u64().await?;
            send(&mut stream, len).await?;
            stream.shutdown().await?;
            Ok(())
        }
    }
}

async fn broken_off(mut stream: TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).context("no path")?;
    let (how, n) = path.trim_start_matches('/').split_once('/').context("/HOW/N")?;
    let n: u64 = n.parse()?;
    let framing = match how {
        "length" | "short" => format!("Content-Length: {}", n + 1_000_000),
        _ => "Transfer-Encoding: chunked".into(),
    };
    let chunked = framing.starts_with('T');
    let mut head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
    if chunked {
        head += &format!("{n:x}\r\n");
    }
    stream.write_all(head.as_bytes()).await?;
    send(&mut stream, n).await?;
    if chunked {
        stream.write_all(b"\r\n").await?;
    }
    stream.flush().await?;
    if matches!(how, "length" | "chunked") {
        reset(stream)
    } else {
        Ok(stream.shutdown().await?)
    }
}

async fn send(stream: &mut TcpStream, len: u64) -> Result<()> {
    let mut reader = pattern::Reader::new(len);
    while let Some(chunk) = reader.next_chunk() {
        stream.write_all(&chunk).await?;
    }
    Ok(())
}

fn reset(stream: TcpStream) -> Result<()> {
    let socket = stream.into_std()?;
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    Ok(())
}
