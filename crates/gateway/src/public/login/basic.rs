//! Login by a user's name and password (RFC 7617). A right one is remembered for a while by a code that only this process can
//! make, so that not every picture of a page costs a hash; how many are hashed at one time is bounded, as each takes 19 MiB.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac, rand};
use base64::{Engine, engine::general_purpose::STANDARD};
use hawser_store::Store;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use super::{
    Tried,
    brake::Brake,
    users::{MAX_PASSWORD, Password, Users},
};
use crate::{export::User, headers::value};

/// Passwords hashed at one time.
const HASHING: usize = 2;
/// Logins that wait for that; further ones are told to come later.
const WAITING: usize = 32;
/// How long a right password is remembered since it was last used.
const REMEMBER: Duration = Duration::from_secs(300);
/// Users who are remembered.
const MAX_REMEMBERED: usize = 1024;
/// Longest `Authorization` that is looked at, in bytes.
const MAX_CREDENTIALS: usize = 1024;

/// Login by password at one name.
pub(in crate::public) struct Basic {
    challenge: HeaderValue,
    /// None is all.
    users: Option<BTreeSet<String>>,
    passwords: Passwords,
}

/// The users of the gateway, and what is remembered of their logins. Cheap to clone.
#[derive(Clone)]
pub(in crate::public) struct Passwords(Arc<Inner>);

struct Inner {
    users: Users,
    /// Of this process alone.
    key: hmac::Key,
    memory: Mutex<Memory>,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

struct Memory {
    brake: Brake,
    right: HashMap<String, Remembered>,
    /// Another number when the users may have changed.
    changes: watch::Receiver<u64>,
}

/// A right login: the code of name and password, and when it was used.
struct Remembered {
    code: hmac::Tag,
    used: Instant,
    /// Of the kept password, and as of which change of the store.
    stamp: [u8; 32],
    as_of: u64,
}

impl Basic {
    pub(super) fn new(realm: &str, users: Option<BTreeSet<String>>, passwords: Passwords) -> Self {
        Self {
            challenge: value(format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")),
            users,
            passwords,
        }
    }

    /// What is asked for.
    pub(super) fn challenge(&self) -> HeaderValue {
        self.challenge.clone()
    }

    /// Looks at the credentials of a request. Cancel safe: a try that was begun counts as a wrong one.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Tried {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let Some(credentials) = all.next() else {
            return Tried::Wrong { given: false };
        };
        match credentials_of(credentials).filter(|_| all.next().is_none()) {
            Some((name, password)) => self.passwords.admit(name, password, self.users.as_ref()).await,
            None => Tried::Wrong { given: true },
        }
    }
}

impl Passwords {
    /// Those in a gateway's store.
    pub(in crate::public) fn new(store: &Store) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        // Without randomness TLS would have failed long before; a known key would let nobody in who has no password.
        let _ = rand::fill(&mut *key);
        Self(Arc::new(Inner {
            users: Users::of(store),
            key: hmac::Key::new(hmac::HMAC_SHA256, &*key),
            memory: Mutex::new(Memory {
                brake: Brake::new(),
                right: HashMap::new(),
                changes: store.watch(),
            }),
            hashing: Arc::new(Semaphore::new(HASHING)),
            waiting: Arc::new(Semaphore::new(HASHING + WAITING)),
        }))
    }

    async fn admit(
        &self,
        name: String,
        password: Zeroizing<Vec<u8>>,
        among: Option<&BTreeSet<String>>,
    ) -> Tried {
        let inner = &self.0;
        let code = self.code(&name, &password);
        let number = self.number(&name);
        // Who may not come in here is refused as if there were no such user, after the same work.
        let listed = among.is_none_or(|all| all.contains(&name));
        let remembered = {
            let mut memory = inner.memory();
            memory.remembers(&name, &code).filter(|_| listed)
        };
        let as_of = match remembered {
            Some((_, true, _)) => return right(name),
            Some((stamp, false, as_of)) => {
                // Somebody may have got another password, or be gone.
                let kept = inner.users.password(&name).await.ok().flatten();
                if kept.is_some_and(|kept| *kept.stamp() == stamp) {
                    inner.memory().confirm(&name, as_of);
                    return right(name);
                }
                inner.memory().right.remove(&name);
                as_of
            }
            None => inner.as_of(),
        };
        let begun = inner.memory().brake.begin(number, Instant::now());
        if let Err(wait) = begun {
            return Tried::Later {
                seconds: wait.as_secs() + 1,
            };
        }
        let Ok(waiting) = inner.waiting.clone().try_acquire_owned() else {
            inner.memory().brake.undone(number);
            return Tried::Later { seconds: 1 };
        };
        let Ok(hashing) = inner.hashing.clone().acquire_owned().await else {
            return Tried::Later { seconds: 1 };
        };
        let known = match inner.users.password(&name).await {
            Ok(known) => known.filter(|_| listed),
            Err(error) => {
                tracing::error!(%error, "users cannot be looked up: nobody logs in by password");
                None
            }
        };
        let stamp = known.as_ref().map(|k| *k.stamp());
        let against = known.unwrap_or_else(Password::nobodys);
        let tried = tokio::task::spawn_blocking(move || {
            // Kept by the hash itself: it goes on when the visitor has gone.
            let _places = (waiting, hashing);
            against.is(&password)
        })
        .await;
        let Some(stamp) = stamp.filter(|_| tried.unwrap_or(false)) else {
            return Tried::Wrong { given: true };
        };
        let mut memory = inner.memory();
        memory.brake.right(number);
        let used = Instant::now();
        let one = Remembered {
            code,
            used,
            stamp,
            as_of,
        };
        memory.remember(name.clone(), one);
        right(name)
    }

    fn code(&self, name: &str, password: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0.key);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(password);
        context.sign()
    }

    /// By which the name's wrong passwords are counted.
    fn number(&self, name: &str) -> u64 {
        let tag = hmac::sign(&self.0.key, name.as_bytes());
        tag.as_ref()
            .first_chunk::<8>()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which change of the store is the last one.
    fn as_of(&self) -> u64 {
        let memory = self.memory();
        *memory.changes.borrow()
    }
}

impl Memory {
    /// The stamp of a right login that is remembered, whether nothing can have changed since, and the number of now.
    fn remembers(&mut self, name: &str, code: &hmac::Tag) -> Option<([u8; 32], bool, u64)> {
        let now = Instant::now();
        let as_of = *self.changes.borrow();
        let known = self.right.get_mut(name)?;
        if now.saturating_duration_since(known.used) >= REMEMBER {
            self.right.remove(name);
            return None;
        }
        verify_slices_are_equal(known.code.as_ref(), code.as_ref()).ok()?;
        known.used = now;
        Some((known.stamp, known.as_of == as_of, as_of))
    }

    /// The password was still the same at that number.
    fn confirm(&mut self, name: &str, as_of: u64) {
        if let Some(known) = self.right.get_mut(name) {
            known.as_of = as_of;
        }
    }

    fn remember(&mut self, name: String, one: Remembered) {
        if self.right.len() >= MAX_REMEMBERED {
            self.right
                .retain(|_, r| one.used.saturating_duration_since(r.used) < REMEMBER);
        }
        // Where there are more users at once than that, the rest are hashed each time.
        if self.right.len() < MAX_REMEMBERED || self.right.contains_key(&name) {
            self.right.insert(name, one);
        }
    }
}

fn right(name: String) -> Tried {
    Tried::Right(User { name, email: None })
}

/// Name and password of a Basic `Authorization`.
fn credentials_of(header: &HeaderValue) -> Option<(String, Zeroizing<Vec<u8>>)> {
    let text = header.to_str().ok().filter(|t| t.len() <= MAX_CREDENTIALS)?;
    let (scheme, credentials) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = Zeroizing::new(STANDARD.decode(credentials.trim()).ok()?);
    let colon = plain.iter().position(|b| *b == b':')?;
    let name = std::str::from_utf8(&plain[..colon]).ok()?.to_owned();
    let password = Zeroizing::new(plain[colon + 1..].to_vec());
    (password.len() <= MAX_PASSWORD).then_some((name, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(credentials: &str) -> HeaderMap {
        let value = value(format!("Basic {}", STANDARD.encode(credentials)));
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    async fn status(basic: &Basic, credentials: &str) -> &'static str {
        match basic.admit(&headers(credentials)).await {
            Tried::Right(_) => "right",
            Tried::Wrong { .. } => "wrong",
            Tried::Later { .. } => "later",
        }
    }

    async fn two_users() -> (tempfile::TempDir, Users, Passwords) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let users = Users::of(&store);
        users.set("ada", "correct horse").await.unwrap();
        users.set("bob", "battery staple").await.unwrap();
        (dir, users, Passwords::new(&store))
    }

    #[tokio::test]
    async fn who_has_the_password_gets_in_and_is_remembered_until_it_changes() {
        let (_dir, users, passwords) = two_users().await;
        let all = Basic::new("r", None, passwords.clone());
        assert_eq!(status(&all, "ada:correct horse").await, "right");
        assert!(!passwords.0.memory().right.is_empty());
        assert_eq!(status(&all, "ada:correct horse").await, "right");
        assert_eq!(status(&all, "ada:battery staple").await, "wrong");
        assert_eq!(status(&all, "nobody:correct horse").await, "wrong");
        assert_eq!(status(&all, "ada").await, "wrong");
        users.set("ada", "another horse").await.unwrap();
        assert_eq!(status(&all, "ada:correct horse").await, "wrong");
        assert_eq!(status(&all, "ada:another horse").await, "right");
    }

    #[tokio::test]
    async fn only_listed_users_get_in_where_there_is_a_list() {
        let (_dir, _users, passwords) = two_users().await;
        let all = Basic::new("r", None, passwords.clone());
        let some = Basic::new("r", Some(["bob".to_owned()].into()), passwords);
        assert_eq!(status(&all, "ada:correct horse").await, "right");
        assert_eq!(status(&some, "ada:correct horse").await, "wrong");
        assert_eq!(status(&some, "bob:battery staple").await, "right");
    }

    #[tokio::test]
    async fn guesses_are_put_off_for_known_and_unknown_names_alike_and_who_is_in_stays() {
        let (_dir, _users, passwords) = two_users().await;
        let all = Basic::new("r", None, passwords);
        assert_eq!(status(&all, "ada:correct horse").await, "right");
        for name in ["ada", "nobody"] {
            let mut seen = Vec::new();
            for guess in 0..6 {
                seen.push(status(&all, &format!("{name}:guess {guess}")).await);
            }
            assert_eq!(
                seen,
                ["wrong", "wrong", "wrong", "wrong", "wrong", "later"],
                "{name}"
            );
        }
        assert_eq!(status(&all, "ada:correct horse").await, "right");
    }

    #[tokio::test]
    async fn two_authorizations_are_none() {
        let (_dir, _users, passwords) = two_users().await;
        let all = Basic::new("r", None, passwords);
        let mut both = headers("ada:correct horse");
        both.append(AUTHORIZATION, value("Bearer x"));
        assert!(matches!(all.admit(&both).await, Tried::Wrong { given: true }));
        assert!(matches!(
            all.admit(&HeaderMap::new()).await,
            Tried::Wrong { given: false }
        ));
    }
}
