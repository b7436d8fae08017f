//! What the gateways of one domain know together about addresses that they have sealed, as a set of records that each of them
//! holds whole. No I/O.
//!
//! Records come in any order, twice or late, and all gateways end with the same: a record is either never changed, or the two of
//! which one is to be kept are ordered. Each gateway numbers what is new to it, so that it can tell another what that has not heard
//! yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use hawser_proto::UnixTime;
use minicbor::{Decode, Encode};

/// Most records that are held. Ends of addresses are taken beyond that, up to twice as many.
pub(crate) const MAX_RECORDS: usize = 65_536;
/// Most bytes of the records that are held, about.
const MAX_BYTES: usize = 64 << 20;
/// Longest record in bytes, about.
const MAX_RECORD: usize = 8 * 1024;
/// What a record costs besides its contents, about.
const OVERHEAD: usize = 160;

/// Names a record: a grant, a short address, a subscription.
pub(crate) type RecordId = [u8; 16];

/// One thing that is known.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Record {
    /// Its name.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) id: RecordId,
    /// What is known.
    #[n(1)]
    pub(crate) fact: Fact,
    /// When nobody needs to know it any more.
    #[n(2)]
    pub(crate) forget: UnixTime,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Fact {
    /// How long the grant of this id is good, whatever stands in its capability.
    #[n(0)]
    Good {
        /// Until then; `None`: it has ended.
        #[n(0)]
        until: Option<UnixTime>,
    },
    /// A short address stands for this capability.
    #[n(1)]
    Short {
        /// As it is sealed.
        #[n(0)]
        capability: String,
    },
    /// A subscription (WS-Eventing) that a service confirmed.
    #[n(2)]
    Subscription(#[n(0)] Subscription),
    /// A message about a subscription, whose answer comes later and elsewhere.
    #[n(3)]
    Asked(#[n(0)] Asked),
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Subscription {
    /// Its manager, hashed.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) manager: [u8; 16],
    /// What tells it from others of the same manager, hashed.
    #[n(1)]
    pub(crate) references: Vec<u64>,
    /// The addresses that were given for it, by the ids of their grants.
    #[n(2)]
    pub(crate) grants: Vec<minicbor::bytes::ByteArray<16>>,
}

/// A message about a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Asked {
    /// What it asks for.
    #[n(0)]
    pub(crate) step: Step,
    /// Domain of the service that was asked.
    #[n(1)]
    pub(crate) domain: hawser_proto::DomainName,
    /// Where it went, and what stood in it, or what it gave.
    #[n(2)]
    pub(crate) about: Subscription,
}

/// What is asked of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Step {
    /// To begin.
    #[n(0)]
    Subscribe,
    /// To last longer.
    #[n(1)]
    Renew,
    /// To end.
    #[n(2)]
    Unsubscribe,
}

impl Record {
    fn size(&self) -> usize {
        OVERHEAD
            + match &self.fact {
                Fact::Good { .. } => 0,
                Fact::Short { capability } => capability.len(),
                Fact::Subscription(s) | Fact::Asked(Asked { about: s, .. }) => s.size(),
            }
    }

    /// What is known when this and `other`, of the same id, are; `None` if that is no more than this.
    fn with(&self, other: &Self) -> Option<Self> {
        let fact = match (&self.fact, &other.fact) {
            (Fact::Good { until: a }, Fact::Good { until: b }) => Fact::Good {
                // What has ended stays so.
                until: a.zip(*b).map(|(a, b)| a.max(b)),
            },
            _ => self.fact.clone(),
        };
        let both = Self {
            id: self.id,
            fact,
            forget: self.forget.max(other.forget),
        };
        (both != *self).then_some(both)
    }
}

impl Subscription {
    fn size(&self) -> usize {
        8 * self.references.len() + 16 * self.grants.len()
    }
}

/// The records that one gateway holds.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    records: HashMap<RecordId, (Record, u64)>,
    /// Ids in the order in which this gateway learnt of them.
    order: BTreeMap<u64, RecordId>,
    last: u64,
    bytes: usize,
}

/// Why a record is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untaken {
    /// There are too many.
    #[error("too many addresses and subscriptions are known already")]
    Full,
    /// It is too long, or over already.
    #[error("the record is too long, or over already")]
    Useless,
}

impl Replica {
    /// Number of the newest record.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes a record in. What it now says, if that is new here.
    pub(crate) fn take(&mut self, record: Record, now: UnixTime) -> Result<Option<Record>, Untaken> {
        if record.size() > MAX_RECORD || record.forget <= now {
            return Err(Untaken::Useless);
        }
        let record = match self.records.get(&record.id) {
            Some((known, _)) => match known.with(&record) {
                Some(both) => both,
                None => return Ok(None),
            },
            None => {
                let ends = matches!(record.fact, Fact::Good { .. });
                let most = if ends { 2 * MAX_RECORDS } else { MAX_RECORDS };
                if self.records.len() >= most || (!ends && self.bytes + record.size() > MAX_BYTES) {
                    return Err(Untaken::Full);
                }
                record
            }
        };
        self.remove(&record.id);
        self.last += 1;
        self.bytes += record.size();
        self.order.insert(self.last, record.id);
        self.records.insert(record.id, (record.clone(), self.last));
        Ok(Some(record))
    }

    /// The record of this name.
    pub(crate) fn get(&self, id: &RecordId) -> Option<&Record> {
        self.records.get(id).map(|(record, _)| record)
    }

    /// The subscription that a message to this manager with these references means: all of its own are among them; of several the
    /// one that is told apart best.
    pub(crate) fn meant(&self, manager: &[u8; 16], references: &[u64]) -> Option<(&Record, &Subscription)> {
        let given: HashSet<_> = references.iter().collect();
        let of_manager = self.subscriptions().filter(|(_, s)| s.manager == *manager);
        of_manager
            .filter(|(_, s)| s.references.iter().all(|r| given.contains(r)))
            .max_by_key(|(_, s)| s.references.len())
    }

    /// The subscription for which this grant was given.
    pub(crate) fn of_grant(&self, grant: &RecordId) -> Option<&Subscription> {
        let mut all = self.subscriptions().map(|(_, s)| s);
        all.find(|s| s.grants.iter().any(|g| **g == *grant))
    }

    /// Records that came after number `after`, of at most about `bytes`, and the number of the last of them.
    pub(crate) fn since(&self, after: u64, bytes: usize) -> (Vec<Record>, u64) {
        let (mut some, mut last, mut size) = (Vec::new(), after, 0);
        for (number, id) in self.order.range(after + 1..) {
            let Some((record, _)) = self.records.get(id) else {
                continue;
            };
            size += record.size();
            if size > bytes && !some.is_empty() {
                return (some, last);
            }
            some.push(record.clone());
            last = *number;
        }
        (some, self.last)
    }

    /// Forgets what nobody needs any more; its ids.
    pub(crate) fn sweep(&mut self, now: UnixTime) -> Vec<RecordId> {
        let over = self.records.values().map(|(record, _)| record);
        let over: Vec<_> = over.filter(|r| r.forget <= now).map(|r| r.id).collect();
        over.iter().for_each(|id| self.remove(id));
        over
    }

    fn subscriptions(&self) -> impl Iterator<Item = (&Record, &Subscription)> {
        self.records
            .values()
            .filter_map(|(record, _)| match &record.fact {
                Fact::Subscription(s) => Some((record, s)),
                _ => None,
            })
    }

    fn remove(&mut self, id: &RecordId) {
        if let Some((record, number)) = self.records.remove(id) {
            self.order.remove(&number);
            self.bytes -= record.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixTime = UnixTime(1000);

    fn good(id: u8, until: Option<u64>) -> Record {
        Record {
            id: [id; 16],
            fact: Fact::Good {
                until: until.map(UnixTime),
            },
            forget: UnixTime(5000),
        }
    }

    fn subscription(id: u8, references: &[u64]) -> Record {
        Record {
            id: [id; 16],
            fact: Fact::Subscription(Subscription {
                manager: [9; 16],
                references: references.to_vec(),
                grants: vec![[id; 16].into()],
            }),
            forget: UnixTime(5000),
        }
    }

    #[test]
    fn what_has_ended_stays_so_and_what_was_renewed_lasts_longest() {
        let mut replica = Replica::default();
        assert!(replica.take(good(1, Some(2000)), NOW).unwrap().is_some());
        assert_eq!(replica.take(good(1, Some(1500)), NOW), Ok(None));
        assert_eq!(
            replica.take(good(1, Some(3000)), NOW),
            Ok(Some(good(1, Some(3000))))
        );
        assert_eq!(replica.take(good(1, None), NOW), Ok(Some(good(1, None))));
        assert_eq!(replica.take(good(1, Some(4000)), NOW), Ok(None));
        assert_eq!(replica.since(0, 1 << 20), (vec![good(1, None)], 3));
        assert_eq!(replica.since(3, 1 << 20), (vec![], 3));
    }

    #[test]
    fn a_message_means_the_subscription_that_it_names_and_no_other() {
        let mut replica = Replica::default();
        for record in [
            subscription(1, &[5, 1]),
            subscription(2, &[5, 2]),
            subscription(3, &[5]),
        ] {
            replica.take(record, NOW).unwrap();
        }
        let meant = |references: &[u64]| replica.meant(&[9; 16], references).map(|(r, _)| r.id[0]);
        assert_eq!(meant(&[2, 77, 5]), Some(2));
        assert_eq!(meant(&[5, 1]), Some(1));
        assert_eq!(meant(&[5]), Some(3));
        assert_eq!(meant(&[1, 2]), None);
        assert!(replica.meant(&[8; 16], &[5, 1]).is_none());
        assert!(replica.of_grant(&[2; 16]).is_some());
    }

    #[test]
    fn it_is_bounded_and_forgets() {
        let mut replica = Replica::default();
        let short = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            Record {
                id,
                fact: Fact::Short {
                    capability: "x".repeat(1000),
                },
                forget: UnixTime(2000),
            }
        };
        let taken = (0..)
            .take_while(|n| replica.take(short(*n), NOW) != Err(Untaken::Full))
            .count();
        assert!(taken > 50_000 && taken <= MAX_RECORDS, "{taken}");
        assert!(replica.take(good(255, None), NOW).unwrap().is_some(), "an end is");
        assert_eq!(replica.sweep(UnixTime(2000)).len(), taken);
        replica.take(short(0), UnixTime(1500)).unwrap();
        replica.sweep(UnixTime(2000));
        assert_eq!(
            replica.since(0, 1 << 20).1,
            replica.last(),
            "who asks has heard all"
        );
        assert_eq!(replica.bytes, good(255, None).size());
        assert_eq!(
            replica.take(short(1), UnixTime(2000)),
            Err(Untaken::Useless),
            "over already"
        );
    }

    proptest! {
        /// Whatever order records come in, all gateways end with the same.
        #[test]
        fn all_end_with_the_same(all in prop::collection::vec((0u8..4, prop::option::of(1001u64..1010), 2000u64..2010), 1..20), seed in any::<u64>()) {
            let all: Vec<_> = all.into_iter().map(|(id, until, forget)| Record { forget: UnixTime(forget), ..good(id, until) }).collect();
            let mut other = all.clone();
            let mut seed = seed;
            for i in (1..other.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                other.swap(i, (seed >> 33) as usize % (i + 1));
            }
            let state = |records: &[Record]| {
                let mut replica = Replica::default();
                records.iter().for_each(|r| { replica.take(r.clone(), NOW).unwrap(); });
                let mut state = replica.since(0, 1 << 20).0;
                state.sort_by_key(|r| r.id);
                state
            };
            prop_assert_eq!(state(&all), state(&other));
        }

        /// Whoever asks again and again from where it came to learns everything.
        #[test]
        fn who_asks_on_learns_all(count in 1u8..60, bytes in 1usize..2000) {
            let mut replica = Replica::default();
            for id in 0..count {
                replica.take(good(id, Some(1500)), NOW).unwrap();
            }
            let (mut heard, mut after) = (HashSet::new(), 0);
            while after < replica.last() {
                let (some, last) = replica.since(after, bytes);
                prop_assert!(last > after);
                heard.extend(some.into_iter().map(|r| r.id));
                after = last;
            }
            prop_assert_eq!(heard.len(), usize::from(count));
        }
    }
}
