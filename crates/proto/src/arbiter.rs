//! The register that says who may run a machine: what it holds, who may change it to what, and how it is asked.
//!
//! One record per machine, changed by compare-and-set of its term only. There are no leases and no clocks. The register is
//! scoped by the domain of the asker's proved identity: names of hosts are names within it, and machines of another domain
//! are out of reach. It is asked on a host's control connection ([`crate::control::ToHub::Arbiter`]).

use std::{fmt, str::FromStr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::{NodeName, text::by_text};

/// Bytes of a UUID.
const UUID: usize = 16;
/// Where the hyphens stand in a UUID's text (RFC 9562).
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID: expected 32 hexadecimal digits as in 8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4e5f")]
pub struct UuidError(String);

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; UUID]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&uuid_text(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = UuidError;
            fn from_str(s: &str) -> Result<Self, UuidError> {
                parse_uuid(s).map(Self)
            }
        }

        by_text!($name, UuidError);

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?;
                Ok(())
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| {
                    decode::Error::message(format!("{} bytes where a UUID has {UUID}", bytes.len()))
                })
            }
        }
    };
}

uuid_type!(
    /// A machine, by the UUID that its QEMU was given (`-uuid`).
    VmId
);
uuid_type!(
    /// One stretch of protection, from its start to its end or to a fail-over; random, made by the active host.
    SessionId
);

/// Who may run a machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Award {
    /// `active` runs it and lets its output out by commit only; `standby` may take over.
    #[n(0)]
    Protected {
        /// The host that runs it.
        #[n(0)]
        active: NodeName,
        /// The host that holds its checkpoints.
        #[n(1)]
        standby: NodeName,
        /// Which stretch of protection.
        #[n(2)]
        session: SessionId,
    },
    /// `host` alone may run it, unprotected.
    #[n(1)]
    Alone {
        /// The host.
        #[n(0)]
        host: NodeName,
    },
    /// It was shut down on `host`, whose disk counts. Nobody runs it.
    #[n(2)]
    Stopped {
        /// The host.
        #[n(0)]
        host: NodeName,
    },
}

impl fmt::Display for Award {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Award::Protected { active, standby, .. } => {
                write!(f, "protected (active {active}, standby {standby})")
            }
            Award::Alone { host } => write!(f, "alone ({host})"),
            Award::Stopped { host } => write!(f, "stopped ({host})"),
        }
    }
}

/// What the register holds of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Who may run it.
    #[n(0)]
    pub award: Award,
    /// Counts the changes of this machine's record, from 1. A change names the term that it starts from.
    #[n(1)]
    pub term: u64,
    /// The host that made the last change.
    #[n(2)]
    pub by: NodeName,
}

/// The term of a record, 0 for none.
pub fn term(record: Option<&Record>) -> u64 {
    record.map_or(0, |r| r.term)
}

/// Why a host may not make a change, whatever the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, thiserror::Error, serde::Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// The asker's certificate is no host's.
    #[n(0)]
    #[error("only a host may ask the register: join with a token of `hawser token host`")]
    NoHost,
    /// A machine without a record begins as alone on the host that asks.
    #[n(1)]
    #[error("the register knows no such machine: it begins as alone on the host that asks")]
    Unknown,
    /// Neither the host that runs it nor its standby.
    #[n(2)]
    #[error("this host neither runs the machine nor is its standby: it may change nothing")]
    Stranger,
    /// A standby may only take over, alone.
    #[n(3)]
    #[error("the standby may only take over, as alone on itself")]
    Standby,
    /// There is no such step from the present award.
    #[n(4)]
    #[error("there is no such step from what the register holds: see the rules of who may run")]
    Step,
    /// A host cannot be its own standby.
    #[n(5)]
    #[error("a host cannot be its own standby")]
    OwnStandby,
    /// The domain has as many machines in the register as it may.
    #[n(6)]
    #[error("the domain has as many machines in the register as hub.limits.machines_per_domain allows")]
    Full,
}

/// Whether `by` may change the award to `to`: the rules of who may run. That the term is the present one is looked at apart,
/// in [`decide`].
pub fn permits(current: Option<&Award>, by: &NodeName, to: &Award) -> Result<(), Denial> {
    use Award::{Alone, Protected, Stopped};
    if let Protected { active, standby, .. } = to
        && active == standby
    {
        return Err(Denial::OwnStandby);
    }
    let Some(current) = current else {
        return match to {
            Alone { host } if host == by => Ok(()),
            _ => Err(Denial::Unknown),
        };
    };
    match current {
        Alone { host } | Stopped { host } if host != by => Err(Denial::Stranger),
        Protected { active, standby, .. } if active != by && standby != by => Err(Denial::Stranger),
        Alone { .. } => match to {
            Protected { active, .. } if active == by => Ok(()),
            Stopped { host } if host == by => Ok(()),
            _ => Err(Denial::Step),
        },
        Protected { active, .. } if active == by => match to {
            Alone { host } | Stopped { host } if host == by => Ok(()),
            _ => Err(Denial::Step),
        },
        Protected { .. } => match to {
            Alone { host } if host == by => Ok(()),
            _ => Err(Denial::Standby),
        },
        Stopped { .. } => match to {
            Alone { host } if host == by => Ok(()),
            _ => Err(Denial::Step),
        },
    }
}

/// What is to be done with a wish for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Write this record if what was read is still there.
    Write(Record),
    /// This very change was made before, by this very host: its answer was lost, and the host asks again.
    Done(Record),
    /// The term has moved on, by somebody else or to something else.
    Lost,
    /// The rules forbid it.
    Denied(Denial),
}

/// Decides on a change of `by` from the term `from_term` (0: no record) to `to`.
///
/// A host that does not know the outcome of a change repeats it: if the record is the one that the change would have made
/// (its term the next one, the award and the host the same), it is done. Terms are never used twice, so that a change that
/// was decided otherwise cannot be mistaken for it.
pub fn decide(current: Option<&Record>, by: &NodeName, from_term: u64, to: &Award) -> Decision {
    if let Some(record) = current
        && record.term.checked_sub(1) == Some(from_term)
        && record.by == *by
        && record.award == *to
    {
        return Decision::Done(record.clone());
    }
    if term(current) != from_term {
        return Decision::Lost;
    }
    match permits(current.map(|r| &r.award), by, to) {
        Err(denial) => Decision::Denied(denial),
        Ok(()) => Decision::Write(Record {
            award: to.clone(),
            term: from_term.saturating_add(1),
            by: by.clone(),
        }),
    }
}

/// What a host asks the register.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// What is held of a machine? Answered by [`Answer::Is`].
    #[n(0)]
    Read {
        /// The machine.
        #[n(0)]
        vm: VmId,
    },
    /// Change it. Answered by [`Answer::Changed`], [`Answer::Lost`] or [`Answer::Denied`].
    #[n(1)]
    Change {
        /// The machine.
        #[n(0)]
        vm: VmId,
        /// The term that the asker knows; 0 if it knows of no record.
        #[n(1)]
        from_term: u64,
        /// Who is to run it.
        #[n(2)]
        to: Award,
    },
}

impl Ask {
    /// Whether it may change something.
    pub fn is_change(&self) -> bool {
        matches!(self, Ask::Change { .. })
    }
}

/// What the register answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// This is held now; nothing of a machine that it does not know.
    #[n(0)]
    Is(#[n(0)] Option<Record>),
    /// Changed, and on disk. Also when it is a repeated change that was made before.
    #[n(1)]
    Changed(#[n(0)] Record),
    /// Not changed: the term is another one, and this is held now.
    #[n(2)]
    Lost(#[n(0)] Option<Record>),
    /// Not changed: the rules forbid it.
    #[n(3)]
    Denied(#[n(0)] Denial),
    /// Nothing was done: too many questions at a time, or the hub is shutting down. Ask again.
    #[n(4)]
    Busy,
    /// The hub's database failed. Whether a change was made is not known.
    #[n(5)]
    Failed(#[cbor(n(0), decode_with = "crate::line::decode")] String),
}

fn uuid_text(bytes: &[u8; UUID]) -> String {
    let mut text = String::with_capacity(36);
    for byte in bytes {
        if HYPHENS.contains(&text.len()) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

fn parse_uuid(text: &str) -> Result<[u8; UUID], UuidError> {
    let bad = || UuidError(text.chars().take(80).collect());
    if text.len() != 36 || HYPHENS.iter().any(|&at| text.as_bytes()[at] != b'-') {
        return Err(bad());
    }
    let mut nibbles = text
        .chars()
        .enumerate()
        .filter(|(at, _)| !HYPHENS.contains(at))
        .map(|(_, c)| c.to_digit(16));
    let mut bytes = [0; UUID];
    for byte in &mut bytes {
        let (Some(Some(high)), Some(Some(low))) = (nibbles.next(), nibbles.next()) else {
            return Err(bad());
        };
        *byte = (high << 4 | low) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
