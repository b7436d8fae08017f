//! Room for streams on an HTTP session: one slot a stream, held until its response body has ended.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::BoxError;

/// The slots of one session.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    all: usize,
}

impl Slots {
    pub(crate) fn new(all: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(all)),
            all,
        }
    }

    pub(crate) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    pub(crate) fn in_use(&self) -> usize {
        self.all - self.free.available_permits()
    }
}

/// Keeps a stream's slot. Every response carries one in its extensions and one in its body; the slot is free when all
/// clones are gone. Keep it beside an upgraded stream for as long as that lives.
#[derive(Debug, Clone)]
pub struct SlotGuard(#[allow(dead_code)] pub(crate) Arc<OwnedSemaphorePermit>);

pin_project! {
    /// A body that keeps its stream's slot until it has ended.
    pub(crate) struct Held<B> {
        #[pin]
        body: B,
        guard: Option<SlotGuard>,
    }
}

impl<B> Held<B> {
    pub(crate) fn new(body: B, guard: SlotGuard) -> Self {
        Self {
            body,
            guard: Some(guard),
        }
    }
}

impl<B> HttpBody for Held<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *this.guard = None;
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
