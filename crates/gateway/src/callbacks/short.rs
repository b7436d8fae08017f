//! Short addresses, for services that take no long ones: the capability is kept by the domain's gateways, and its name in the
//! address is 22 characters long.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::UnixTime;
use tokio::time::timeout;

use super::{
    replica::{Fact, Record, RecordId, Untaken},
    shared::Shared,
};

/// How long a short address that is not known yet is waited for: another gateway of the domain may just have made it.
const ARRIVES: Duration = Duration::from_secs(2);

/// The name of a capability: the id of its grant, 128 random bits. Whoever has it may use it, as with the capability itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(pub(super) RecordId);

impl Token {
    /// Under which its capability is kept.
    pub(super) fn record(self) -> RecordId {
        let hash = digest(&SHA256, &[&b"short"[..], &self.0].concat());
        std::array::from_fn(|i| hash.as_ref()[i])
    }

    /// `None`: it is not of that form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl Shared {
    /// A name for the capability of a grant that is good until `expires`. On disk when [`Shared::save`] returns.
    pub(super) fn shorten(
        &self,
        grant: RecordId,
        capability: String,
        expires: UnixTime,
    ) -> Result<Token, Untaken> {
        let token = Token(grant);
        self.note(Record {
            id: token.record(),
            fact: Fact::Short { capability },
            forget: expires,
        })?;
        Ok(token)
    }

    /// The record of a grant's short address, if it has one, to be kept until then.
    pub(super) fn short_until(&self, grant: RecordId, until: UnixTime) -> Option<Record> {
        let known = self.look(|r| r.get(&Token(grant).record()).cloned())?;
        Some(Record {
            forget: until,
            ..known
        })
    }

    /// The capability of this name, waited for a little.
    pub(super) async fn whole(&self, token: Token) -> Option<String> {
        let mut changed = self.watch();
        let known = || {
            self.look(|r| match &r.get(&token.record())?.fact {
                Fact::Short { capability } => Some(capability.clone()),
                _ => None,
            })
        };
        let arrives = async {
            loop {
                changed.borrow_and_update();
                if let Some(capability) = known() {
                    return Some(capability);
                }
                changed.changed().await.ok()?;
            }
        };
        timeout(ARRIVES, arrives).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_short_and_has_one_form() {
        let token = Token(std::array::from_fn(|i| 7 * i as u8));
        let text = token.to_string();
        assert_eq!(text.len(), 22);
        assert_eq!(Token::parse(&text), Some(token));
        for odd in ["", "AAAA", "0015789d.YofRukKpzvJ3bmPfQN", &format!("{text}A")] {
            assert_eq!(Token::parse(odd), None, "{odd}");
        }
        // Stray bits in the last character.
        assert_eq!(Token::parse("AAAAAAAAAAAAAAAAAAAAAB"), None);
    }
}
