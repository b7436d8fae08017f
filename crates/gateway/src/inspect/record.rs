//! Recording of exchanges: copies of heads, and of bodies up to a limit, taken while the originals stream on. All copies together
//! stay within one bound; the oldest recordings make room for new ones. They are in memory alone, as they came, secrets included.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hawser_proto::NodeId;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::{
    config::InspectPlan,
    seam::{Body, BoxError},
    websocket::Upgrade,
};

/// What a recording counts for besides its texts and bodies, in bytes.
const OVERHEAD: usize = 1024;

/// All recordings, and what they take.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    bound: AtomicUsize,
    used: AtomicUsize,
    next: AtomicU64,
    kept: Mutex<BTreeMap<u64, Arc<Recording>>>,
}

impl Memory {
    /// All recordings take at most so many bytes from now on.
    pub(crate) fn bound(&self, bytes: usize) {
        self.bound.store(bytes, Ordering::Release);
        while self.used() > bytes && self.drop_oldest() {}
    }

    /// Bytes that are taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// The recording of this number, if it is still kept.
    pub(crate) fn recording(&self, number: u64) -> Option<Arc<Recording>> {
        self.kept().get(&number).cloned()
    }

    /// Drops a recording.
    pub(crate) fn forget(&self, number: u64) {
        // Dropped without the lock.
        let _gone = self.kept().remove(&number);
    }

    fn keep(&self, recording: Recording) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.kept().insert(number, Arc::new(recording));
        number
    }

    /// Takes so many bytes, at the expense of the oldest recordings; false, if there are none left to drop.
    fn take(&self, bytes: usize) -> bool {
        let bound = self.bound.load(Ordering::Acquire);
        loop {
            let taken = self
                .used
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                    used.checked_add(bytes).filter(|sum| *sum <= bound)
                });
            if taken.is_ok() {
                return true;
            }
            if bytes > bound || !self.drop_oldest() {
                return false;
            }
        }
    }

    fn drop_oldest(&self) -> bool {
        let gone = self.kept().pop_first();
        gone.is_some()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Recording>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes taken from a [`Memory`], given back when dropped.
#[derive(Debug)]
struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Held {
    fn nothing(memory: &Arc<Memory>) -> Self {
        Self {
            memory: memory.clone(),
            bytes: 0,
        }
    }

    fn grow(&mut self, by: usize) -> bool {
        let taken = self.memory.take(by);
        self.bytes += if taken { by } else { 0 };
        taken
    }

    fn shrink_to(&mut self, bytes: usize) {
        self.memory
            .used
            .fetch_sub(self.bytes.saturating_sub(bytes), Ordering::AcqRel);
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A copy of a body, as far as it is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The first bytes.
    pub(crate) data: Vec<u8>,
    /// Bytes that passed.
    pub(crate) total: u64,
    /// Whether the body came to its end.
    pub(crate) ended: bool,
    /// What came behind it.
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether it is an empty one that was announced as such.
    pub(crate) none: bool,
    limit: usize,
    full: bool,
    held: Held,
}

impl Kept {
    fn new(memory: &Arc<Memory>, limit: usize) -> Self {
        Self {
            data: Vec::new(),
            total: 0,
            ended: false,
            trailers: None,
            none: false,
            limit,
            full: false,
            held: Held::nothing(memory),
        }
    }

    /// Whether bytes that passed are not kept.
    pub(crate) fn is_truncated(&self) -> bool {
        self.total > self.data.len() as u64
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn nothing(&mut self) {
        (self.ended, self.none) = (true, true);
    }

    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.push(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            match self.held.grow(weight(trailers)) {
                true => self.trailers = Some(trailers.clone()),
                false => self.full = true,
            }
        }
    }

    fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let room = self.limit.saturating_sub(self.data.len());
        let piece = &data[..data.len().min(room)];
        if self.full || piece.is_empty() {
            return;
        }
        let needed = self.data.len() + piece.len();
        if needed > self.data.capacity() {
            let capacity = needed.max(self.limit.min(self.data.capacity() * 2));
            if !self.held.grow(capacity - self.data.capacity()) {
                self.full = true;
                return;
            }
            self.data.reserve_exact(capacity - self.data.len());
        }
        self.data.extend_from_slice(piece);
    }

    /// Ends the copy, whatever still comes.
    fn close(&mut self, headers: &HeaderMap) -> Kept {
        // A body of known length is not asked for its end by everybody who reads it.
        let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        if length.and_then(|l| l.parse().ok()) == Some(self.total) {
            self.ended = true;
        }
        let mut closed = Self::new(&self.held.memory, 0);
        closed.full = true;
        std::mem::swap(self, &mut closed);
        let spare = closed.data.capacity() - closed.data.len();
        closed.data.shrink_to_fit();
        closed.held.shrink_to(closed.held.bytes.saturating_sub(spare));
        closed
    }
}

/// An exchange, recorded.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) plan: Arc<InspectPlan>,
    /// The gateway that called.
    pub(crate) peer: NodeId,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// As they came through the tunnel.
    pub(crate) headers: HeaderMap,
    pub(crate) upgraded: bool,
    pub(crate) body: Kept,
    pub(crate) answer: Option<Answered>,
    _held: Held,
}

/// What went back.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Kept,
}

/// Records one exchange while it passes.
#[derive(Debug)]
pub(crate) struct Recorder {
    memory: Arc<Memory>,
    plan: Arc<InspectPlan>,
    peer: NodeId,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    upgraded: bool,
    request: Arc<Mutex<Kept>>,
    answer: Option<(StatusCode, HeaderMap)>,
    answer_body: Kept,
    held: Held,
}

impl Recorder {
    /// Begins a recording, of which the request's body goes through [`Tap`]. None: there is no room.
    pub(crate) fn begin(
        memory: &Arc<Memory>,
        plan: &Arc<InspectPlan>,
        peer: &NodeId,
        request: Request<Body>,
    ) -> (Option<Self>, Request<Body>) {
        let mut held = Held::nothing(memory);
        let texts = weight(request.headers()) + request.uri().to_string().len();
        if !held.grow(OVERHEAD + texts) {
            return (None, request);
        }
        let mut body = Kept::new(memory, plan.body_bytes);
        let empty = http_body::Body::is_end_stream(request.body());
        if empty {
            body.nothing();
        }
        let body = Arc::new(Mutex::new(body));
        let recorder = Self {
            memory: memory.clone(),
            plan: plan.clone(),
            peer: peer.clone(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            upgraded: Upgrade::of(&request) != Upgrade::None,
            request: body.clone(),
            answer: None,
            answer_body: Kept::new(memory, plan.body_bytes),
            held,
        };
        if empty || recorder.upgraded {
            return (Some(recorder), request);
        }
        let request = request.map(|inner| Tap { inner, kept: body }.boxed_unsync());
        (Some(recorder), request)
    }

    /// Notes the head of the answer.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        if self.held.grow(weight(headers)) {
            self.answer = Some((status, headers.clone()));
        }
    }

    /// The copy of the answer's body.
    pub(crate) fn answer_body(&mut self) -> &mut Kept {
        &mut self.answer_body
    }

    /// Keeps what there is, and says under which number.
    pub(crate) fn finish(mut self) -> u64 {
        let body = locked(&self.request).close(&self.headers);
        let answer = self.answer.take().map(|(status, headers)| Answered {
            status,
            body: self.answer_body.close(&headers),
            headers,
        });
        let recording = Recording {
            plan: self.plan,
            peer: self.peer,
            method: self.method,
            uri: self.uri,
            headers: self.headers,
            upgraded: self.upgraded,
            body,
            answer,
            _held: self.held,
        };
        self.memory.keep(recording)
    }
}

fn weight(headers: &HeaderMap) -> usize {
    let lines = headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len() + size_of::<(http::HeaderName, http::HeaderValue)>());
    lines.sum()
}

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body of which a copy is kept.
struct Tap {
    inner: Body,
    kept: Arc<Mutex<Kept>>,
}

impl http_body::Body for Tap {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let mut kept = locked(&self.kept);
        match &frame {
            Some(Ok(frame)) => {
                kept.frame(frame);
                if self.inner.is_end_stream() {
                    kept.end();
                }
            }
            None => kept.end(),
            Some(Err(_)) => {}
        }
        drop(kept);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(memory: &Arc<Memory>, limit: usize, sizes: &[usize]) -> Option<u64> {
        let plan = Arc::new(InspectPlan {
            body_bytes: limit,
            ..InspectPlan::default()
        });
        let peer = NodeId::gateway("acme".parse().unwrap(), "gw1".parse().unwrap());
        let request = Request::get("http://x/").body(crate::problem::empty()).unwrap();
        let (recorder, _) = Recorder::begin(memory, &plan, &peer, request);
        let mut recorder = recorder?;
        recorder.answered(StatusCode::OK, &HeaderMap::new());
        for size in sizes {
            recorder
                .answer_body()
                .frame(&Frame::data(Bytes::from(vec![7; *size])));
            assert!(memory.used() <= memory.bound.load(Ordering::Relaxed));
        }
        Some(recorder.finish())
    }

    #[test]
    fn what_is_kept_stays_under_the_bound_and_the_oldest_go_first() {
        let memory = Arc::new(Memory::default());
        memory.bound(300_000);
        let numbers: Vec<_> = (0..50)
            .map(|_| record(&memory, 60_000, &[1000, 30_000, 50_000]).unwrap())
            .collect();
        let kept: Vec<bool> = numbers.iter().map(|n| memory.recording(*n).is_some()).collect();
        assert!(!kept[0] && kept[49]);
        assert!(kept.iter().filter(|k| **k).count() >= 3);
        assert!(kept.is_sorted(), "{kept:?}");
        let last = memory.recording(numbers[49]).unwrap();
        let body = &last.answer.as_ref().unwrap().body;
        assert_eq!((body.data.len(), body.total), (60_000, 81_000));
        assert!(body.is_truncated());
        drop(last);
        memory.bound(0);
        assert_eq!(memory.used(), 0, "everything is given back");
        assert_eq!(record(&memory, 1, &[]), None);
    }

    #[test]
    fn bodies_under_way_count_and_are_cut_off_at_the_bound() {
        let memory = Arc::new(Memory::default());
        memory.bound(10_000);
        let number = record(&memory, 1 << 20, &[4000, 4000, 4000, 1]).unwrap();
        let recording = memory.recording(number).unwrap();
        let body = &recording.answer.as_ref().unwrap().body;
        assert!(body.is_truncated() && body.data.len() < 10_000);
        assert!(body.data.iter().all(|b| *b == 7));
    }
}
