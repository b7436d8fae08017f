//! Each proof counts once.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use hawser_proto::UnixTime;

use crate::dpop::{DpopError, Proof, WINDOW};

/// Most proofs remembered for a key. When they are more, the oldest is forgotten, and no proof so old is accepted any more.
const MAX_PROOFS: usize = 64;
/// How often keys that have nothing to remember are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// The memory of proofs: bounded for each key and in all, and never forgetful. Only proofs by registered keys should be shown to
/// it, so that strangers take up no room.
#[derive(Debug)]
pub struct Replays {
    /// Older proofs may have been seen by a process before this one.
    started: UnixTime,
    keys: HashMap<[u8; 32], Seen>,
    max_keys: usize,
    swept: UnixTime,
}

#[derive(Debug)]
struct Seen {
    /// By time and id.
    proofs: BTreeSet<(UnixTime, [u8; 16])>,
    /// Proofs of this time and before are not accepted.
    floor: Option<UnixTime>,
}

impl Replays {
    /// Remembers for at most so many keys. Proofs from before `started` are refused: an earlier process may have seen them.
    pub fn new(started: UnixTime, max_keys: usize) -> Self {
        Self {
            started,
            keys: HashMap::new(),
            max_keys,
            swept: started,
        }
    }

    /// Takes note of a proof that [`crate::dpop::check`] has passed; refuses it when it was seen before.
    pub fn admit(&mut self, proof: &Proof, now: UnixTime) -> Result<(), DpopError> {
        if proof.at < self.started {
            return Err(DpopError::Replayed);
        }
        if self.swept.until(now) >= SWEEP || self.keys.len() >= self.max_keys {
            self.sweep(now);
        }
        if self.keys.len() >= self.max_keys && !self.keys.contains_key(&proof.thumbprint) {
            return Err(DpopError::Busy);
        }
        let seen = self.keys.entry(proof.thumbprint).or_insert_with(|| Seen {
            proofs: BTreeSet::new(),
            floor: None,
        });
        seen.forget(now);
        if seen.floor.is_some_and(|floor| proof.at <= floor) || !seen.proofs.insert((proof.at, proof.id)) {
            return Err(DpopError::Replayed);
        }
        if seen.proofs.len() > MAX_PROOFS
            && let Some((oldest, _)) = seen.proofs.pop_first()
        {
            seen.floor = Some(oldest);
        }
        Ok(())
    }

    /// Forgets a key: its device is revoked.
    pub fn remove(&mut self, thumbprint: &[u8; 32]) {
        self.keys.remove(thumbprint);
    }

    fn sweep(&mut self, now: UnixTime) {
        if self.swept == now {
            return;
        }
        self.swept = now;
        self.keys.retain(|_, seen| {
            seen.forget(now);
            !seen.proofs.is_empty() || seen.floor.is_some_and(|floor| floor.plus(WINDOW) >= now)
        });
    }
}

impl Seen {
    /// Drops what is too old to be accepted in any case.
    fn forget(&mut self, now: UnixTime) {
        while self.proofs.first().is_some_and(|(at, _)| at.plus(WINDOW) < now) {
            self.proofs.pop_first();
        }
    }
}
