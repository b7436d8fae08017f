//! Waiting for the head of an answer: the clock runs only while the request's body does not move. And an end to waiting for the
//! body of somebody who may be slow on purpose.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::seam::{Body, BoxError};

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

/// `body`, which breaks off when it is waited for and nothing of it comes for `silence`.
pub(crate) fn steady(body: Body, silence: Duration) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    Steady {
        body,
        silence,
        end: None,
    }
    .boxed_unsync()
}

struct Steady {
    body: Body,
    silence: Duration,
    /// While it is waited for.
    end: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Steady {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.end = None;
            return Poll::Ready(frame);
        }
        let silence = this.silence;
        let end = this
            .end
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + silence)));
        match end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(
                format!("nothing of the body came for {silence:?}").into()
            ))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_breaks_off() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BoxError>>(4);
        let stream =
            futures_util::stream::unfold(receiver, |mut r| async move { Some((r.recv().await?, r)) });
        let wait = Duration::from_secs(60);
        let mut body = steady(
            http_body_util::StreamBody::new(Box::pin(stream)).boxed_unsync(),
            wait,
        );
        sender
            .send(Ok(Frame::data(Bytes::from_static(b"a"))))
            .await
            .unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let before = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("nothing of the body"), "{error}");
        assert!(before.elapsed() >= wait);
    }

    #[tokio::test(start_paused = true)]
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
