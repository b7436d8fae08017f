//! The register that says who may run a machine, as its clients see it.
//!
//! What it holds and its rules are in [`hawser_proto::arbiter`]; the register that counts is at the hub. Here are the trait
//! that the rest of this crate asks by, and [`Memory`], a register without a hub for tests, whose answers can be made to fail
//! in every way that a network can.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use hawser_proto::{
    NodeName,
    arbiter::{Award, Decision, Denial, Record, VmId, decide},
};

/// The register, as one host may ask it.
///
/// Every answer is linear: it is what the register held at some moment between the question and the answer. Nothing is cached.
pub trait Arbiter: Send + Sync + 'static {
    /// What is held of a machine now; nothing of one that the register does not know.
    ///
    /// Errors: [`ArbiterError::Unreachable`], [`ArbiterError::Denied`]. A read does *not* settle an
    /// [`ArbiterError::Unknown`] change, which may still be on its way: repeat the change for that.
    fn read(&self, vm: VmId) -> BoxFuture<'_, Result<Option<Record>, ArbiterError>>;

    /// Changes what is held, if its term is still `from_term` (0: none is held); returns the new record.
    ///
    /// The same change may be asked for again after [`ArbiterError::Unknown`] or [`ArbiterError::Unreachable`]: one that was
    /// made before, by this host, answers as made. Dropping the future leaves the outcome unknown.
    fn change(&self, vm: VmId, from_term: u64, to: Award) -> BoxFuture<'_, Result<Record, ArbiterError>>;

    /// Which register this is, so that two hosts can tell whether they ask the same one. Empty while that is not known.
    fn identity(&self) -> String;
}

/// Why the register gave no answer, or another one than hoped for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArbiterError {
    /// Not changed: the term has moved on. Final.
    #[error("the register was changed by another: it holds {}", show(.0.as_ref()))]
    Lost(Option<Record>),
    /// Not changed: the rules forbid it. Final; a fault of the asker.
    #[error("the register refused: {0}")]
    Denied(Denial),
    /// The change was sent and its outcome did not come back: it is made, is not made, or will be. Only repeating the same
    /// change settles it.
    #[error("the outcome of a change in the register is unknown: {0}; it is asked for again")]
    Unknown(String),
    /// Nothing was sent, or nothing was to be changed: nothing happened. A retry may help.
    #[error("the register cannot be reached: {0}; nobody changes role until it is")]
    Unreachable(String),
}

impl ArbiterError {
    /// Whether the register has decided, so that asking the same again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Denied(_))
    }
}

fn show(record: Option<&Record>) -> String {
    record.map_or_else(|| "nothing".into(), |r| format!("{}, term {}", r.award, r.term))
}

/// A register in memory, for tests. Clones are the same register.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Registers>>);

#[derive(Debug, Default)]
struct Registers {
    records: HashMap<VmId, Record>,
    /// How the questions of a host fare.
    weather: HashMap<NodeName, Weather>,
}

/// How a host's questions to a [`Memory`] fare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Weather {
    /// They are answered.
    #[default]
    Fair,
    /// They do not arrive.
    Cut,
    /// They arrive and count, and the answers are lost.
    AnswersLost,
    /// Changes are lost on the way, and the asker cannot tell.
    QuestionsLost,
}

/// One host's view of a [`Memory`].
#[derive(Debug, Clone)]
pub struct MemoryHost {
    register: Memory,
    host: NodeName,
}

impl Memory {
    /// A register that knows no machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The register as this host asks it.
    pub fn of(&self, host: NodeName) -> MemoryHost {
        MemoryHost {
            register: self.clone(),
            host,
        }
    }

    /// What is held, whoever asks.
    pub fn held(&self, vm: VmId) -> Option<Record> {
        self.lock().records.get(&vm).cloned()
    }

    /// How a host's questions fare from now on.
    pub fn weather(&self, host: &NodeName, weather: Weather) {
        self.lock().weather.insert(host.clone(), weather);
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryHost {
    fn weather(&self) -> Weather {
        self.register
            .lock()
            .weather
            .get(&self.host)
            .copied()
            .unwrap_or_default()
    }

    fn try_change(&self, vm: VmId, from_term: u64, to: &Award) -> Result<Record, ArbiterError> {
        let mut register = self.register.lock();
        let current = register.records.get(&vm);
        match decide(current, &self.host, from_term, to) {
            Decision::Write(record) => {
                register.records.insert(vm, record.clone());
                Ok(record)
            }
            Decision::Done(record) => Ok(record),
            Decision::Lost => Err(ArbiterError::Lost(current.cloned())),
            Decision::Denied(denial) => Err(ArbiterError::Denied(denial)),
        }
    }
}

impl Arbiter for MemoryHost {
    fn read(&self, vm: VmId) -> BoxFuture<'_, Result<Option<Record>, ArbiterError>> {
        Box::pin(async move {
            match self.weather() {
                Weather::Fair => Ok(self.register.held(vm)),
                _ => Err(ArbiterError::Unreachable("no answer came".into())),
            }
        })
    }

    fn change(&self, vm: VmId, from_term: u64, to: Award) -> BoxFuture<'_, Result<Record, ArbiterError>> {
        Box::pin(async move {
            let unknown = || Err(ArbiterError::Unknown("no answer came".into()));
            match self.weather() {
                Weather::Fair => self.try_change(vm, from_term, &to),
                Weather::Cut => Err(ArbiterError::Unreachable("not connected".into())),
                Weather::AnswersLost => {
                    let _ = self.try_change(vm, from_term, &to);
                    unknown()
                }
                Weather::QuestionsLost => unknown(),
            }
        })
    }

    fn identity(&self) -> String {
        "memory".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId([1; 16]);

    fn host(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn alone(name: &str) -> Award {
        Award::Alone { host: host(name) }
    }

    #[tokio::test]
    async fn of_two_that_want_it_one_gets_it() {
        let register = Memory::new();
        let (a, b) = (register.of(host("a")), register.of(host("b")));
        assert_eq!(a.read(VM).await, Ok(None));
        let won = a.change(VM, 0, alone("a")).await.unwrap();
        assert_eq!((won.term, &won.by), (1, &host("a")));
        assert_eq!(
            b.change(VM, 0, alone("b")).await,
            Err(ArbiterError::Lost(Some(won.clone())))
        );
        assert_eq!(
            b.change(VM, 1, alone("b")).await,
            Err(ArbiterError::Denied(Denial::Stranger))
        );
        assert_eq!(b.read(VM).await, Ok(Some(won)));
    }

    #[tokio::test]
    async fn a_change_whose_outcome_is_unknown_is_settled_by_repeating_it() {
        let register = Memory::new();
        let a = register.of(host("a"));
        for (weather, made) in [(Weather::QuestionsLost, false), (Weather::AnswersLost, true)] {
            let vm = VmId([weather as u8; 16]);
            register.weather(&host("a"), weather);
            assert!(matches!(
                a.change(vm, 0, alone("a")).await,
                Err(ArbiterError::Unknown(_))
            ));
            assert_eq!(register.held(vm).is_some(), made);
            assert!(matches!(a.read(vm).await, Err(ArbiterError::Unreachable(_))));
            register.weather(&host("a"), Weather::Fair);
            assert_eq!(a.change(vm, 0, alone("a")).await.unwrap().term, 1);
        }
        register.weather(&host("a"), Weather::Cut);
        assert!(matches!(
            a.change(VM, 0, alone("a")).await,
            Err(ArbiterError::Unreachable(_))
        ));
        assert_eq!(register.held(VM), None);
    }
}
