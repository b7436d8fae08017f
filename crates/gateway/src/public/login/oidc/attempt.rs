//! One login, from the page first asked for to the provider's answer: what is kept for it in the browser, what the provider is
//! asked, and how its answer is read. Also which logins are over. Without I/O.

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::UnixTime;
use minicbor::{Decode, Encode};

/// How long somebody may take to log in.
pub(super) const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Longest path to come back to; from a longer one the visitor comes back to "/".
const MAX_PATH: usize = 1024;
/// Longest query of an answer that is looked at.
const MAX_QUERY: usize = 8 * 1024;
/// Characters of a state that name its cookie.
const MARK: usize = 8;
/// Ended ones that are remembered.
const MAX_ENDED: usize = 16 * 1024;

/// A login under way, as it is sealed in its cookie.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Attempt {
    /// What the provider gives back with its answer.
    #[n(0)]
    pub(super) state: String,
    /// What must be in the token.
    #[n(1)]
    pub(super) nonce: String,
    /// By which the code is redeemed (RFC 7636).
    #[n(2)]
    pub(super) verifier: String,
    /// The page first asked for.
    #[n(3)]
    pub(super) path: String,
    #[n(4)]
    pub(super) began: UnixTime,
}

/// The system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub(super) struct NoRandomness;

impl Attempt {
    pub(super) fn new(path: &str, now: UnixTime) -> Result<Self, NoRandomness> {
        Ok(Self {
            state: random::<16>()?,
            nonce: random::<16>()?,
            verifier: random::<32>()?,
            path: match path.starts_with('/') && path.len() <= MAX_PATH {
                true => path.to_owned(),
                false => "/".into(),
            },
            began: now,
        })
    }

    /// By which its cookie is known.
    pub(super) fn mark(&self) -> &str {
        mark(&self.state).unwrap_or_default()
    }

    /// Until when it may be answered.
    pub(super) fn until(&self) -> UnixTime {
        self.began.plus(PATIENCE)
    }

    /// Where the provider asks who it is: its page with the question.
    pub(super) fn question(&self, page: &str, client: &str, scopes: &str, redirect: &str) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()));
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", client)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", scopes)
            .append_pair("state", &self.state)
            .append_pair("nonce", &self.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        let between = if page.contains('?') { '&' } else { '?' };
        format!("{page}{between}{query}")
    }
}

/// Random bytes as text.
pub(super) fn random<const N: usize>() -> Result<String, NoRandomness> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn mark(state: &str) -> Option<&str> {
    state.get(..MARK)
}

/// What the provider answered, by way of the browser.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) state: String,
    /// Who says it answers (RFC 9207).
    pub(super) issuer: Option<String>,
    pub(super) outcome: Result<String, String>,
}

impl Answer {
    /// Reads a callback's query. None: this is no answer that can be read in one way only.
    pub(super) fn read(query: &str) -> Option<Self> {
        if query.len() > MAX_QUERY {
            return None;
        }
        let (mut state, mut issuer, mut code, mut error) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut state,
                "iss" => &mut issuer,
                "code" => &mut code,
                "error" => &mut error,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        let outcome = match (code, error) {
            (Some(code), None) if !code.is_empty() => Ok(code),
            (None, Some(error)) => Err(error),
            _ => return None,
        };
        Some(Self {
            state: state?,
            issuer,
            outcome,
        })
    }

    /// By which the cookie of its attempt is known.
    pub(super) fn mark(&self) -> Option<&str> {
        mark(&self.state)
    }

    /// Whether it answers this attempt, and comes from this issuer; `told` is whether the provider always says which it is.
    pub(super) fn answers(
        &self,
        attempt: &Attempt,
        issuer: &str,
        told: bool,
        now: UnixTime,
    ) -> Result<(), &'static str> {
        if aws_lc_rs::constant_time::verify_slices_are_equal(self.state.as_bytes(), attempt.state.as_bytes())
            .is_err()
        {
            return Err("its state is not that of a login that began in this browser");
        }
        if attempt.until() <= now {
            return Err("it took too long");
        }
        match &self.issuer {
            Some(from) if from != issuer => Err("it comes from another provider"),
            None if told => Err("it does not say which provider it comes from, as the provider promises"),
            _ => Ok(()),
        }
    }
}

/// Logins that are over before their time: answered ones, so that none is answered twice, and those of who logged out. The ones
/// that would end last are kept longest.
#[derive(Debug, Default)]
pub(super) struct Ended(BTreeSet<(UnixTime, String)>);

impl Ended {
    /// Ends one that would have held until then. False: it had been ended already.
    pub(super) fn end(&mut self, id: &str, until: UnixTime, now: UnixTime) -> bool {
        self.0 = self.0.split_off(&(now, String::new()));
        let fresh = self.0.insert((until, id.to_owned()));
        if self.0.len() > MAX_ENDED {
            self.0.pop_first();
        }
        fresh
    }

    pub(super) fn has(&self, id: &str, until: UnixTime) -> bool {
        self.0.contains(&(until, id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn answer(query: &str) -> Option<Answer> {
        Answer::read(query)
    }

    #[test]
    fn the_question_has_all_that_binds_the_answer() {
        let a = Attempt::new("/a?b", NOW).unwrap();
        let b = Attempt::new("/a?b", NOW).unwrap();
        assert_ne!(
            (&a.state, &a.nonce, &a.verifier),
            (&b.state, &b.nonce, &b.verifier)
        );
        let url = a.question(
            "https://op.example/auth?tenant=1",
            "me & co",
            "openid",
            "https://w/.hawser/callback",
        );
        assert!(
            url.starts_with("https://op.example/auth?tenant=1&response_type=code&client_id=me+%26+co&"),
            "{url}"
        );
        assert!(
            url.contains(&format!("&state={}&nonce={}&", a.state, a.nonce)),
            "{url}"
        );
        assert!(!url.contains(&a.verifier));
        // RFC 7636, appendix B.
        let known = Attempt {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
            ..a
        };
        let url = known.question("https://op.example/", "c", "openid", "r");
        assert!(url.contains(
            "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
        ));
    }

    #[test]
    fn visitors_come_back_to_paths_alone() {
        for (path, back) in [
            ("/a?b=c", "/a?b=c"),
            ("https://evil.example/", "/"),
            ("", "/"),
            (&"/a".repeat(600), "/"),
        ] {
            assert_eq!(Attempt::new(path, NOW).unwrap().path, back);
        }
    }

    #[test]
    fn an_answer_is_of_one_attempt_one_provider_and_in_time() {
        let attempt = Attempt::new("/", NOW).unwrap();
        let query = |more: &str| answer(&format!("code=x&state={}{more}", attempt.state)).unwrap();
        let judge = |a: &Answer, told, now| a.answers(&attempt, "https://op.example", told, now);
        assert_eq!(judge(&query(""), false, NOW), Ok(()));
        assert_eq!(judge(&query("&iss=https%3A%2F%2Fop.example"), true, NOW), Ok(()));
        assert!(judge(&query(""), true, NOW).is_err());
        assert!(judge(&query("&iss=https%3A%2F%2Fop.example%2F"), false, NOW).is_err());
        assert!(judge(&query(""), false, NOW.plus(PATIENCE)).is_err());
        assert!(judge(&answer("code=x&state=other").unwrap(), false, NOW).is_err());
        for odd in [
            "",
            "code=x",
            "state=y",
            "code=x&state=y&state=y",
            "code=&state=y",
            "code=x&error=z&state=y",
        ] {
            assert_eq!(answer(odd), None, "{odd}");
        }
        assert_eq!(
            answer("error=access_denied&state=y").unwrap().outcome,
            Err("access_denied".into())
        );
    }

    #[test]
    fn what_has_ended_is_remembered_while_it_would_hold_and_no_longer() {
        let mut ended = Ended::default();
        assert!(ended.end("a", NOW.plus(PATIENCE), NOW));
        assert!(!ended.end("a", NOW.plus(PATIENCE), NOW));
        assert!(ended.has("a", NOW.plus(PATIENCE)) && !ended.has("b", NOW.plus(PATIENCE)));
        for n in 0..MAX_ENDED + 10 {
            ended.end(&n.to_string(), NOW.plus(PATIENCE * 2), NOW);
        }
        assert_eq!(ended.0.len(), MAX_ENDED);
        assert!(ended.end("b", NOW.plus(PATIENCE * 4), NOW.plus(PATIENCE * 3)));
        assert_eq!(ended.0.len(), 1);
    }

    proptest! {
        #[test]
        fn no_query_breaks_the_reader_or_is_taken_for_an_answer(query in ".{0,200}") {
            let attempt = Attempt::new("/", NOW).unwrap();
            if let Some(read) = answer(&query) {
                let _ = read.mark();
                prop_assert!(read.answers(&attempt, "https://op.example", false, NOW).is_err());
            }
        }
    }
}
