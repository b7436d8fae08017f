//! A device's event stream (WHATWG server-sent events, in HTTP/1.1 chunks), written on the bare connection: an idle stream is
//! to cost little more than its TLS.

use std::{io, pin::pin, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::{UnixTime, broker::DeviceHandle};
use hawser_store::mailbox::{Item, Page};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Mailbox, Presence,
    feed::{End, Feed, Next},
};

/// A comment at least so often tells both ends and what is between them that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How long a device may take to take a piece of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an envelope that are encoded and written at a time; a multiple of three.
const PIECE: usize = 12 * 1024;
/// Items, and bytes, read from the store at a time.
pub(super) const PAGE_ITEMS: usize = 256;
pub(super) const PAGE_BYTES: usize = 256 * 1024;
/// How long a store that could not be read is left alone.
const RETRY: Duration = Duration::from_millis(200);
/// How long the last words of a stream may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the device did not read for {} s", WRITE_TIMEOUT.as_secs())]
    Slow,
    #[error("the device has gone, or spoke out of turn")]
    Gone,
    #[error("ended: {0:?}")]
    Ended(End),
    #[error("ended in the middle of a message: {0:?}")]
    Cut(End),
}

/// A stream that is to begin.
pub(super) struct Stream {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) device: DeviceHandle,
    pub(super) presence: Presence,
    /// Up to this number the device has everything, or an explanation.
    pub(super) above: u64,
}

impl Stream {
    /// Writes until the device goes, is revoked, or the hub stops.
    pub(super) async fn run<S>(self, mut io: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let over = match self.begin(&mut io).await {
            Ok(()) => self.serve(&mut io).await,
            Err(over) => over,
        };
        match &over {
            Over::Slow => {
                self.mailbox.metrics.slow.inc();
            }
            Over::Ended(end) => {
                // The last words; a device that does not take them is cut all the same.
                let _ = timeout(FAREWELL, farewell(&mut io, *end)).await;
            }
            _ => {}
        }
        tracing::debug!(device = %self.device, reason = %over, "stream over");
    }

    async fn begin<S: AsyncWrite + Unpin>(&self, io: &mut S) -> Result<(), Over> {
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\naccess-control-allow-origin: *\r\naccess-control-expose-headers: date\r\n\
             date: {date}\r\n\r\n"
        );
        self.write(io, head.as_bytes()).await?;
        self.event(io, ": here\n\n").await
    }

    /// The idle part is small; what needs room is boxed, and gone when it is done.
    async fn serve<S>(&self, io: &mut S) -> Over
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut position = 0;
        let mut beat = pin!(sleep_until(Instant::now() + HEARTBEAT));
        loop {
            let done = match self.feed().next() {
                Next::End(end) => return Over::Ended(end),
                Next::Behind => Box::pin(self.catch_up(io, &mut position)).await,
                Next::Item(item) if item.position <= position => Ok(()),
                Next::Item(item) => {
                    position = item.position;
                    Box::pin(self.item(io, &item)).await
                }
                Next::Nothing => {
                    let mut byte = [0];
                    tokio::select! {
                        biased;
                        () = self.feed().changed() => continue,
                        _ = io.read(&mut byte) => return Over::Gone,
                        () = beat.as_mut() => {
                            beat.as_mut().reset(Instant::now() + HEARTBEAT);
                            Box::pin(self.event(io, ":\n\n")).await
                        }
                    }
                }
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    /// Reads a page from the store and writes it.
    async fn catch_up<S: AsyncWrite + Unpin>(&self, io: &mut S, position: &mut u64) -> Result<(), Over> {
        self.feed().live();
        let page = Page {
            after: *position,
            above: self.above,
            now: UnixTime::now().0,
            items: PAGE_ITEMS,
            bytes: PAGE_BYTES,
        };
        let items = match self.mailbox.store.read(self.device.0, page).await {
            Ok(items) => items,
            Err(error) => {
                tracing::warn!(%error, "cannot read a queue: trying again");
                self.feed().behind();
                tokio::time::sleep(RETRY).await;
                return Ok(());
            }
        };
        // Short of both bounds is all that there is.
        let bytes: usize = items.iter().map(|item| item.body.len()).sum();
        if !items.is_empty() && (items.len() == PAGE_ITEMS || bytes >= PAGE_BYTES) {
            self.feed().behind();
        }
        for item in &items {
            *position = item.position;
            self.item(io, item).await?;
        }
        Ok(())
    }

    async fn item<S: AsyncWrite + Unpin>(&self, io: &mut S, item: &Item) -> Result<(), Over> {
        if !item.skip && item.expires <= UnixTime::now().0 {
            return Ok(());
        }
        let (event, number) = (if item.skip { "skip" } else { "envelope" }, item.sequence);
        let mut text = format!("event: {event}\nid: {number}\ndata: ");
        for piece in item.body.chunks(PIECE) {
            URL_SAFE_NO_PAD.encode_string(piece, &mut text);
            if text.len() > PIECE {
                self.event(io, &text).await?;
                text.clear();
            }
        }
        text.push_str("\n\n");
        self.event(io, &text).await?;
        self.mailbox.written(&self.device, item);
        Ok(())
    }

    /// One chunk of the body.
    async fn event<S: AsyncWrite + Unpin>(&self, io: &mut S, text: &str) -> Result<(), Over> {
        self.write(io, &chunk(text)).await
    }

    /// A revocation cuts a write that the device does not take, too.
    async fn write<S: AsyncWrite + Unpin>(&self, io: &mut S, bytes: &[u8]) -> Result<(), Over> {
        if let Some(end) = self.feed().ended() {
            return Err(Over::Ended(end));
        }
        let write = async {
            io.write_all(bytes).await?;
            io.flush().await
        };
        let ended = async {
            loop {
                if let Some(end) = self.feed().ended() {
                    return end;
                }
                self.feed().changed().await;
            }
        };
        tokio::select! {
            biased;
            end = ended => Err(Over::Cut(end)),
            written = timeout(WRITE_TIMEOUT, write) => match written {
                Ok(written) => Ok(written?),
                Err(_) => Err(Over::Slow),
            },
        }
    }

    fn feed(&self) -> &Feed {
        &self.presence.feed
    }
}

async fn farewell<S: AsyncWrite + Unpin>(io: &mut S, end: End) -> io::Result<()> {
    if end == End::Revoked {
        io.write_all(&chunk("event: revoked\ndata:\n\n")).await?;
    }
    io.write_all(b"0\r\n\r\n").await?;
    io.shutdown().await
}

fn chunk(text: &str) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", text.len()).into_bytes();
    chunk.reserve_exact(text.len() + 2);
    chunk.extend_from_slice(text.as_bytes());
    chunk.extend_from_slice(b"\r\n");
    chunk
}
