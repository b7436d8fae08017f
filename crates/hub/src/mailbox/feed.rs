//! What is on its way to one stream of a device: a short queue beside the store. A stream that does not keep up, or has just
//! begun, is *behind*: nothing is queued for it, and it reads the store until it has caught up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hawser_store::mailbox::Item;
use tokio::sync::Notify;

/// Items that wait for one stream.
pub(super) const MAX_ITEMS: usize = 256;
/// Bytes that wait for one stream.
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The device is revoked.
    Revoked,
    /// The device has another key now, or its domain may not be here any more.
    NotAllowed,
    /// The hub stops.
    Stopped,
}

/// What a stream does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Write this.
    Item(Arc<Item>),
    /// Read the store behind this position: [`Feed::live`] first.
    Behind,
    /// End.
    End(End),
    /// Wait.
    Nothing,
}

/// One stream's queue.
#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<State>,
    /// Woken whenever [`Feed::next`] may say something else.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Arc<Item>>,
    bytes: usize,
    behind: bool,
    end: Option<End>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            behind: true,
            end: None,
        }
    }
}

impl Feed {
    /// An item came into the device's queue.
    pub(super) fn push(&self, item: &Arc<Item>) {
        let mut state = self.state();
        if state.behind {
            return;
        }
        if state.queue.len() >= MAX_ITEMS || state.bytes + item.body.len() > MAX_BYTES {
            *state = State {
                end: state.end,
                ..State::default()
            };
        } else {
            state.bytes += item.body.len();
            state.queue.push_back(item.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Takes out envelopes with these numbers that were not written yet.
    pub(super) fn withdraw(&self, from: u64, to: u64) {
        let mut state = self.state();
        let gone = |item: &Arc<Item>| !item.skip && (from..=to).contains(&item.sequence);
        state.queue.retain(|item| !gone(item));
        state.bytes = state.queue.iter().map(|item| item.body.len()).sum();
    }

    /// The stream ends; the first reason counts.
    pub(super) fn end(&self, why: End) {
        self.state().end.get_or_insert(why);
        self.changed.notify_one();
    }

    /// What to do now.
    pub(super) fn next(&self) -> Next {
        let mut state = self.state();
        if let Some(end) = state.end {
            return Next::End(end);
        }
        if state.behind {
            return Next::Behind;
        }
        match state.queue.pop_front() {
            Some(item) => {
                state.bytes -= item.body.len();
                if state.queue.is_empty() {
                    // An idle stream holds no room.
                    state.queue = VecDeque::new();
                }
                Next::Item(item)
            }
            None => Next::Nothing,
        }
    }

    /// The stream is about to read a page from the store: what comes from now on is queued, and what was is in the store.
    pub(super) fn live(&self) {
        let mut state = self.state();
        *state = State {
            behind: false,
            end: state.end,
            ..State::default()
        };
    }

    /// The page was full: there is more in the store.
    pub(super) fn behind(&self) {
        let mut state = self.state();
        *state = State {
            end: state.end,
            ..State::default()
        };
    }

    /// Why it ends, if it does.
    pub(super) fn ended(&self) -> Option<End> {
        self.state().end
    }

    /// Waits until [`Feed::next`] may say something else. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sequence: u64, length: usize) -> Arc<Item> {
        Arc::new(Item {
            position: sequence,
            sequence,
            expires: 9,
            skip: false,
            body: vec![0; length].into(),
        })
    }

    #[test]
    fn a_stream_that_does_not_keep_up_is_sent_to_the_store() {
        let feed = Feed::default();
        feed.push(&item(1, 1));
        assert_eq!(feed.next(), Next::Behind, "it has just begun");
        feed.live();
        assert_eq!(feed.next(), Next::Nothing);
        for n in 2..=MAX_ITEMS as u64 + 1 {
            feed.push(&item(n, 1));
        }
        assert_eq!(feed.next(), Next::Item(item(2, 1)));
        feed.push(&item(100, 1));
        feed.push(&item(101, 1));
        assert_eq!(feed.next(), Next::Behind);
        feed.live();
        feed.push(&item(102, MAX_BYTES));
        feed.push(&item(103, 1));
        assert_eq!(feed.next(), Next::Behind, "bytes count as well");
    }

    #[test]
    fn what_is_withdrawn_is_not_written_and_an_end_comes_first() {
        let feed = Feed::default();
        feed.live();
        for n in 1..=3 {
            feed.push(&item(n, 1));
        }
        feed.withdraw(1, 2);
        feed.end(End::Revoked);
        feed.end(End::Stopped);
        assert_eq!(feed.next(), Next::End(End::Revoked));
        feed.live();
        assert_eq!(feed.ended(), Some(End::Revoked), "for good");
    }
}
