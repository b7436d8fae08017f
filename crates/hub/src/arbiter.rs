//! The register of who may run a machine: answers hosts' questions from the store, by the rules in
//! [`hawser_proto::arbiter`]. Each question is decided on what the store holds at that moment and nothing else, and a change
//! is answered when it is on disk.
//!
//! Records are kept per domain: a host reaches those of its own, proved domain only. The functions that take a [`Store`] are
//! for the command line.

use std::sync::Arc;

use hawser_proto::{
    DomainName, NodeId, UnixTime,
    arbiter::{Answer, Ask, Award, Decision, Denial, Record, VmId, decide},
};
use hawser_store::{Bucket, Revision, Store, StoreError};
use minicbor::{Decode, Encode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::LedgerError;

/// Most questions of all hosts that are answered at one time.
const ASKS: usize = 512;
/// Most questions of one host that are answered at one time.
const ASKS_PER_HOST: usize = 32;
/// Times that a change is decided anew because somebody else's came between.
const TRIES: usize = 8;

/// What is kept of a machine, under `domain/uuid`.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) struct Kept {
    #[n(0)]
    pub(crate) record: Record,
    /// When it was changed last.
    #[n(1)]
    pub(crate) at: UnixTime,
}

/// A machine in the register, for operators.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RegisteredMachine {
    /// Whose it is.
    pub domain: DomainName,
    /// Which one.
    pub vm: VmId,
    /// Who may run it.
    pub record: Record,
    /// When that was changed last.
    pub at: UnixTime,
}

/// Why a machine was not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some host may run it.
    #[error(
        "the register holds {0} for this machine: a host may be running it, and one more could begin to; shut it down first, or \
         say that no host runs it"
    )]
    InUse(Award),
}

/// All machines in the register, by domain and UUID.
pub async fn registered(store: &Store) -> Result<Vec<RegisteredMachine>, LedgerError> {
    let entries = bucket(store).entries().await?;
    entries
        .into_iter()
        .map(|(key, kept, _)| {
            let (domain, vm) = key
                .split_once('/')
                .and_then(|(domain, vm)| Some((domain.parse().ok()?, vm.parse().ok()?)))
                .ok_or(LedgerError::Name(key))?;
            Ok(RegisteredMachine {
                domain,
                vm,
                record: kept.record,
                at: kept.at,
            })
        })
        .collect()
}

/// Forgets a machine, so that its UUID begins anew; false if it was not known. One that a host may be running only if
/// `nobody_runs_it`: two hosts could run it afterwards.
pub async fn forget_registered(
    store: &Store,
    domain: &DomainName,
    vm: VmId,
    nobody_runs_it: bool,
) -> Result<bool, ForgetError> {
    let bucket = bucket(store);
    let key = key(domain, vm);
    match bucket.get(&key).await? {
        Some((kept, _)) if !nobody_runs_it && !matches!(kept.record.award, Award::Stopped { .. }) => {
            Err(ForgetError::InUse(kept.record.award))
        }
        Some(_) => Ok(bucket.delete(&key).await?),
        None => Ok(false),
    }
}

/// Forgets all machines of a domain; whether there were any.
pub(crate) async fn forget_domain(store: &Store, domain: &DomainName) -> Result<bool, StoreError> {
    let bucket = bucket(store);
    let prefix = prefix(domain);
    let mut any = false;
    for (key, _, _) in bucket.entries().await? {
        if key.starts_with(&prefix) {
            any |= bucket.delete(&key).await?;
        }
    }
    Ok(any)
}

fn bucket(store: &Store) -> Bucket<Kept> {
    store.bucket("machines")
}

fn prefix(domain: &DomainName) -> String {
    format!("{domain}/")
}

fn key(domain: &DomainName, vm: VmId) -> String {
    format!("{domain}/{vm}")
}

/// The register of a running hub. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Arbiter {
    machines: Bucket<Kept>,
    asks: Arc<Semaphore>,
    /// Held while a machine is added, so that a domain's bound holds.
    adding: Arc<tokio::sync::Mutex<()>>,
}

/// The places of one host's questions.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// A question's place, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Places {
    /// Room for one more question; none when too many are being answered.
    pub(crate) fn take(&self) -> Option<Place> {
        Some(Place {
            _own: self.own.clone().try_acquire_owned().ok()?,
            _all: self.all.clone().try_acquire_owned().ok()?,
        })
    }
}

/// Who asks, and how far it may go.
pub(crate) struct Asker<'a> {
    pub(crate) id: &'a NodeId,
    /// Machines that its domain may have in the register.
    pub(crate) machines: usize,
    /// Whether it is still let in: asked before every write.
    pub(crate) stands: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Arbiter {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            machines: bucket(store),
            asks: Arc::new(Semaphore::new(ASKS)),
            adding: Arc::default(),
        }
    }

    /// The places of a host that has connected.
    pub(crate) fn places(&self) -> Places {
        Places {
            own: Arc::new(Semaphore::new(ASKS_PER_HOST)),
            all: self.asks.clone(),
        }
    }

    /// Answers a host. Dropped, it leaves a change made or not made.
    pub(crate) async fn answer(&self, asker: Asker<'_>, ask: Ask) -> Answer {
        let answer = match ask {
            Ask::Read { vm } => self.read(&asker, vm).await,
            Ask::Change { vm, from_term, to } => self.change(&asker, vm, from_term, to).await,
        };
        answer.unwrap_or_else(|error| {
            tracing::error!(%error, "the register's database failed");
            Answer::Failed(error.to_string())
        })
    }

    async fn read(&self, asker: &Asker<'_>, vm: VmId) -> Result<Answer, StoreError> {
        let found = self.machines.get(&key(&asker.id.domain, vm)).await?;
        Ok(Answer::Is(found.map(|(kept, _)| kept.record)))
    }

    async fn change(
        &self,
        asker: &Asker<'_>,
        vm: VmId,
        from_term: u64,
        to: Award,
    ) -> Result<Answer, StoreError> {
        let key = key(&asker.id.domain, vm);
        for _ in 0..TRIES {
            let found = self.machines.get(&key).await?;
            let (current, revision) = match found {
                Some((kept, revision)) => (Some(kept.record), Some(revision)),
                None => (None, None),
            };
            let record = match decide(current.as_ref(), &asker.id.name, from_term, &to) {
                Decision::Write(record) => record,
                Decision::Done(record) => return Ok(Answer::Changed(record)),
                Decision::Lost => return Ok(Answer::Lost(current)),
                Decision::Denied(denial) => return Ok(denied(asker, vm, &to, denial)),
            };
            if !(asker.stands)() {
                // Its connection is being cut.
                return Ok(Answer::Busy);
            }
            let kept = Kept {
                record,
                at: UnixTime::now(),
            };
            match self.write(asker, &key, &kept, revision).await {
                Ok(Written::Yes) => {
                    audit(asker.id, vm, current.as_ref(), &kept.record);
                    return Ok(Answer::Changed(kept.record));
                }
                Ok(Written::Full) => return Ok(denied(asker, vm, &to, Denial::Full)),
                Err(StoreError::Conflict { .. } | StoreError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Answer::Busy)
    }

    async fn write(
        &self,
        asker: &Asker<'_>,
        key: &str,
        kept: &Kept,
        over: Option<Revision>,
    ) -> Result<Written, StoreError> {
        if let Some(revision) = over {
            self.machines.update(key, kept, revision).await?;
            return Ok(Written::Yes);
        }
        let _adding = self.adding.lock().await;
        let prefix = prefix(&asker.id.domain);
        let entries = self.machines.entries().await?;
        let has = entries
            .iter()
            .filter(|(key, _, _)| key.starts_with(&prefix))
            .count();
        if has >= asker.machines {
            return Ok(Written::Full);
        }
        self.machines.create(key, kept).await?;
        Ok(Written::Yes)
    }
}

enum Written {
    Yes,
    Full,
}

fn denied(asker: &Asker<'_>, vm: VmId, to: &Award, denial: Denial) -> Answer {
    tracing::debug!(host = %asker.id, %vm, %to, reason = %denial, "the register refused a change");
    Answer::Denied(denial)
}

/// The log line of a change: who may run what, by whom, and what was before.
fn audit(by: &NodeId, vm: VmId, before: Option<&Record>, now: &Record) {
    let from = before.map_or_else(|| "nothing".into(), |r| r.award.to_string());
    tracing::info!(%vm, host = %by, %from, to = %now.award, term = now.term, "register changed");
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId([1; 16]);

    fn host(text: &str) -> NodeId {
        let (domain, name) = text.split_once('/').unwrap();
        NodeId::host(domain.parse().unwrap(), name.parse().unwrap())
    }

    fn alone(name: &str) -> Award {
        Award::Alone {
            host: name.parse().unwrap(),
        }
    }

    async fn ask_with(arbiter: &Arbiter, who: &str, machines: usize, stands: bool, ask: Ask) -> Answer {
        let id = host(who);
        let asker = Asker {
            id: &id,
            machines,
            stands: &|| stands,
        };
        arbiter.answer(asker, ask).await
    }

    async fn ask(arbiter: &Arbiter, who: &str, ask: Ask) -> Answer {
        ask_with(arbiter, who, 10, true, ask).await
    }

    fn change(vm: VmId, from_term: u64, to: Award) -> Ask {
        Ask::Change { vm, from_term, to }
    }

    #[tokio::test]
    async fn domains_do_not_see_or_touch_each_others_machines() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let arbiter = Arbiter::new(&store);
        let acme = ask(&arbiter, "acme/h1", change(VM, 0, alone("h1"))).await;
        assert!(matches!(acme, Answer::Changed(_)));
        assert_eq!(
            ask(&arbiter, "beta/h1", Ask::Read { vm: VM }).await,
            Answer::Is(None)
        );
        // The same UUID, host name and term in another domain is another machine.
        let stopped = Award::Stopped {
            host: "h1".parse().unwrap(),
        };
        assert_eq!(
            ask(&arbiter, "beta/h1", change(VM, 1, stopped)).await,
            Answer::Lost(None)
        );
        assert!(matches!(
            ask(&arbiter, "beta/h1", change(VM, 0, alone("h1"))).await,
            Answer::Changed(_)
        ));
        assert_eq!(registered(&store).await.unwrap().len(), 2);
        assert!(forget_domain(&store, &"beta".parse().unwrap()).await.unwrap());
        let left = registered(&store).await.unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].domain.as_str(), left[0].vm), ("acme", VM));
    }

    #[tokio::test]
    async fn of_many_that_race_one_wins_each_term() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // Two connections to one database, as two processes would have.
        let arbiters = [
            Arbiter::new(&store),
            Arbiter::new(&Store::open(dir.path()).unwrap()),
        ];
        for round in 0..20u8 {
            let vm = VmId([round; 16]);
            let asks = (0..8).map(|n| {
                let arbiter = arbiters[n % 2].clone();
                async move {
                    let name = format!("h{n}");
                    ask_with(
                        &arbiter,
                        &format!("acme/{name}"),
                        100,
                        true,
                        change(vm, 0, alone(&name)),
                    )
                    .await
                }
            });
            let answers = futures_util::future::join_all(asks).await;
            let won: Vec<_> = answers
                .iter()
                .filter(|a| matches!(a, Answer::Changed(_)))
                .collect();
            assert_eq!(won.len(), 1, "{answers:?}");
            let Answer::Changed(record) = won[0] else {
                unreachable!()
            };
            for answer in &answers {
                assert!(
                    answer == won[0] || *answer == Answer::Lost(Some(record.clone())),
                    "{answer:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_domain_has_a_bound_and_stopped_machines_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let arbiter = Arbiter::new(&store);
        for n in 0..3 {
            let answer = ask_with(
                &arbiter,
                "acme/h1",
                2,
                true,
                change(VmId([n; 16]), 0, alone("h1")),
            )
            .await;
            assert_eq!(matches!(answer, Answer::Changed(_)), n < 2, "{answer:?}");
        }
        let acme = "acme".parse().unwrap();
        let held = forget_registered(&store, &acme, VmId([0; 16]), false).await;
        assert!(matches!(held, Err(ForgetError::InUse(_))));
        let stopped = Award::Stopped {
            host: "h1".parse().unwrap(),
        };
        ask(&arbiter, "acme/h1", change(VmId([0; 16]), 1, stopped)).await;
        assert!(
            forget_registered(&store, &acme, VmId([0; 16]), false)
                .await
                .unwrap()
        );
        assert!(
            forget_registered(&store, &acme, VmId([1; 16]), true)
                .await
                .unwrap()
        );
        assert!(
            !forget_registered(&store, &acme, VmId([1; 16]), true)
                .await
                .unwrap()
        );
        let again = ask_with(
            &arbiter,
            "acme/h1",
            2,
            true,
            change(VmId([2; 16]), 0, alone("h1")),
        )
        .await;
        assert!(matches!(again, Answer::Changed(_)));
    }

    #[tokio::test]
    async fn who_is_being_cut_changes_nothing_and_questions_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::new(&Store::open(dir.path()).unwrap());
        let answer = ask_with(&arbiter, "acme/h1", 9, false, change(VM, 0, alone("h1"))).await;
        assert_eq!(answer, Answer::Busy);
        assert_eq!(
            ask(&arbiter, "acme/h1", Ask::Read { vm: VM }).await,
            Answer::Is(None)
        );
        let places = arbiter.places();
        let taken: Vec<_> = (0..ASKS_PER_HOST).map(|_| places.take().unwrap()).collect();
        assert!(places.take().is_none());
        assert!(arbiter.places().take().is_some());
        drop(taken);
        assert!(places.take().is_some());
    }
}
