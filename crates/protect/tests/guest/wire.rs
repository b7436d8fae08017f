//! The other end of a guest's network card, whose back-end is `socket`: each frame is its length and its bytes. The same on
//! the sockets of held output.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hawser_testkit::{
    net,
    vm::{Nic, Spec, Version},
    wait,
};

/// What a guest of [`spec`] is called.
pub(crate) const GUEST: [u8; 4] = [10, 77, 0, 2];
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// A guest with one card, and where the wire is plugged in.
pub(crate) fn spec(version: &Version) -> Result<(Spec, SocketAddr)> {
    let at = TcpListener::bind((net::own_loopback(), 0))?.local_addr()?;
    let mut spec = Spec::new(version);
    spec.nics.push(Nic::Netdev {
        words: format!("socket,listen={at}"),
        mac: "52:54:00:12:34:56".into(),
    });
    spec.ip = Some("10.77.0.2/24".into());
    // Nor does it look for routers: nothing comes from it that was not asked for.
    spec.append = "ipv6.disable=1".into();
    Ok((spec, at))
}

/// Frames in both directions over a stream.
pub(crate) struct Wire<S> {
    stream: S,
    pending: Vec<u8>,
}

impl Wire<TcpStream> {
    pub(crate) fn plug(at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> Wire<S> {
    /// Over a stream whose reads time out.
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.stream
            .write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat())?;
        Ok(())
    }

    /// Asks the guest for its address, on behalf of 10.77.0.`who`.
    pub(crate) fn ask(&mut self, who: u8) -> Result<()> {
        let from = [0x52, 0x54, 0, 0, 0, who];
        let head = [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        self.send(&[&head[..], &from, &[10, 77, 0, who], &[0; 6], &GUEST].concat())
    }

    /// A frame, if one comes in time.
    pub(crate) fn frame(&mut self, within: Duration) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + within;
        loop {
            if let Some((head, rest)) = self.pending.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    self.pending.drain(..4 + length);
                    return Ok(Some(frame));
                }
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the wire was cut"),
                Ok(n) => self.pending.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
            if Instant::now() > end && self.pending.len() < 4 {
                return Ok(None);
            }
        }
    }

    /// The next answer of the guest, other frames left out: whom it is for, and the frame.
    pub(crate) fn answer(&mut self) -> Result<(u8, Vec<u8>)> {
        wait::until(wait::SOON, "an answer of the guest", || {
            let frame = self.frame(Duration::from_millis(20))?;
            Ok(frame.and_then(|f| Some((answers(&f)?, f))))
        })
    }

    /// How many frames come within the time.
    pub(crate) fn count(&mut self, within: Duration) -> Result<usize> {
        let end = Instant::now() + within;
        let mut frames = 0;
        while Instant::now() < end {
            frames += usize::from(self.frame(Duration::from_millis(20))?.is_some());
        }
        Ok(frames)
    }
}

/// Whom a frame of the guest answers, if it is an answer.
pub(crate) fn answers(frame: &[u8]) -> Option<u8> {
    (frame.len() >= 42 && frame[6..12] == MAC && frame[12..14] == [8, 6] && frame[21] == 2).then(|| frame[41])
}
