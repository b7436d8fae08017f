//! Waiting for the head of an answer: the clock runs only while the request's body does not move.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};

use crate::seam::Body;

/// Counts the frames of a request's body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// `body`, counted.
    pub(crate) fn follow(&self, body: Body) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        let count = self.0.clone();
        body.map_frame(move |frame| {
            count.fetch_add(1, Ordering::Relaxed);
            frame
        })
        .boxed_unsync()
    }

    /// The outcome of `answer`, or none when neither it nor the body moved for `wait`.
    pub(crate) async fn wait<T>(&self, answer: impl Future<Output = T>, wait: Duration) -> Option<T> {
        let mut answer = pin!(answer);
        loop {
            let before = self.0.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer),
                () = sleep_until(Instant::now() + wait) => {
                    if self.0.load(Ordering::Relaxed) == before {
                        return None;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moving_body_keeps_the_clock_from_running_out() {
        let progress = Progress::default();
        let count = progress.0.clone();
        let slow = async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
            7
        };
        assert_eq!(progress.wait(slow, Duration::from_secs(1)).await, Some(7));
        let never = std::future::pending::<()>();
        assert_eq!(progress.wait(never, Duration::from_millis(20)).await, None);
    }
}
