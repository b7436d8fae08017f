//! The hub's register as the agent asks it: [`Arbiter`] over the control connection of a [`hawser_gateway::Node`].

use futures_util::future::BoxFuture;
use hawser_gateway::{AskError, Register};
use hawser_protect::arbiter::{Arbiter, ArbiterError};
use hawser_proto::arbiter::{Answer, Ask, Award, Record, VmId};

/// The register at the hub that this host has joined.
pub(crate) struct HubRegister(pub(crate) Register);

impl Arbiter for HubRegister {
    fn read(&self, vm: VmId) -> BoxFuture<'_, Result<Option<Record>, ArbiterError>> {
        Box::pin(async move { understood_read(self.0.ask(Ask::Read { vm }).await) })
    }

    fn change(&self, vm: VmId, from_term: u64, to: Award) -> BoxFuture<'_, Result<Record, ArbiterError>> {
        Box::pin(async move { understood_change(self.0.ask(Ask::Change { vm, from_term, to }).await) })
    }

    fn identity(&self) -> String {
        self.0.hub().map(|(_, pin)| pin.to_string()).unwrap_or_default()
    }
}

/// Reading changes nothing, so that an answer that did not come leaves nothing in doubt.
fn understood_read(answer: Result<Answer, AskError>) -> Result<Option<Record>, ArbiterError> {
    match answer {
        Ok(Answer::Is(record)) => Ok(record),
        Ok(Answer::Denied(denial)) => Err(ArbiterError::Denied(denial)),
        Ok(Answer::Busy) => Err(ArbiterError::Unreachable(BUSY.into())),
        Ok(Answer::Failed(why)) => Err(ArbiterError::Unreachable(failed(&why))),
        Ok(Answer::Changed(_) | Answer::Lost(_)) => Err(ArbiterError::Unreachable(ODD.into())),
        Err(AskError::Unsent(why) | AskError::Unknown(why)) => Err(ArbiterError::Unreachable(why)),
    }
}

fn understood_change(answer: Result<Answer, AskError>) -> Result<Record, ArbiterError> {
    match answer {
        Ok(Answer::Changed(record)) => Ok(record),
        Ok(Answer::Lost(record)) => Err(ArbiterError::Lost(record)),
        Ok(Answer::Denied(denial)) => Err(ArbiterError::Denied(denial)),
        Ok(Answer::Busy) => Err(ArbiterError::Unreachable(BUSY.into())),
        Ok(Answer::Failed(why)) => Err(ArbiterError::Unknown(failed(&why))),
        Ok(Answer::Is(_)) => Err(ArbiterError::Unknown(ODD.into())),
        Err(AskError::Unsent(why)) => Err(ArbiterError::Unreachable(why)),
        Err(AskError::Unknown(why)) => Err(ArbiterError::Unknown(why)),
    }
}

const BUSY: &str = "the hub is answering as many questions as it may, or is shutting down";
const ODD: &str = "the hub answered something else than was asked: it is of another version";

fn failed(why: &str) -> String {
    format!("the hub's database failed ({why})")
}

#[cfg(test)]
mod tests {
    use hawser_proto::arbiter::Denial;

    use super::*;

    #[test]
    fn what_was_never_sent_is_told_from_what_is_unknown() {
        let unsent = || Err(AskError::Unsent("x".into()));
        let unknown = || Err(AskError::Unknown("x".into()));
        assert!(matches!(
            understood_change(unsent()),
            Err(ArbiterError::Unreachable(_))
        ));
        assert!(matches!(
            understood_change(unknown()),
            Err(ArbiterError::Unknown(_))
        ));
        assert!(matches!(
            understood_change(Ok(Answer::Busy)),
            Err(ArbiterError::Unreachable(_))
        ));
        let failed = Answer::Failed("disk".into());
        assert!(matches!(
            understood_change(Ok(failed.clone())),
            Err(ArbiterError::Unknown(_))
        ));
        for nothing_came in [unsent(), unknown(), Ok(Answer::Busy), Ok(failed)] {
            assert!(matches!(
                understood_read(nothing_came),
                Err(ArbiterError::Unreachable(_))
            ));
        }
        assert_eq!(
            understood_change(Ok(Answer::Lost(None))),
            Err(ArbiterError::Lost(None))
        );
        let denied = Answer::Denied(Denial::Stranger);
        assert_eq!(
            understood_change(Ok(denied)),
            Err(ArbiterError::Denied(Denial::Stranger))
        );
        assert_eq!(understood_read(Ok(Answer::Is(None))), Ok(None));
    }
}
