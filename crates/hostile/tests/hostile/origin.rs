//! Services below HTTP: one that counts whom it served, and one that keeps what it was sent.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use hawser_testkit::pattern;

/// Asked for this many bytes, the service sends its first eight, and nothing more until the caller goes.
pub const HOLD: u64 = u64::MAX;

/// Reads eight bytes (a big-endian number) and sends that much of the pattern.
pub struct Feed {
    served: Arc<AtomicU64>,
}

impl Feed {
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let served = Arc::new(AtomicU64::new(0));
        let count = served.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || serve(stream, &count));
            }
        });
        Ok(Self { served })
    }

    /// How many asked for anything; a mere connection (a health check) does not count.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, count: &AtomicU64) -> std::io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    count.fetch_add(1, Ordering::SeqCst);
    match u64::from_be_bytes(wanted) {
        HOLD => {
            stream.write_all(&pattern::chunk(0)[..8])?;
            stream.read_exact(&mut wanted)
        }
        n => {
            let mut reader = pattern::Reader::new(n);
            while let Some(chunk) = reader.next_chunk() {
                stream.write_all(&chunk)?;
            }
            Ok(())
        }
    }
}

/// Keeps what each connection sent, once it has ended, and never answers.
pub struct Sink {
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Sink {
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let received = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = received.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let kept = kept.clone();
                thread::spawn(move || {
                    let mut bytes = Vec::new();
                    // A reset ends it as well; what came before it counts.
                    let _ = stream.read_to_end(&mut bytes);
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
                });
            }
        });
        Ok(Self { received })
    }

    /// What came in connections that sent anything and have ended.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let all = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|b| !b.is_empty()).cloned().collect()
    }
}
