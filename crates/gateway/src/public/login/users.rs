//! Users with passwords, for published names that ask for one: kept in the gateway's store as Argon2id hashes (RFC 9106).

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use hawser_proto::UnixTime;
use hawser_store::{Bucket, Store, StoreError};
use minicbor::{Decode, Encode};
use serde::Serialize;
use zeroize::Zeroizing;

/// The bucket, by the user's name.
const BUCKET: &str = "logins";
/// Most users.
const MAX_USERS: usize = 10_000;
/// Longest name in bytes.
const MAX_NAME: usize = 64;
/// Shortest password in characters.
const MIN_PASSWORD: usize = 8;
/// Longest password in bytes.
pub(super) const MAX_PASSWORD: usize = 512;
/// Bytes of a hash.
const HASH: usize = 32;
/// What one look at a password costs: memory in KiB and passes over it (OWASP's first choice for Argon2id but one, as RFC 9106's
/// would let strangers take 64 MiB with each guess).
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// Of [`BUCKET`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Password {
    #[cbor(n(0), with = "minicbor::bytes")]
    salt: [u8; 16],
    #[cbor(n(1), with = "minicbor::bytes")]
    hash: [u8; HASH],
    /// Memory in KiB.
    #[n(2)]
    memory: u32,
    /// Passes over it.
    #[n(3)]
    passes: u32,
    #[n(4)]
    since: UnixTime,
}

/// A user, for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// When the password was set.
    pub since: UnixTime,
}

/// Why a user was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No name.
    #[error("{0:?} is no user name: expected 1 to {MAX_NAME} letters, digits and any of . _ + - @")]
    Name(String),
    /// Too short, or too long.
    #[error(
        "the password has {0} characters: expected {MIN_PASSWORD} or more, and at most {MAX_PASSWORD} bytes"
    )]
    Password(usize),
    /// There are too many.
    #[error("there are {MAX_USERS} users already: remove some with `hawser login remove`")]
    Full,
    /// There is none of the name.
    #[error("there is no user {0}; `hawser login list` shows those that there are")]
    Unknown(String),
    /// The library.
    #[error("the password cannot be hashed: is there enough memory?")]
    Hash,
}

/// The users of a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Users(Bucket<Password>);

impl Users {
    /// Those in the state directory of a gateway, which may be running: it takes changes up within a second.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(&Store::open(dir)?))
    }

    pub(super) fn of(store: &Store) -> Self {
        Self(store.bucket(BUCKET))
    }

    /// Gives a user a password, in place of any that there was. Takes as long as a login.
    pub async fn set(&self, name: &str, password: &str) -> Result<(), UserError> {
        check_name(name)?;
        let characters = password.chars().count();
        if characters < MIN_PASSWORD || password.len() > MAX_PASSWORD {
            return Err(UserError::Password(characters));
        }
        if self.0.get(name).await?.is_none() && self.0.entries().await?.len() >= MAX_USERS {
            return Err(UserError::Full);
        }
        let mut made = Password::nobodys();
        made.since = UnixTime::now();
        rand::fill(&mut made.salt).map_err(|_| UserError::Hash)?;
        made.hash = *made.derive(password.as_bytes()).ok_or(UserError::Hash)?;
        self.0.put(name, &made).await?;
        Ok(())
    }

    /// Removes a user.
    pub async fn remove(&self, name: &str) -> Result<(), UserError> {
        check_name(name)?;
        match self.0.delete(name).await? {
            true => Ok(()),
            false => Err(UserError::Unknown(name.into())),
        }
    }

    /// All users, by name.
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let all = self.0.entries().await?.into_iter();
        Ok(all
            .map(|(name, password, _)| Listed {
                name,
                since: password.since,
            })
            .collect())
    }

    /// A user's password; that of nobody for a name that there is not.
    pub(super) async fn password(&self, name: &str) -> Result<Option<Password>, StoreError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        Ok(self.0.get(name).await?.map(|(password, _)| password))
    }
}

impl Password {
    /// One that nothing equals, but costs as much to look at.
    pub(super) fn nobodys() -> Self {
        Self {
            salt: [0; 16],
            hash: [0; HASH],
            memory: MEMORY,
            passes: PASSES,
            since: UnixTime(0),
        }
    }

    /// Whether this is it. Takes the time and memory of a hash.
    pub(super) fn is(&self, password: &[u8]) -> bool {
        self.derive(password)
            .is_some_and(|hash| verify_slices_are_equal(&*hash, &self.hash).is_ok())
    }

    /// What changes with the password.
    pub(super) fn stamp(&self) -> &[u8; HASH] {
        &self.hash
    }

    fn derive(&self, password: &[u8]) -> Option<Zeroizing<[u8; HASH]>> {
        let params = Params::new(self.memory, self.passes, 1, Some(HASH)).ok()?;
        let mut hash = Zeroizing::new([0; HASH]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &self.salt, &mut *hash)
            .ok()?;
        Some(hash)
    }
}

/// Names are such that they can stand in a header and in Basic credentials.
fn check_name(name: &str) -> Result<(), UserError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._+-@".contains(&b);
    match name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(good) {
        true => Err(UserError::Name(name.chars().take(MAX_NAME).collect())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_the_users_own_until_it_is_changed_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(dir.path()).unwrap();
        users.set("ada", "correct horse").await.unwrap();
        users.set("bob@acme.example", "correct horse").await.unwrap();
        let ada = users.password("ada").await.unwrap().unwrap();
        let bob = users.password("bob@acme.example").await.unwrap().unwrap();
        assert_ne!(ada.hash, bob.hash, "each has a salt of its own");
        assert!(ada.is(b"correct horse") && !ada.is(b"correct horsf") && !ada.is(b""));
        assert!(!Password::nobodys().is(b""));
        users.set("ada", "another horse").await.unwrap();
        assert!(!users.password("ada").await.unwrap().unwrap().is(b"correct horse"));
        users.remove("ada").await.unwrap();
        assert!(users.password("ada").await.unwrap().is_none());
        assert!(matches!(users.remove("ada").await, Err(UserError::Unknown(_))));
        let names: Vec<_> = users.list().await.unwrap().into_iter().map(|u| u.name).collect();
        assert_eq!(names, ["bob@acme.example"]);
    }

    #[tokio::test]
    async fn what_could_be_mistaken_is_no_name_and_what_is_short_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(dir.path()).unwrap();
        for name in ["", "a:b", "a b", "a\n", "ä", &"a".repeat(65)] {
            assert!(
                matches!(users.set(name, "correct horse").await, Err(UserError::Name(_))),
                "{name:?}"
            );
            assert!(users.password(name).await.unwrap().is_none());
        }
        for password in ["", "short", &"a".repeat(513)] {
            assert!(matches!(
                users.set("ada", password).await,
                Err(UserError::Password(_))
            ));
        }
    }
}
