//! The smallest HTTP/1.1 client that can read an admin listener. For anything else there is [`crate::curl`].

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::Host;

const LIMIT: Duration = Duration::from_secs(20);

/// `GET path` on a host; status and body.
pub fn fetch(host: &Host, at: SocketAddr, path: &str) -> Result<(u16, String)> {
    host.enter(|| {
        let stream = TcpStream::connect_timeout(&at, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        exchange(stream, &at.to_string(), path)
    })?
}

/// `GET path` on a socket in the file system; status and body.
pub fn fetch_unix(socket: &Path, path: &str) -> Result<(u16, String)> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    exchange(stream, "admin", path)
}

fn exchange(mut stream: impl Read + Write, host: &str, path: &str) -> Result<(u16, String)> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
