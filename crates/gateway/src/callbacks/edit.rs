//! A message on its way through an editor: no more of it is held than the editor needs to see, then it streams.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hawser_callback::{DIGESTS, Direction, Editor, Plan, Refusal, Replace, Report, Rules};
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use crate::seam::{Body, BoxError};

/// Bytes that may wait for the head to leave, so that a short message leaves with its length.
const AHEAD: usize = 64 * 1024;

/// Why a message does not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    /// It cannot be looked through, or names what it may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It broke off.
    #[error("the message broke off: {0}")]
    Broken(BoxError),
}

/// What is to be done with a message of this head.
pub(super) fn plan(rules: &Rules, direction: Direction, headers: &HeaderMap, body: &Body) -> Plan {
    if body.is_end_stream() {
        return Plan::Untouched;
    }
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    Editor::plan(
        rules,
        direction,
        text(CONTENT_TYPE),
        text(CONTENT_ENCODING),
        length(headers),
    )
}

/// Sends a body through its editor. Returns when the head may leave: with the right length if that is known by then. Cancel
/// safe: the message is lost with its sender's connection.
pub(super) async fn through(
    mut editor: Editor,
    mut replace: Box<dyn Replace + Send>,
    headers: &mut HeaderMap,
    body: Body,
) -> Result<(Body, Report), EditError> {
    let mut edited = Edited {
        body,
        waiting: VecDeque::new(),
        trailers: None,
        editing: None,
    };
    let (mut waiting, mut ended) = (0, false);
    while !ended && editor.settled().is_none() && waiting < AHEAD {
        let step = match edited.body.frame().await {
            None => {
                ended = true;
                editor.end(&mut *replace)?
            }
            Some(Err(error)) => return Err(EditError::Broken(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => editor.push(data, &mut *replace)?,
                Err(trailers) => {
                    edited.trailers = trailers.into_trailers().ok();
                    continue;
                }
            },
        };
        waiting += step.out.iter().map(Bytes::len).sum::<usize>();
        edited.waiting.extend(step.out);
    }
    join(&mut edited.waiting, waiting);
    let before = length(headers);
    let after = match (ended, before, editor.settled()) {
        (true, Some(_), _) => Some(waiting as u64),
        (false, Some(before), Some(delta)) => before.checked_add_signed(delta),
        _ => None,
    };
    match after {
        Some(length) => headers.insert(CONTENT_LENGTH, length.into()),
        None => headers.remove(CONTENT_LENGTH),
    };
    let report = editor.report().clone();
    if report.changed() {
        // They speak of the bytes that were there.
        for digest in &DIGESTS {
            headers.remove(digest);
        }
    }
    if !ended && editor.settled().is_none() {
        edited.editing = Some((editor, replace));
    }
    Ok((edited.boxed_unsync(), report))
}

/// What waits leaves as one piece: each becomes a frame, and a write, on the way.
fn join(pieces: &mut VecDeque<Bytes>, length: usize) {
    if pieces.len() > 1 && length <= 2 * AHEAD {
        let mut whole = BytesMut::with_capacity(length);
        pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
        pieces.push_back(whole.freeze());
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The rest of a message.
struct Edited {
    body: Body,
    waiting: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Until nothing more can change.
    editing: Option<(Editor, Box<dyn Replace + Send>)>,
}

impl http_body::Body for Edited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(data) = this.waiting.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if this.body.is_end_stream() && this.editing.is_none() {
                return Poll::Ready(this.trailers.take().map(|t| Ok(Frame::trailers(t))));
            }
            let step = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match (frame.into_data(), &mut this.editing) {
                    (Ok(data), None) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    (Ok(data), Some((editor, replace))) => editor.push(data, &mut **replace),
                    (Err(trailers), _) => {
                        this.trailers = trailers.into_trailers().ok();
                        continue;
                    }
                },
                None => match this.editing.take() {
                    Some((mut editor, mut replace)) => editor.end(&mut *replace),
                    None => return Poll::Ready(this.trailers.take().map(|t| Ok(Frame::trailers(t)))),
                },
            };
            match step {
                Ok(step) => this.waiting.extend(step.out),
                Err(refusal) => return Poll::Ready(Some(Err(refusal.into()))),
            }
            if this
                .editing
                .as_ref()
                .is_some_and(|(editor, _)| editor.settled().is_some())
            {
                this.editing = None;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty()
            && self.trailers.is_none()
            && self.editing.is_none()
            && self.body.is_end_stream()
    }
}
