//! Group commit: calls that wait for an engine's thread share one transaction, and so one wait for the disk. Each is a savepoint
//! of its own in it, and is answered after the commit, so that nothing rests on what may be lost.

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{StoreError, sqlite::engine};

/// Calls in one transaction.
const GROUP: usize = 512;

/// Takes the outcome of the commit.
pub(crate) type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// A call: says whether it went well. Instead of what it works on it takes an error, and does nothing then.
pub(crate) type Work<T> = Box<dyn FnOnce(Result<&mut T, StoreError>) -> (bool, Answer) + Send>;

/// What the calls of a group work on.
pub(crate) trait Grouped {
    /// Where the transaction is.
    fn connection(&self) -> &Connection;
    /// Something was rolled back: what is known of the tables by heart may be more than there is.
    fn undone(&mut self);
}

/// A call, and what its caller waits for.
pub(crate) fn work<T: 'static, R: Send + 'static>(
    call: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
) -> (Work<T>, oneshot::Receiver<Result<R, StoreError>>) {
    let (reply, answer) = oneshot::channel();
    let work = move |on: Result<&mut T, StoreError>| {
        let done = on.and_then(call);
        let good = done.is_ok();
        // The caller may have gone; the work is done all the same.
        let answer: Answer = Box::new(move |commit| {
            let _ = reply.send(done.and_then(|done| commit.map(|()| done)));
        });
        (good, answer)
    };
    (Box::new(work), answer)
}

/// Begins a transaction, does a call in it and those that wait behind, and commits. The answers are to be told the outcome.
pub(crate) fn commit<T: Grouped>(
    on: &mut T,
    begin: &str,
    first: Work<T>,
    mut next: impl FnMut() -> Option<Work<T>>,
) -> (Result<(), StoreError>, Vec<Answer>) {
    if let Err(error) = execute(on.connection(), begin) {
        let (_, answer) = first(Err(again(&error)));
        return (Err(error), vec![answer]);
    }
    let mut answers = vec![one(on, first)];
    while answers.len() < GROUP
        && let Some(work) = next()
    {
        answers.push(one(on, work));
    }
    let done = execute(on.connection(), "COMMIT");
    if done.is_err() {
        let _ = execute(on.connection(), "ROLLBACK");
        on.undone();
    }
    (done, answers)
}

/// Tells everybody in a group what became of it.
pub(crate) fn tell(answers: Vec<Answer>, done: &Result<(), StoreError>) {
    for answer in answers {
        answer(match done {
            Ok(()) => Ok(()),
            Err(error) => Err(again(error)),
        });
    }
}

fn one<T: Grouped>(on: &mut T, work: Work<T>) -> Answer {
    if let Err(error) = execute(on.connection(), "SAVEPOINT call") {
        return work(Err(error)).1;
    }
    let (good, answer) = work(Ok(on));
    let ended = if good {
        execute(on.connection(), "RELEASE call")
    } else {
        let undone = execute(on.connection(), "ROLLBACK TO call")
            .and_then(|()| execute(on.connection(), "RELEASE call"));
        on.undone();
        undone
    };
    match ended {
        Ok(()) => answer,
        Err(error) => Box::new(move |_| answer(Err(error))),
    }
}

fn execute(connection: &Connection, statement: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached(statement)
        .and_then(|mut s| s.execute([]))
        .map(|_| ())
        .map_err(engine)
}

/// The same error for one more caller.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Busy(after) => StoreError::Busy(*after),
        other => StoreError::Engine(other.to_string()),
    }
}
