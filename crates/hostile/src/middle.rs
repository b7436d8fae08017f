//! Who stands in the middle of a session: the raw bytes of both sides, to be moved, recorded, altered or replaced.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use hawser_proto::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// Most bytes kept of one direction of one session.
const MAX_KEPT: usize = 8 << 20;
/// How long the far ends are listened to after a clean end was forged.
const LINGER: Duration = Duration::from_secs(20);
const RECORD_HEADER: usize = 5;

/// What is done with the two ends of one session.
pub type Middle = Arc<dyn Fn(Ends) -> BoxFuture<'static, ()> + Send + Sync>;

/// Both ends of one session, as raw streams.
pub struct Ends {
    /// To the gateway that asked, which is the TLS client.
    pub dialling: TcpStream,
    /// To the gateway that was told to dial in; none if nobody was.
    pub accepting: Option<TcpStream>,
    /// Where what passes is written down.
    pub transcript: Arc<Transcript>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the dialling gateway.
    Up,
    /// To the dialling gateway.
    Down,
}

/// What passed in one session, as the hub saw it.
#[derive(Debug)]
pub struct Transcript {
    /// The gateway that asked.
    pub from: NodeId,
    /// The gateway it asked for.
    pub target: NodeId,
    bytes: Mutex<[Vec<u8>; 2]>,
}

impl Transcript {
    /// Nothing yet.
    pub fn new(from: NodeId, target: NodeId) -> Self {
        Self {
            from,
            target,
            bytes: Mutex::default(),
        }
    }

    /// All that passed one way so far; the first few MiB of it.
    pub fn bytes(&self, way: Way) -> Vec<u8> {
        self.lock()[way as usize].clone()
    }

    /// Writes down what came.
    pub fn note(&self, way: Way, bytes: &[u8]) {
        let kept = &mut self.lock()[way as usize];
        let room = MAX_KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn lock(&self) -> MutexGuard<'_, [Vec<u8>; 2]> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves all bytes as they are.
pub fn honest() -> Middle {
    edited(|| |record: Record| vec![Step::Send(record.bytes)])
}

/// Moves TLS record by TLS record, each as `edit` says. `make` makes an `edit` for each session.
pub fn edited<E, M>(make: M) -> Middle
where
    M: Fn() -> E + Send + Sync + 'static,
    E: FnMut(Record) -> Vec<Step> + Send + 'static,
{
    Arc::new(move |ends| {
        let edit: Edit = Arc::new(Mutex::new(Box::new(make())));
        Box::pin(relay(ends, edit))
    })
}

/// Does anything at all with the two ends.
pub fn with_ends<F, Fut>(act: F) -> Middle
where
    F: Fn(Ends) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |ends| Box::pin(act(ends)))
}

/// Says nothing, and keeps both ends.
pub fn silent() -> Middle {
    with_ends(|ends| async move {
        let _ends = ends;
        std::future::pending::<()>().await;
    })
}

/// One TLS record (RFC 8446, 5.1) on its way, header included.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which way it goes.
    pub way: Way,
    /// How many went that way before it.
    pub index: usize,
    /// How many bytes went that way before it.
    pub offset: u64,
    /// The record.
    pub bytes: Vec<u8>,
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These bytes go on in its direction.
    Send(Vec<u8>),
    /// The session ends here for both sides, as TCP ends in good order (`FIN`); nothing that comes later goes on.
    End,
    /// The session ends here with a reset (`RST`).
    Reset,
}

type Edit = Arc<Mutex<Box<dyn FnMut(Record) -> Vec<Step> + Send>>>;

/// How a direction ended.
enum Over {
    /// The edit said so.
    Forged,
    /// It broke.
    Broke,
}

async fn relay(ends: Ends, edit: Edit) {
    let Ends {
        dialling,
        accepting: Some(accepting),
        transcript,
    } = ends
    else {
        return;
    };
    let (dialling_read, mut dialling_write) = dialling.into_split();
    let (accepting_read, mut accepting_write) = accepting.into_split();
    let (mut up_from, mut down_from) = (Records::new(dialling_read), Records::new(accepting_read));
    let both = async {
        tokio::try_join!(
            one_way(Way::Up, &mut up_from, &mut accepting_write, &edit, &transcript),
            one_way(Way::Down, &mut down_from, &mut dialling_write, &edit, &transcript),
        )
    };
    match both.await {
        Ok(_) => {}
        Err(Over::Forged) => {
            // Unread bytes would turn the close into a reset, so both sides are read to their end.
            let _ = tokio::join!(dialling_write.shutdown(), accepting_write.shutdown());
            let _ = timeout(LINGER, async { tokio::join!(up_from.drain(), down_from.drain()) }).await;
        }
        Err(Over::Broke) => {
            let ends = (
                up_from.inner.reunite(dialling_write),
                down_from.inner.reunite(accepting_write),
            );
            if let (Ok(a), Ok(b)) = ends {
                hawser_session::socket::reset_on_close(&a);
                hawser_session::socket::reset_on_close(&b);
            }
        }
    }
}

async fn one_way(
    way: Way,
    from: &mut Records,
    to: &mut OwnedWriteHalf,
    edit: &Edit,
    transcript: &Transcript,
) -> Result<(), Over> {
    let (mut index, mut offset) = (0, 0);
    loop {
        let bytes = match from.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                to.shutdown().await.map_err(|_| Over::Broke)?;
                return Ok(());
            }
            Err(_) => return Err(Over::Broke),
        };
        transcript.note(way, &bytes);
        let record = Record {
            way,
            index,
            offset,
            bytes,
        };
        index += 1;
        offset += record.bytes.len() as u64;
        let steps = (edit.lock().unwrap_or_else(PoisonError::into_inner))(record);
        for step in steps {
            match step {
                Step::Send(bytes) => to.write_all(&bytes).await.map_err(|_| Over::Broke)?,
                Step::End => return Err(Over::Forged),
                Step::Reset => return Err(Over::Broke),
            }
        }
    }
}

/// Reads TLS records, or, once what comes is none, whatever comes.
struct Records {
    inner: OwnedReadHalf,
    raw: bool,
}

impl Records {
    fn new(inner: OwnedReadHalf) -> Self {
        Self { inner, raw: false }
    }

    async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if self.raw {
            return self.anything(Vec::new()).await;
        }
        let mut bytes = vec![0; RECORD_HEADER];
        let mut have = 0;
        while have < RECORD_HEADER {
            match self.inner.read(&mut bytes[have..]).await? {
                0 if have == 0 => return Ok(None),
                0 => {
                    bytes.truncate(have);
                    return Ok(Some(bytes));
                }
                n => have += n,
            }
        }
        // Content types 20 to 24, and a version that starts with 3.
        if !(20..=24).contains(&bytes[0]) || bytes[1] != 3 {
            self.raw = true;
            return self.anything(bytes).await;
        }
        let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        bytes.resize(RECORD_HEADER + length, 0);
        self.inner.read_exact(&mut bytes[RECORD_HEADER..]).await?;
        Ok(Some(bytes))
    }

    async fn anything(&mut self, mut bytes: Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
        if bytes.is_empty() {
            bytes.resize(16 * 1024, 0);
            let n = self.inner.read(&mut bytes).await?;
            bytes.truncate(n);
        }
        Ok(Some(bytes).filter(|b| !b.is_empty()))
    }

    async fn drain(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        while !matches!(self.inner.read(&mut buffer).await, Ok(0) | Err(_)) {}
    }
}
