//! Looks at the clock and at the other host's signs of life, for a session of either role.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::link::Moment;

/// How often signs of life are looked for, at least.
const LOOK: Duration = Duration::from_millis(50);

/// A session as its watch sees it.
pub(super) trait Watched {
    /// When it is to be told the time next, if ever; none once it is over.
    fn next_tick(&self) -> Option<Option<Instant>>;

    /// When the other host was last heard.
    fn last_heard(&self) -> Option<Moment>;

    /// A sign of life came.
    fn heard(self: &Arc<Self>);

    /// The time for which it asked has come.
    fn tick(self: &Arc<Self>);
}

/// Watches until the session is over. `rest` waits at most so long, and looks at what else there is.
pub(super) fn watch<S: Watched>(session: &Arc<S>, mut rest: impl FnMut(Duration)) {
    let mut heard = None;
    while let Some(tick) = session.next_tick() {
        let wait = tick.map_or(LOOK, |t| t.saturating_duration_since(Instant::now()));
        rest(wait.clamp(Duration::from_millis(1), LOOK));
        // Before the time: what came meanwhile is no silence.
        let last = session.last_heard();
        if last > heard {
            heard = last;
            session.heard();
        }
        if session.next_tick().flatten().is_some_and(|t| t <= Instant::now()) {
            session.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    #[derive(Default)]
    struct Seen {
        last: Option<Moment>,
        said: Vec<&'static str>,
    }

    struct Session(Mutex<Seen>);

    impl Session {
        fn seen(&self) -> MutexGuard<'_, Seen> {
            self.0.lock().unwrap()
        }
    }

    impl Watched for Session {
        fn next_tick(&self) -> Option<Option<Instant>> {
            (self.seen().said.last() != Some(&"tick")).then(|| Some(Instant::now()))
        }

        fn last_heard(&self) -> Option<Moment> {
            self.seen().last
        }

        fn heard(self: &Arc<Self>) {
            self.seen().said.push("heard");
        }

        fn tick(self: &Arc<Self>) {
            self.seen().said.push("tick");
        }
    }

    #[test]
    fn a_sign_of_life_that_came_in_time_comes_before_the_time() {
        let session = Arc::new(Session(Mutex::default()));
        watch(&session, |_| session.seen().last = Some(Moment::now()));
        assert_eq!(session.seen().said, ["heard", "tick"]);
    }
}
