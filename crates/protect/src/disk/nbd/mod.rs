//! An NBD server on a unix socket: fixed newstyle, simple replies, the commands that QEMU's mirror uses. Structured replies and block
//! status are refused: a mirror's target is only written, and QEMU, qemu-img and libnbd all do without.
//!
//! Each connection has a thread of its own, which waits for its client and its backend and for nothing else.

mod negotiate;
mod serve;
pub mod wire;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufReader},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
pub use serve::{negotiate, serve};

use super::Backend;

/// A disk as clients see it.
pub struct Export {
    /// What clients ask for it by.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What does the reading and writing.
    pub backend: Arc<dyn Backend>,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The client does not speak as it should.
    #[error("the NBD client broke the protocol: expected {0}")]
    Protocol(&'static str),
    /// Its connection, or a backend in the middle of a read.
    #[error("an NBD connection ended: {0}")]
    Io(#[from] io::Error),
}

/// A running server. Dropping it ends its connections and threads and removes the socket; a thread whose backend does not return
/// within a second is left behind, and ends when it does.
pub struct Server {
    shared: Arc<Shared>,
    listener: Arc<UnixListener>,
    socket: PathBuf,
    acceptor: Option<JoinHandle<()>>,
}

/// Most connections at a time. QEMU needs one for each disk.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a client may take over its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long [`Server`]'s drop waits for threads.
const GOODBYE: Duration = Duration::from_secs(1);
/// Requests of this size and below are read together with what follows them.
const READ_AHEAD: usize = 64 << 10;

struct Shared {
    exports: Vec<Export>,
    clients: Mutex<Clients>,
    gone: Condvar,
}

#[derive(Default)]
struct Clients {
    closing: bool,
    next: u64,
    connected: HashMap<u64, Client>,
}

struct Client {
    stream: UnixStream,
    export: Option<usize>,
}

impl Server {
    /// Listens at `socket`, which must not exist yet, and is for this process' user only.
    pub fn start(socket: &Path, exports: Vec<Export>) -> io::Result<Self> {
        let listener = Arc::new(UnixListener::bind(socket)?);
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        let shared = Arc::new(Shared {
            exports,
            clients: Mutex::default(),
            gone: Condvar::new(),
        });
        let mut server = Self {
            shared,
            listener,
            socket: socket.into(),
            acceptor: None,
        };
        let (shared, listener) = (server.shared.clone(), server.listener.clone());
        let acceptor = thread::Builder::new().name("nbd".into());
        server.acceptor = Some(acceptor.spawn(move || accept(&listener, &shared))?);
        Ok(server)
    }

    /// Lets another user's QEMU connect.
    pub fn grant(&self, uid: u32, gid: u32) -> io::Result<()> {
        chown(&self.socket, Some(uid), Some(gid))
    }

    /// Whether a client has taken the export of that name.
    pub fn in_use(&self, export: &str) -> bool {
        let named = |i: usize| self.shared.exports[i].name == export;
        self.shared
            .clients()
            .connected
            .values()
            .any(|c| c.export.is_some_and(named))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.clients().closing = true;
        // Wakes `accept`, which fails from now on.
        let _ = shutdown(&*self.listener, Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let _ = fs::remove_file(&self.socket);
        let clients = self.shared.clients();
        for client in clients.connected.values() {
            hang_up(&client.stream);
        }
        let wait = self
            .shared
            .gone
            .wait_timeout_while(clients, GOODBYE, |c| !c.connected.is_empty());
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        // Whoever panicked left a map of sockets, which is as good as before.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a new client, unless there are too many.
    fn enter(&self, stream: &UnixStream) -> io::Result<Option<u64>> {
        let stream = stream.try_clone()?;
        let mut clients = self.clients();
        if clients.closing || clients.connected.len() >= MAX_CONNECTIONS {
            return Ok(None);
        }
        clients.next += 1;
        let id = clients.next;
        clients.connected.insert(id, Client { stream, export: None });
        Ok(Some(id))
    }

    fn chose(&self, id: u64, export: usize) {
        if let Some(client) = self.clients().connected.get_mut(&id) {
            client.export = Some(export);
        }
    }

    fn leave(&self, id: u64) {
        self.clients().connected.remove(&id);
        self.gone.notify_all();
    }
}

/// Ends a connection whose thread may be waiting for its backend and keep the socket open. What the client has sent and nobody
/// has read is thrown away: as long as it fills the socket, a client that waits to send more is never told that it need not,
/// and QEMU would spin.
fn hang_up(stream: &UnixStream) {
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let mut rest = vec![0; READ_AHEAD];
    while recv(stream, &mut rest, RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0) {}
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if shared.clients().closing => return,
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a disk's mirror");
                // Out of descriptors, most likely: others must end first.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if let Err(e) = welcome(stream, shared) {
            tracing::warn!(error = %e, "cannot serve a disk's mirror");
        }
    }
}

/// Gives a client a thread, or hangs up.
fn welcome(stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let Some(id) = shared.enter(&stream)? else {
        return Ok(());
    };
    let of_thread = shared.clone();
    let spawned = thread::Builder::new().name("nbd client".into()).spawn(move || {
        // A panicking backend must not leave its client counted.
        let _leave = Leave(&of_thread, id);
        match converse(&stream, &of_thread, id) {
            Ok(()) => tracing::debug!(client = id, "a disk's mirror went away"),
            Err(e) => tracing::debug!(client = id, error = %e, "a disk's mirror ended"),
        }
    });
    if spawned.is_err() {
        shared.leave(id);
    }
    spawned.map(|_| ())
}

struct Leave<'a>(&'a Shared, u64);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

fn converse(stream: &UnixStream, shared: &Shared, id: u64) -> Result<(), NbdError> {
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    let (mut input, mut output) = (BufReader::with_capacity(READ_AHEAD, stream), stream);
    let Some(chosen) = negotiate(&mut input, &mut output, &shared.exports)? else {
        return Ok(());
    };
    // An idle disk is silent for as long as it likes.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    shared.chose(id, chosen);
    serve(&mut input, &mut output, &shared.exports[chosen])
}
