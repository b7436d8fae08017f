//! Questions to a hub's register that wait for their answers on one control connection, without the connection.

use std::collections::HashMap;

use hawser_proto::{
    arbiter::{Answer, Ask},
    control::ToHub,
};

/// Most questions that wait at one time. Hubs answer fewer than these at a time, and say that they are busy.
const MAX_ASKS: usize = 128;

/// Why a question to the register has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It was never sent: nothing happened.
    #[error("{0}")]
    Unsent(String),
    /// It was sent, or may have been, and no answer came: a change may be made, or not.
    #[error("{0}")]
    Unknown(String),
}

/// The questions under way. `W` waits for an answer.
#[derive(Debug)]
pub(crate) struct Asking<W> {
    next: u64,
    pending: HashMap<u64, W>,
}

impl<W> Asking<W> {
    /// None.
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            pending: HashMap::new(),
        }
    }

    /// The message that asks; gives `waiter` back when [`MAX_ASKS`] wait already. `gave_up` tells which waiters wait no
    /// longer.
    pub(crate) fn ask(&mut self, ask: Ask, waiter: W, gave_up: impl Fn(&W) -> bool) -> Result<ToHub, W> {
        if self.pending.len() >= MAX_ASKS {
            self.pending.retain(|_, w| !gave_up(w));
        }
        if self.pending.len() >= MAX_ASKS {
            return Err(waiter);
        }
        let id = self.next;
        self.next += 1;
        self.pending.insert(id, waiter);
        Ok(ToHub::Arbiter { id, ask })
    }

    /// Who waits for this answer; nobody if it was not asked for.
    pub(crate) fn answered(&mut self, id: u64, answer: Answer) -> Option<(W, Answer)> {
        self.pending.remove(&id).map(|waiter| (waiter, answer))
    }

    /// Everybody who still waits: what they asked was sent, or is on its way.
    pub(crate) fn end(&mut self) -> Vec<W> {
        self.pending.drain().map(|(_, waiter)| waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::arbiter::VmId;

    const ASK: Ask = Ask::Read { vm: VmId([1; 16]) };

    #[test]
    fn answers_reach_the_one_who_asked_and_only_once() {
        let mut asking = Asking::new();
        let ids: Vec<_> = ["a", "b"]
            .iter()
            .map(|w| match asking.ask(ASK, *w, |_| false) {
                Ok(ToHub::Arbiter { id, .. }) => id,
                other => panic!("{other:?}"),
            })
            .collect();
        let answer = Answer::Is(None);
        assert_eq!(
            asking.answered(ids[1], answer.clone()),
            Some(("b", answer.clone()))
        );
        assert_eq!(asking.answered(ids[1], answer.clone()), None);
        assert_eq!(asking.answered(99, answer), None);
        assert_eq!(asking.end(), ["a"]);
    }

    #[test]
    fn questions_are_bounded_and_those_given_up_make_room() {
        let mut asking = Asking::new();
        for n in 0..MAX_ASKS {
            assert!(asking.ask(ASK, n, |_| false).is_ok());
        }
        assert_eq!(asking.ask(ASK, 9999, |_| false), Err(9999));
        assert!(asking.ask(ASK, 9999, |w| w % 2 == 0).is_ok());
    }
}
