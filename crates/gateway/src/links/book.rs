//! Which pooled session takes the next request, and when another one is needed. Pure bookkeeping of one peer's sessions: time
//! comes in, decisions go out.

use std::time::{Duration, Instant};

use hawser_proto::Fault;

/// Most sessions of one class with one peer.
pub(crate) const MAX_SESSIONS: usize = 8;
/// Unused for this long, a session is closed.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// Requests on the least loaded session from which another one is opened beside it, so that not one task carries all.
const SPREAD_FROM: usize = 24;
/// Sessions that are opened for the sake of spreading.
const SPREAD_TO: usize = 2;

/// A pooled session, as far as the book needs to know it.
pub(crate) trait Member: Clone {
    /// Room for one request.
    type Slot;
    /// Room for a request, if there is any.
    fn reserve(&self) -> Option<Self::Slot>;
    /// Whether it is of no more use.
    fn is_closed(&self) -> bool;
    /// Requests under way.
    fn in_flight(&self) -> usize;
    /// Whether it has been idle for so long that it must be asked for a sign of life first.
    fn is_doubtful(&self) -> bool;
    /// Since it was last used.
    fn idle_for(&self) -> Duration;
}

/// The sessions with one peer.
#[derive(Debug)]
pub(crate) struct Book<M> {
    entries: Vec<Entry<M>>,
    next: u64,
    /// A dial is under way.
    dialling: bool,
    /// Dials begun so far.
    dials: u64,
    /// The last dial that failed, and why.
    failed: Option<(u64, Fault)>,
}

#[derive(Debug)]
struct Entry<M> {
    id: u64,
    session: M,
    drain_at: Instant,
    asking: bool,
    /// Another one broke: this one may have gone the same way.
    doubted: bool,
}

impl<M: Member> Entry<M> {
    fn is_doubtful(&self) -> bool {
        self.doubted || self.session.is_doubtful()
    }
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Placed<M: Member> {
    /// Onto a session. With a job when the pool should grow beside it.
    Slot(M::Slot, Option<Job<M>>),
    /// Nowhere yet. The first to wait is given the jobs that end the waiting.
    Wait(Vec<Job<M>>),
}

/// Work that the pool's owner does, then tells the book.
#[derive(Debug)]
pub(crate) enum Job<M> {
    /// Make a session, then [`Book::dialled`] or [`Book::not_dialled`].
    Dial,
    /// Ask this one for a sign of life, then [`Book::answered`].
    Ask(u64, M),
}

impl<M> Default for Book<M> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            next: 0,
            dialling: false,
            dials: 0,
            failed: None,
        }
    }
}

impl<M: Member> Book<M> {
    /// Where a request goes now.
    pub(crate) fn place(&mut self, now: Instant) -> Placed<M> {
        self.drop_useless(now);
        let best = self
            .entries
            .iter()
            .filter(|e| !e.asking && !e.is_doubtful())
            .min_by_key(|e| e.session.in_flight());
        if let Some((slot, load)) = best.and_then(|e| Some((e.session.reserve()?, e.session.in_flight()))) {
            let grow = load >= SPREAD_FROM && self.entries.len() < SPREAD_TO;
            return Placed::Slot(slot, if grow { self.dial() } else { None });
        }
        let doubtful = self.entries.iter_mut().filter(|e| !e.asking && e.is_doubtful());
        let asked: Vec<_> = doubtful
            .map(|e| {
                e.asking = true;
                Job::Ask(e.id, e.session.clone())
            })
            .collect();
        if !asked.is_empty() {
            return Placed::Wait(asked);
        }
        if self.entries.iter().any(|e| e.asking) {
            return Placed::Wait(Vec::new());
        }
        Placed::Wait(self.dial().into_iter().collect())
    }

    /// The dial brought a session, which takes no new requests from `drain_at` on.
    pub(crate) fn dialled(&mut self, session: M, drain_at: Instant) {
        self.dialling = false;
        self.failed = None;
        self.next += 1;
        self.entries.push(Entry {
            id: self.next,
            session,
            drain_at,
            asking: false,
            doubted: false,
        });
    }

    /// The dial failed.
    pub(crate) fn not_dialled(&mut self, fault: Fault) {
        self.dialling = false;
        self.failed = Some((self.dials, fault));
    }

    /// The session that was asked is alive, or it is not.
    pub(crate) fn answered(&mut self, id: u64, alive: bool) {
        if alive {
            for e in self.entries.iter_mut().filter(|e| e.id == id) {
                e.asking = false;
                e.doubted = false;
            }
        } else {
            self.entries.retain(|e| e.id != id);
        }
    }

    /// A session broke. What broke it, such as the death of a hub, may have broken the others: they are asked before use.
    pub(crate) fn doubt(&mut self) {
        self.entries.iter_mut().for_each(|e| e.doubted = true);
    }

    /// Number of the dial that somebody who waits from now on waits for.
    pub(crate) fn awaited(&self) -> u64 {
        if self.dialling { self.dials } else { self.dials + 1 }
    }

    /// Why dial number `since`, or a later one, failed, when nothing has come of any since.
    pub(crate) fn failure(&self, since: u64) -> Option<&Fault> {
        self.failed
            .as_ref()
            .filter(|(dial, _)| *dial >= since)
            .map(|(_, fault)| fault)
    }

    /// Whether all sessions are full, and no more may be opened.
    pub(crate) fn is_full(&self) -> bool {
        !self.dialling && self.entries.len() >= MAX_SESSIONS
    }

    /// Forgets sessions that are closed, idle, or due to drain; each closes once its last request has ended.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.drop_useless(now);
        self.entries
            .retain(|e| e.asking || e.session.in_flight() > 0 || e.session.idle_for() < IDLE);
    }

    /// Requests under way on the sessions that take more.
    pub(crate) fn in_flight(&self) -> usize {
        self.entries.iter().map(|e| e.session.in_flight()).sum()
    }

    /// Sessions that take requests.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A session that takes requests and is not in doubt.
    pub(crate) fn any(&self) -> Option<M> {
        self.entries
            .iter()
            .find(|e| !e.asking && !e.session.is_closed())
            .map(|e| e.session.clone())
    }

    fn dial(&mut self) -> Option<Job<M>> {
        if self.dialling || self.entries.len() >= MAX_SESSIONS {
            return None;
        }
        self.dialling = true;
        self.dials += 1;
        Some(Job::Dial)
    }

    fn drop_useless(&mut self, now: Instant) {
        self.entries
            .retain(|e| !e.session.is_closed() && now < e.drain_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, rc::Rc};

    #[derive(Debug, Clone, Default)]
    struct Fake(Rc<Inner>);

    #[derive(Debug, Default)]
    struct Inner {
        used: Cell<usize>,
        most: usize,
        closed: Cell<bool>,
        doubtful: Cell<bool>,
        idle: Cell<Duration>,
    }

    impl Fake {
        fn with(most: usize) -> Self {
            Self(Rc::new(Inner {
                most,
                ..Inner::default()
            }))
        }
    }

    impl Member for Fake {
        type Slot = ();
        fn reserve(&self) -> Option<()> {
            let used = self.0.used.get();
            (used < self.0.most).then(|| self.0.used.set(used + 1))
        }
        fn is_closed(&self) -> bool {
            self.0.closed.get()
        }
        fn in_flight(&self) -> usize {
            self.0.used.get()
        }
        fn is_doubtful(&self) -> bool {
            self.0.doubtful.get()
        }
        fn idle_for(&self) -> Duration {
            self.0.idle.get()
        }
    }

    fn fault() -> Fault {
        Fault::new(hawser_proto::Place::Hub, 502, "x", "", "")
    }

    /// The one session that is to be asked.
    fn asked(placed: Placed<Fake>) -> u64 {
        match placed {
            Placed::Wait(jobs) => match jobs[..] {
                [Job::Ask(id, _)] => id,
                _ => panic!("{} jobs", jobs.len()),
            },
            Placed::Slot(..) => panic!("not asked"),
        }
    }

    fn later(now: Instant) -> Instant {
        now + Duration::from_secs(3600)
    }

    #[test]
    fn one_dials_and_the_others_wait_for_it() {
        let now = Instant::now();
        let mut book = Book::<Fake>::default();
        assert!(matches!(book.place(now), Placed::Wait(jobs) if matches!(jobs[..], [Job::Dial])));
        assert!(matches!(book.place(now), Placed::Wait(jobs) if jobs.is_empty()));
        book.dialled(Fake::with(2), later(now));
        assert!(matches!(book.place(now), Placed::Slot((), None)));
        assert!(matches!(book.place(now), Placed::Slot((), None)));
        assert!(
            matches!(book.place(now), Placed::Wait(jobs) if matches!(jobs[..], [Job::Dial])),
            "full: another one"
        );
    }

    #[test]
    fn a_failed_dial_is_told_to_those_who_waited_for_it_only() {
        let now = Instant::now();
        let mut book = Book::<Fake>::default();
        let early = book.awaited();
        let _ = book.place(now);
        assert_eq!(early, book.awaited());
        assert!(book.failure(early).is_none());
        book.not_dialled(fault());
        assert!(book.failure(early).is_some());
        let late = book.awaited();
        assert!(
            book.failure(late).is_none(),
            "who comes later has a try of his own"
        );
        assert!(matches!(book.place(now), Placed::Wait(jobs) if matches!(jobs[..], [Job::Dial])));
    }

    #[test]
    fn a_doubtful_session_is_asked_once_and_dropped_when_it_is_silent() {
        let now = Instant::now();
        let mut book = Book::default();
        let session = Fake::with(9);
        session.0.doubtful.set(true);
        book.dialled(session.clone(), later(now));
        let id = asked(book.place(now));
        assert!(matches!(book.place(now), Placed::Wait(jobs) if jobs.is_empty()));
        session.0.doubtful.set(false);
        book.answered(id, true);
        assert!(matches!(book.place(now), Placed::Slot((), None)));
        session.0.doubtful.set(true);
        let id = asked(book.place(now));
        book.answered(id, false);
        assert!(matches!(book.place(now), Placed::Wait(jobs) if matches!(jobs[..], [Job::Dial])));
    }

    #[test]
    fn when_one_breaks_the_others_are_asked_before_they_are_used() {
        let now = Instant::now();
        let mut book = Book::default();
        book.dialled(Fake::with(9), later(now));
        book.dialled(Fake::with(9), later(now));
        book.doubt();
        let Placed::Wait(jobs) = book.place(now) else {
            panic!("used without asking");
        };
        assert_eq!(jobs.len(), 2, "both at the same time");
        let ids: Vec<_> = jobs
            .iter()
            .filter_map(|j| if let Job::Ask(id, _) = j { Some(*id) } else { None })
            .collect();
        book.answered(ids[0], false);
        assert!(matches!(book.place(now), Placed::Wait(jobs) if jobs.is_empty()));
        book.answered(ids[1], true);
        assert!(matches!(book.place(now), Placed::Slot((), None)));
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn closed_and_draining_sessions_take_nothing_and_idle_ones_go() {
        let now = Instant::now();
        let mut book = Book::default();
        let (closed, old, idle) = (Fake::with(9), Fake::with(9), Fake::with(9));
        closed.0.closed.set(true);
        idle.0.idle.set(IDLE);
        book.dialled(closed, later(now));
        book.dialled(old, now);
        book.dialled(idle, later(now));
        assert!(matches!(book.place(now), Placed::Slot((), None)));
        assert_eq!(book.len(), 1);
        book.sweep(now);
        assert_eq!(book.len(), 1, "a request is under way");
        book.any().unwrap().0.used.set(0);
        book.sweep(now);
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn the_pool_spreads_under_load_and_is_capped() {
        let now = Instant::now();
        let mut book = Book::default();
        book.dialled(Fake::with(64), later(now));
        let grown = (0..64)
            .filter(|_| matches!(book.place(now), Placed::Slot((), Some(Job::Dial))))
            .count();
        assert_eq!(grown, 1);
        for _ in 1..MAX_SESSIONS {
            book.dialled(Fake::with(0), later(now));
        }
        assert!(matches!(book.place(now), Placed::Wait(jobs) if jobs.is_empty()));
        assert!(book.is_full());
    }
}
