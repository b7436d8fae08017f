//! Questions of the state machines to the register, and its answers in their terms.

use hawser_proto::arbiter::{Award, VmId};

use crate::{
    arbiter::{Arbiter, ArbiterError},
    epoch::Reply,
};

/// A question.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    Read,
    Change { from_term: u64, to: Award },
}

/// Puts a question. Returns when the arbiter has answered or cannot be reached; the arbiter bounds the time.
pub(crate) async fn ask(arbiter: &dyn Arbiter, vm: VmId, question: Question) -> Reply {
    let answer = match question {
        Question::Read => arbiter.read(vm).await.map(Reply::Is),
        Question::Change { from_term, to } => arbiter.change(vm, from_term, to).await.map(Reply::Changed),
    };
    answer.unwrap_or_else(|error| {
        tracing::debug!(machine = %vm, %error, "the register");
        match error {
            ArbiterError::Lost(current) => Reply::Lost(current),
            ArbiterError::Denied(why) => Reply::Refused(why.to_string()),
            ArbiterError::Unknown(_) => Reply::Unknown,
            ArbiterError::Unreachable(_) => Reply::Unreachable,
        }
    })
}
