//! The audit log: who changed what in the directory, each entry bound to the one before by its hash, so that none can be
//! changed or taken out without breaking the chain. Whoever keeps the head ([`Head`]) elsewhere notices a shortened log, too.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use hawser_proto::UnixTime;
use hawser_store::{Bucket, Store, StoreError};
use minicbor::{Decode, Encode};
use serde::Serialize;

use super::DirectoryError;

/// Entries, by number (20 digits).
const AUDIT: &str = "broker.audit";
/// How far the log is, as a hint where to look for its end.
const HINT: &str = "broker.audit-head";
const HINT_KEY: &str = "head";
/// Before an entry's CBOR in what is hashed.
const CONTEXT: &[u8] = b"hawser-audit/1\0";
/// Most characters of an entry's texts.
const MAX_TEXT: usize = 512;
/// How often an entry looks for its place among those of others before it gives up.
const MAX_TRIES: u32 = 100;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Entry {
    /// Ascending from 1 without gaps.
    #[n(0)]
    pub number: u64,
    /// When.
    #[n(1)]
    pub at: UnixTime,
    /// Who: `administrator`, `user NAME`, `device HANDLE`.
    #[n(2)]
    pub actor: String,
    /// What was done: `device-enrolled`.
    #[n(3)]
    pub action: String,
    /// To whom or what.
    #[n(4)]
    pub subject: String,
    /// More, where there is more to say.
    #[n(5)]
    pub detail: String,
    /// [`Entry::hash`] of the entry before; zeros in the first.
    #[cbor(n(6), with = "minicbor::bytes")]
    #[serde(serialize_with = "hex")]
    pub previous: [u8; 32],
}

impl Entry {
    /// What the next entry names.
    pub fn hash(&self) -> [u8; 32] {
        let mut bytes = CONTEXT.to_vec();
        bytes.extend(hawser_proto::broker::envelope::encoded(self));
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        hash
    }
}

fn hex<S: serde::Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&HEXLOWER.encode(bytes))
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Of the last entry; 0 while there is none.
    pub number: u64,
    /// Its hash.
    #[serde(serialize_with = "hex")]
    pub hash: [u8; 32],
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.number, HEXLOWER.encode(&self.hash))
    }
}

/// The log of one gateway. Several processes may write to it at once.
#[derive(Debug, Clone)]
pub struct Audit {
    entries: Bucket<Entry>,
    hint: Bucket<u64>,
}

impl Audit {
    /// The log in a store.
    pub fn new(store: &Store) -> Self {
        Self {
            entries: store.bucket(AUDIT),
            hint: store.bucket(HINT),
        }
    }

    /// Adds an entry at the end; it is on disk when this returns. Not cancel safe: the entry may be there nevertheless.
    pub async fn append(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: &str,
    ) -> Result<Head, DirectoryError> {
        let text = |s: &str| -> String {
            let visible = |c: char| if c.is_control() { ' ' } else { c };
            s.chars().take(MAX_TEXT).map(visible).collect()
        };
        for _ in 0..MAX_TRIES {
            let (number, previous) = match self.last().await? {
                Some(last) => (last.number + 1, last.hash()),
                None => (1, [0; 32]),
            };
            let entry = Entry {
                number,
                at: UnixTime::now(),
                actor: text(actor),
                action: text(action),
                subject: text(subject),
                detail: text(detail),
                previous,
            };
            match self.entries.create(&key(number), &entry).await {
                Ok(_) => {
                    self.hint.put(HINT_KEY, &number).await?;
                    return Ok(Head {
                        number,
                        hash: entry.hash(),
                    });
                }
                // Another process was first: its entry is the one before ours, then.
                Err(StoreError::Exists { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(DirectoryError::Crowded)
    }

    /// All entries, once the chain is checked from the first to the last.
    pub async fn verify(&self) -> Result<(Vec<Entry>, Head), DirectoryError> {
        let entries: Vec<Entry> = self
            .entries
            .entries()
            .await?
            .into_iter()
            .map(|(_, entry, _)| entry)
            .collect();
        let head = check(&entries)?;
        Ok((entries, head))
    }

    async fn last(&self) -> Result<Option<Entry>, StoreError> {
        let hint = self.hint.get(HINT_KEY).await?.map_or(0, |(n, _)| n);
        let mut last = match hint {
            0 => None,
            n => self.entries.get(&key(n)).await?.map(|(e, _)| e),
        };
        loop {
            let next = last.as_ref().map_or(1, |e| e.number + 1);
            match self.entries.get(&key(next)).await? {
                Some((entry, _)) => last = Some(entry),
                None => return Ok(last),
            }
        }
    }
}

/// Checks that entries in their order are one unbroken chain.
pub fn check(entries: &[Entry]) -> Result<Head, DirectoryError> {
    let mut head = Head {
        number: 0,
        hash: [0; 32],
    };
    for entry in entries {
        let broken = |detail| DirectoryError::AuditBroken {
            number: head.number + 1,
            detail,
        };
        if entry.number != head.number + 1 {
            return Err(broken(format!("the next entry is {}", entry.number)));
        }
        if entry.previous != head.hash {
            return Err(broken("it names another entry before it".into()));
        }
        head = Head {
            number: entry.number,
            hash: entry.hash(),
        };
    }
    Ok(head)
}

fn key(number: u64) -> String {
    format!("{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let store = Store::open(&state).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn entries_of_several_writers_are_one_chain() {
        let (_dir, store) = store();
        let mut tasks = Vec::new();
        for writer in 0..4 {
            let audit = Audit::new(&store);
            tasks.push(tokio::spawn(async move {
                for i in 0..5 {
                    audit
                        .append("administrator", "user-added", &format!("u{writer}-{i}"), "")
                        .await
                        .unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let (entries, head) = Audit::new(&store).verify().await.unwrap();
        assert_eq!((entries.len(), head.number), (20, 20));
    }

    #[tokio::test]
    async fn a_changed_missing_or_moved_entry_shows() {
        let (_dir, store) = store();
        let audit = Audit::new(&store);
        for name in ["alice", "bob", "carol"] {
            audit
                .append("administrator", "user-added", name, "")
                .await
                .unwrap();
        }
        let (good, _) = audit.verify().await.unwrap();
        let mut changed = good.clone();
        changed[1].subject = "mallory".into();
        let missing = [good[0].clone(), good[2].clone()];
        let mut renumbered = missing.to_vec();
        renumbered[1].number = 2;
        let swapped = [good[1].clone(), good[0].clone(), good[2].clone()];
        for bad in [&changed[..], &missing, &renumbered, &swapped] {
            assert!(matches!(check(bad), Err(DirectoryError::AuditBroken { .. })));
        }
        // A shortened log is a chain, too: its head tells.
        assert_ne!(check(&good[..2]).unwrap(), check(&good).unwrap());
    }

    #[tokio::test]
    async fn a_lost_hint_costs_time_only() {
        let (_dir, store) = store();
        let audit = Audit::new(&store);
        for _ in 0..3 {
            audit
                .append("administrator", "user-added", "alice", "")
                .await
                .unwrap();
        }
        audit.hint.delete(HINT_KEY).await.unwrap();
        audit
            .append("administrator", "user-removed", "alice\nforged", "")
            .await
            .unwrap();
        let (entries, _) = audit.verify().await.unwrap();
        assert_eq!(entries[3].subject, "alice forged");
    }
}
