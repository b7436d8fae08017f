//! Content on demand: a device asks by way of the mailbox; user and device are checked in the store at that moment, the content is
//! adapted with the device's present profile and sealed, and the mailbox pulls the answer in pieces, once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        mailbox::{FetchAnswer, GRANT_LIFE, MAX_PIECE},
        statement::{FetchRequest, Signed},
    },
};
use hawser_seal::PublicKey;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{debug, warn};

use crate::{
    core::Core,
    link::{MailboxLink, Reply},
    metrics::count,
    outbox::Kept,
    sealing::SealingError,
};

/// Questions answered at one time; further ones are refused, to be asked again.
const ANSWERING: usize = 32;
/// Bytes of answers that wait to be read.
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// How far a request's time may be from this clock.
const SKEW: Duration = Duration::from_secs(300);
/// Requests remembered, so that none is answered twice.
const MAX_SEEN: usize = 65_536;

/// See the module page.
pub(crate) struct Fetching {
    core: Arc<Core>,
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Answers by the mailbox's question.
    answers: HashMap<u64, Answer>,
    bytes: usize,
    seen: BTreeSet<(UnixTime, DeviceHandle, [u8; 16])>,
    /// Raised when the connection changes: answers for the one before are not kept.
    connection: u64,
}

struct Answer {
    bytes: Vec<u8>,
    ends: Instant,
}

/// Why a device does not get what it asks for.
struct Refusal(u16, &'static str);

impl Fetching {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            places: Arc::new(Semaphore::new(ANSWERING)),
            state: Mutex::default(),
        }
    }

    /// Answers a question in a task of its own.
    pub(crate) fn asked(
        self: &Arc<Self>,
        link: Arc<dyn MailboxLink>,
        id: u64,
        device: DeviceHandle,
        request: Vec<u8>,
    ) {
        let this = self.clone();
        let place = self.places.clone().try_acquire_owned();
        let connection = self.state().connection;
        tokio::spawn(async move {
            let answer = match place {
                Ok(_) => this.answer(id, connection, device, &request).await,
                Err(_) => Err(Refusal(503, "too many ask at this moment: ask again")),
            };
            let answer = answer.unwrap_or_else(|Refusal(status, reason)| {
                debug!(%device, status, reason, "content is refused");
                FetchAnswer::Refused {
                    status,
                    reason: reason.into(),
                }
            });
            let outcome = match &answer {
                FetchAnswer::Granted { .. } => "granted",
                FetchAnswer::Refused { .. } => "refused",
            };
            count(&this.core.metrics.fetches, outcome);
            // A connection that has ended asks again by the device's wish.
            let _ = link.reply(Reply::Fetched { id, answer }).await;
        });
    }

    async fn answer(
        &self,
        id: u64,
        connection: u64,
        handle: DeviceHandle,
        request: &[u8],
    ) -> Result<FetchAnswer, Refusal> {
        let core = &self.core;
        let failed = |what: &'static str| {
            move |e: &dyn std::error::Error| {
                warn!(error = %e, "{what}");
                Refusal(503, "the gateway cannot answer now: ask again")
            }
        };
        let now = UnixTime::now();
        // The store itself, not what this process remembers of it.
        let device = core.directory.device(&handle).await;
        let device = device.map_err(|e| failed("the directory cannot be read")(&e))?;
        let device = device
            .filter(|d| d.revoked.is_none())
            .ok_or(Refusal(403, "this device is not let in any more"))?;
        let user = core.directory.has_user(&device.user).await;
        if !user.map_err(|e| failed("the directory cannot be read")(&e))? {
            return Err(Refusal(403, "the user is not let in any more"));
        }
        let malformed = Refusal(400, "the request is malformed");
        let signed = Signed::<FetchRequest>::parse(request).map_err(|_| malformed)?;
        let key = PublicKey::from_bytes(&device.signing_key)
            .map_err(|_| Refusal(403, "the device's key is damaged: enrol anew"))?;
        let request = hawser_seal::verify(&signed, &key)
            .map_err(|_| Refusal(403, "the request is not signed by this device"))?;
        if request.device != handle {
            return Err(Refusal(403, "the request is of another device"));
        }
        self.once(&request, now)?;
        let kept = core.outbox.by_item(request.item).await;
        let kept = match kept.map_err(|e| failed("the outbox cannot be read")(&e))? {
            Some(delivery) => core.outbox.kept(delivery).await,
            None => Ok(None),
        };
        let kept = kept.map_err(|e| failed("the outbox cannot be read")(&e))?;
        let kept = kept.filter(|kept| entitled(kept, &device.handle, now));
        // Whether it never was this device's, or is over, is nobody's business.
        let kept = kept.ok_or(Refusal(404, "there is no such content for this device"))?;
        let answer = core
            .sealer
            .answer(&core.outbox, &kept.event, &device, &request, now)
            .await;
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(SealingError::Gone) => return Err(Refusal(410, "the content's time is over")),
            Err(e) => return Err(failed("an answer cannot be sealed")(&e)),
        };
        self.grant(id, connection, bytes)
    }

    /// Each request is answered once, in its time.
    fn once(&self, request: &FetchRequest, now: UnixTime) -> Result<(), Refusal> {
        if request.at.until(now).max(now.until(request.at)) > SKEW {
            return Err(Refusal(
                400,
                "the request is too old, or the device's clock is wrong",
            ));
        }
        let mut state = self.state();
        let over = UnixTime(now.0.saturating_sub(SKEW.as_secs() + 1));
        while state.seen.first().is_some_and(|(at, ..)| *at < over) {
            state.seen.pop_first();
        }
        if state.seen.len() >= MAX_SEEN {
            return Err(Refusal(503, "too many ask at this moment: ask again"));
        }
        match state.seen.insert((request.at, request.device, request.nonce)) {
            true => Ok(()),
            false => Err(Refusal(409, "this request was answered before")),
        }
    }

    fn grant(&self, id: u64, connection: u64, bytes: Vec<u8>) -> Result<FetchAnswer, Refusal> {
        let later = |_| Refusal(503, "the gateway cannot answer now: ask again");
        let grant = hawser_seal::random().map_err(later)?;
        let size = bytes.len() as u64;
        let mut state = self.state();
        state.sweep();
        if state.connection != connection || state.bytes + bytes.len() > MAX_BYTES {
            return Err(Refusal(503, "too much waits to be read: ask again"));
        }
        state.bytes += bytes.len();
        let ends = Instant::now() + GRANT_LIFE;
        state.answers.insert(id, Answer { bytes, ends });
        Ok(FetchAnswer::Granted { grant, size })
    }

    /// Sends the next piece; an empty one if the grant is over.
    pub(crate) async fn pull(&self, link: &Arc<dyn MailboxLink>, id: u64, offset: u64) {
        let bytes = {
            let mut state = self.state();
            state.sweep();
            let bytes = state.answers.get(&id).map_or(&[][..], |a| &a.bytes);
            let from = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
            bytes[from..bytes.len().min(from + MAX_PIECE)].to_vec()
        };
        let _ = link.reply(Reply::Piece { id, bytes }).await;
    }

    /// An answer is needed no more.
    pub(crate) fn over(&self, id: u64) {
        self.state().remove(id);
    }

    /// The connection is gone, and the mailbox's questions with it.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.answers.clear();
        state.bytes = 0;
        state.connection += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sweep(&mut self) {
        let now = Instant::now();
        let over: Vec<u64> = self
            .answers
            .iter()
            .filter(|(_, a)| a.ends <= now)
            .map(|(id, _)| *id)
            .collect();
        over.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: u64) {
        if let Some(answer) = self.answers.remove(&id) {
            self.bytes -= answer.bytes.len();
        }
    }
}

/// Whether an event is for a device now: it has a row that is under way or was delivered, and there is time left.
fn entitled(kept: &Kept, device: &DeviceHandle, now: UnixTime) -> bool {
    use hawser_proto::broker::api::State as S;
    let row = |row: &&crate::delivery::Row| row.device == Some(*device) && row.fetchable;
    now < kept.event.expires
        && kept
            .rows
            .iter()
            .filter(row)
            .any(|row| matches!(row.state, S::Sealed | S::Queued | S::Sent | S::Acked | S::Opened))
}
