//! Waiting for a condition, with a deadline. Tests never sleep for a fixed time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Slack for anything that should happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(15);

/// Asks until the answer is there. An error ends the wait; so does the deadline, with `what` in the message.
pub fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("waited {limit:?} in vain for: {what}");
        }
        thread::sleep(PAUSE);
    }
}

/// [`until`] for a plain condition.
pub fn for_condition(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(limit, what, || Ok(holds().then_some(())))
}
