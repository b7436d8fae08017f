//! The two halves of a TLS connection on a blocking socket: one thread reads while another writes.
//!
//! The state of TLS is behind a lock that is never held across a system call that can block, so neither half waits for the
//! other's peer. A key update that the peer asks for is answered with our next write (RFC 8446, 4.6.3).

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use rustix::net::{SendFlags, send};
use rustls::Connection;
use socket2::SockRef;

use super::Life;

/// Bytes that are read from the socket at a time.
const READ: usize = 128 * 1024;
/// Plain bytes that are sealed at a time: four records.
const BATCH: usize = 64 * 1024;

struct Shared {
    tls: Mutex<Connection>,
    socket: TcpStream,
    aborted: AtomicBool,
}

impl Shared {
    fn tls(&self) -> MutexGuard<'_, Connection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> io::Result<()> {
        if self.aborted.load(SeqCst) {
            Err(aborted())
        } else {
            Ok(())
        }
    }

    fn abort(&self) {
        if self.aborted.swap(true, SeqCst) {
            return;
        }
        // Both fail only where the connection is gone already.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// An error of a socket that was shut down from here is that.
    fn why(&self, e: io::Error) -> io::Error {
        if self.aborted.load(SeqCst) { aborted() } else { e }
    }
}

fn aborted() -> io::Error {
    io::Error::new(
        ErrorKind::ConnectionAborted,
        "the channel was given up from this side",
    )
}

pub(super) fn split(socket: TcpStream, mut tls: Connection, life: Life) -> (Reader, Writer, Aborter) {
    tls.set_buffer_limit(None);
    let shared = Arc::new(Shared {
        tls: Mutex::new(tls),
        socket,
        aborted: AtomicBool::new(false),
    });
    let reader = Reader {
        shared: shared.clone(),
        life,
        buffer: vec![0; READ],
        from: 0,
        to: 0,
    };
    let writer = Writer {
        shared: shared.clone(),
        sealed: Vec::with_capacity(BATCH + BATCH / 8),
        broken: false,
    };
    (reader, writer, Aborter(shared))
}

/// Ends a channel at once, from any thread: whoever reads or writes gets an error, and the peer a reset. Clones are the same.
#[derive(Clone)]
pub struct Aborter(Arc<Shared>);

impl Aborter {
    /// Does it. Once is enough.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Whether it was done.
    pub fn is_aborted(&self) -> bool {
        self.0.aborted.load(SeqCst)
    }
}

/// What the peer sends. A clean end (close_notify) is `Ok(0)`; a cut is [`ErrorKind::UnexpectedEof`] or a reset; a byte that
/// was changed on its way is [`ErrorKind::InvalidData`].
pub struct Reader {
    shared: Arc<Shared>,
    life: Life,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Reader {
    /// Opens what has come so far; none if more must come first.
    fn open(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut tls = self.shared.tls();
        loop {
            match tls.reader().read(into) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => return read.map(Some),
            }
            if self.from == self.to {
                return Ok(None);
            }
            let mut rest = &self.buffer[self.from..self.to];
            self.from += tls.read_tls(&mut rest)?;
            tls.process_new_packets()
                .map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        }
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            self.shared.live()?;
            match self.open(into) {
                Ok(Some(n)) => return Ok(n),
                Ok(None) => {}
                Err(e) => {
                    self.shared.abort();
                    return Err(e);
                }
            }
            self.from = 0;
            self.to = 0;
            match (&self.shared.socket).read(&mut self.buffer) {
                Ok(0) => {
                    self.shared.live()?;
                    // TLS notes that this is the end, and says at the next turn whether it was announced.
                    self.shared.tls().read_tls(&mut io::empty())?;
                }
                Ok(n) => {
                    self.to = n;
                    self.life.touch();
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.shared.why(e)),
            }
        }
    }
}

/// What the peer gets. After an error nothing more is taken.
pub struct Writer {
    shared: Arc<Shared>,
    sealed: Vec<u8>,
    broken: bool,
}

impl Writer {
    fn seal(&mut self, plain: &[u8]) -> io::Result<usize> {
        let mut tls = self.shared.tls();
        let n = tls.writer().write(&plain[..plain.len().min(BATCH)])?;
        while tls.wants_write() {
            tls.write_tls(&mut self.sealed)?;
        }
        Ok(n)
    }

    fn send(&mut self) -> io::Result<()> {
        let sent = (&self.shared.socket).write_all(&self.sealed);
        self.sealed.clear();
        sent.map_err(|e| self.shared.why(e))
    }
}

impl Write for Writer {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.shared.live()?;
        if self.broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let done = self.seal(plain).and_then(|n| self.send().map(|()| n));
        self.broken = done.is_err();
        done
    }

    /// Nothing waits here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.broken || self.shared.aborted.load(SeqCst) {
            return;
        }
        let mut tls = self.shared.tls();
        tls.send_close_notify();
        self.sealed.clear();
        while tls.wants_write() {
            if tls.write_tls(&mut self.sealed).is_err() {
                return;
            }
        }
        drop(tls);
        // A socket that is full has no reader: then there is no clean end either.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if send(&self.shared.socket, &self.sealed, flags).is_ok_and(|n| n == self.sealed.len()) {
            let _ = self.shared.socket.shutdown(Shutdown::Write);
        } else {
            self.shared.abort();
        }
    }
}

macro_rules! named {
    ($($name:ident)*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

named!(Reader Writer Aborter);
