//! Login at an OpenID Connect provider: authorization code with PKCE. A visitor who comes without a session is sent to the
//! provider, comes back to a path of the gateway's own with a code, and has a sealed cookie from then on; the gateway keeps no
//! table of sessions. What is decided is decided without I/O in the modules below; this one moves it.

mod attempt;
mod cookies;
mod page;
mod provider;
mod rules;
mod seal;
mod token;

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use hawser_proto::{Fault, Place, UnixTime};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, SET_COOKIE, WWW_AUTHENTICATE},
    uri::{Authority, PathAndQuery},
};
use minicbor::{Decode, Encode};

pub(in crate::public) use self::seal::Keys;
use self::{
    attempt::{Answer, Attempt, Ended},
    page::Next,
    provider::{Provider, ProviderError},
    rules::{Claims, Outside},
    seal::Ring,
    token::{Expected, TokenError},
};
pub use self::{
    provider::{Probe, ProbeError, ProviderError as OidcError, probe},
    token::SKEW,
};
use super::{Admitted, Outcome, answered, nothing};
use crate::{
    calls::{CallMetrics, LoginOutcome},
    config::OidcPlan,
    export::User,
    headers::{list, value},
    public::call::OWN,
    websocket::Upgrade,
};

/// Where providers send visitors back to, below [`OWN`].
const CALLBACK: &str = "callback";
/// Where visitors log out.
const LOGOUT: &str = "logout";
const LOGOUT_PATH: &str = "/.hawser/logout";
/// Logins under way in one browser; of more the oldest ones are given up.
const MAX_ATTEMPTS: usize = 4;
/// Offered where a login went wrong.
const AGAIN: Next<'static> = Next::Links(&[("/", "Log in again")]);

/// Login at a provider, for one name.
pub(in crate::public) struct Oidc {
    plan: OidcPlan,
    /// `https://NAME[:PORT]`.
    base: String,
    /// What sessions and attempts are sealed for: this name, and the rules as they are.
    context: [Vec<u8>; 2],
    provider: Provider,
    keys: Keys,
    ended: Mutex<Ended>,
}

/// A login that holds, as it is sealed in its cookie.
#[derive(Debug, Encode, Decode)]
struct Session {
    #[n(0)]
    id: String,
    #[n(1)]
    name: String,
    #[n(2)]
    email: Option<String>,
    #[n(3)]
    until: UnixTime,
}

/// Why an answer of a provider lets nobody in.
enum Failure {
    /// The visitor may begin again.
    Refused(Fault),
    /// The provider gives nothing.
    Unavailable(String),
    /// Somebody for whom there is no rule.
    NotAllowed(Fault),
}

impl Oidc {
    pub(super) fn new(plan: &OidcPlan, authority: &Authority, keys: Keys) -> Result<Self, String> {
        if let Some(path) = &plan.secret {
            std::fs::metadata(path)
                .map_err(|e| format!("the client's secret {} cannot be read: {e}", path.display()))?;
        }
        // A session does not outlive the rules that it was judged by: another login is silent where the provider still knows the
        // visitor.
        let OidcPlan {
            issuer,
            client_id,
            scopes,
            user,
            allowed,
            session,
            ..
        } = plan;
        let bound = format!(
            "{authority} {:?}",
            (issuer, client_id, scopes, user, allowed, session)
        );
        let of = |purpose: &str| {
            digest(&SHA256, format!("{purpose} {bound}").as_bytes())
                .as_ref()
                .to_vec()
        };
        Ok(Self {
            plan: plan.clone(),
            base: format!("https://{authority}"),
            context: [of("session"), of("attempt")],
            provider: Provider::new(plan).map_err(|e| e.to_string())?,
            keys,
            ended: Mutex::default(),
        })
    }

    /// Removes the gateway's cookies from what the service sees.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        cookies::strip(headers);
    }

    /// And from what it sets.
    pub(super) fn strip_set(&self, headers: &mut HeaderMap) {
        cookies::strip_set(headers);
    }

    /// Looks at who asks. Cancel safe: a code that was being redeemed is lost, and the visitor begins again.
    pub(super) async fn login<B>(&self, request: &Request<B>, metrics: &CallMetrics) -> Outcome {
        let ring = match self.keys.ring().await {
            Ok(ring) => ring,
            Err(error) => {
                tracing::error!(%error, "no key for logins: nobody gets in by a provider");
                return Outcome::Refuse(Fault::new(
                    Place::ServerGateway,
                    503,
                    "login-unavailable",
                    "the gateway has no key to seal logins with",
                    "its operator sees why in its log",
                ));
            }
        };
        let now = UnixTime::now();
        if let Some(own) = request.uri().path().strip_prefix(OWN) {
            return match (own, request.method()) {
                (CALLBACK, &Method::GET) => self.callback(request, &ring, now, metrics).await,
                (LOGOUT, &Method::GET | &Method::POST) => self.logout(request, &ring, now).await,
                _ => Outcome::Refuse(nothing()),
            };
        }
        match self.session(request.headers(), &ring, now) {
            Some(session) => Outcome::In(Admitted {
                user: Some(User {
                    name: session.name,
                    email: session.email,
                }),
            }),
            None if navigates(request) => self.begin(request, &ring, now, metrics).await,
            None => answered(
                request,
                &no_session(),
                WWW_AUTHENTICATE,
                value(format!("OpenID realm=\"{}\"", self.base)),
            ),
        }
    }

    /// The session that a request shows, if it holds.
    fn session(&self, headers: &HeaderMap, ring: &Ring, now: UnixTime) -> Option<Session> {
        let all = cookies::named(headers, cookies::SESSION);
        let [sealed] = all.as_slice() else {
            return None;
        };
        let session: Session = ring.open(&self.context[0], sealed)?;
        // Also one that was sealed while the clock went wrong has an end.
        let longest = now.plus(self.plan.session);
        let holds = now < session.until && session.until <= longest.plus(SKEW);
        (holds && !self.ended().has(&session.id, session.until)).then_some(session)
    }

    /// Sends a visitor to the provider.
    async fn begin<B>(
        &self,
        request: &Request<B>,
        ring: &Ring,
        now: UnixTime,
        metrics: &CallMetrics,
    ) -> Outcome {
        let metadata = match self.provider.metadata().await {
            Ok(metadata) => metadata,
            Err(error) => return self.unavailable(&error.to_string(), metrics),
        };
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let begun = Attempt::new(path, now).ok().and_then(|attempt| {
            let sealed = ring.seal(&self.context[1], &attempt).ok()?;
            let name = format!("{}{}", cookies::ATTEMPT, attempt.mark());
            Some((cookies::set(&name, &sealed, now, attempt.until())?, attempt))
        });
        let Some((cookie, attempt)) = begun else {
            return self.unavailable("a login cannot be sealed", metrics);
        };
        let OidcPlan {
            client_id, scopes, ..
        } = &self.plan;
        let to = attempt.question(
            &metadata.authorization_endpoint,
            client_id,
            scopes,
            &self.redirect(),
        );
        let Some(mut response) = page::redirect(&to) else {
            return self.unavailable("its authorization endpoint is no address", metrics);
        };
        let headers = response.headers_mut();
        for old in self.surplus(request.headers(), ring) {
            headers.append(SET_COOKIE, old);
        }
        headers.append(SET_COOKIE, cookie);
        Outcome::Answer(response)
    }

    /// Ends the oldest logins under way, so that there is room for one more.
    fn surplus(&self, headers: &HeaderMap, ring: &Ring) -> Vec<HeaderValue> {
        let mut all: Vec<_> = cookies::attempts(headers)
            .into_iter()
            .map(|mark| (self.attempt(headers, ring, mark).map(|a| a.began), mark))
            .collect();
        all.sort();
        all.truncate((all.len() + 1).saturating_sub(MAX_ATTEMPTS));
        all.into_iter().filter_map(|(_, mark)| over(mark)).collect()
    }

    fn attempt(&self, headers: &HeaderMap, ring: &Ring, mark: &str) -> Option<Attempt> {
        let all = cookies::named(headers, &format!("{}{mark}", cookies::ATTEMPT));
        let [sealed] = all.as_slice() else {
            return None;
        };
        ring.open(&self.context[1], sealed)
    }

    /// Somebody comes back from the provider.
    async fn callback<B>(
        &self,
        request: &Request<B>,
        ring: &Ring,
        now: UnixTime,
        metrics: &CallMetrics,
    ) -> Outcome {
        let answer = Answer::read(request.uri().query().unwrap_or_default());
        let mark = answer.as_ref().and_then(Answer::mark).map(str::to_owned);
        let attempt = mark
            .as_deref()
            .and_then(|mark| self.attempt(request.headers(), ring, mark));
        let came = match (answer, attempt) {
            (Some(answer), Some(attempt)) => self
                .enter(&answer, &attempt, now, ring)
                .await
                .map(|c| (c, attempt.path)),
            _ => Err(Failure::Refused(refused(
                "this is no answer to a login that began in this browser, or it has been used",
            ))),
        };
        let mut outcome = match came {
            Ok((cookie, path)) => {
                metrics.login(LoginOutcome::Accepted);
                match page::redirect(&format!("{}{path}", self.base)) {
                    Some(mut response) => {
                        response.headers_mut().append(SET_COOKIE, cookie);
                        response
                    }
                    None => page::fault(&refused("the page asked for first has no address"), &AGAIN),
                }
            }
            Err(Failure::Unavailable(why)) => {
                tracing::warn!(name = %self.base, issuer = %self.plan.issuer, error = %why, "a login failed at its provider");
                metrics.login(LoginOutcome::Unavailable);
                page::fault(&unavailable(), &AGAIN)
            }
            Err(Failure::Refused(fault)) => {
                tracing::info!(name = %self.base, %fault, "refused a login");
                metrics.login(LoginOutcome::Refused);
                page::fault(&fault, &AGAIN)
            }
            Err(Failure::NotAllowed(fault)) => {
                metrics.login(LoginOutcome::Refused);
                page::fault(
                    &fault,
                    &Next::Links(&[(LOGOUT_PATH, "Log out, to come as somebody else")]),
                )
            }
        };
        // It is answered once, whatever came of it.
        if let Some(over) = mark.as_deref().and_then(over) {
            outcome.headers_mut().append(SET_COOKIE, over);
        }
        Outcome::Answer(outcome)
    }

    /// The session's cookie, for whom an answer lets in.
    async fn enter(
        &self,
        answer: &Answer,
        attempt: &Attempt,
        now: UnixTime,
        ring: &Ring,
    ) -> Result<HeaderValue, Failure> {
        let issuer = &self.plan.issuer;
        let metadata = self.provider.metadata().await.map_err(given)?;
        let told = metadata.authorization_response_iss_parameter_supported;
        answer
            .answers(attempt, issuer, told, now)
            .map_err(|why| Failure::Refused(refused(why)))?;
        if !self.ended().end(&attempt.state, attempt.until(), now) {
            return Err(Failure::Refused(refused("it has been used already")));
        }
        let code = answer.outcome.as_ref().map_err(|error| {
            Failure::Refused(refused(&format!(
                "the provider says {:?}",
                provider::shown(error)
            )))
        })?;
        let tokens = self
            .provider
            .redeem(code, attempt, &self.redirect())
            .await
            .map_err(given)?;
        let expected = Expected {
            issuer,
            client: &self.plan.client_id,
            attempt,
        };
        let mut claims = self.verify(&tokens.id_token, &expected).await?;
        if rules::lacks(&self.plan, &claims) {
            self.provider
                .complete(&mut claims, &tokens)
                .await
                .map_err(given)?;
        }
        let user = rules::judge(&self.plan, &claims).map_err(|outside| self.outside(outside))?;
        // What is told while the provider is asked may take a while: the session begins when all is known.
        let now = UnixTime::now();
        let session = Session {
            id: attempt::random::<16>().map_err(|e| Failure::Unavailable(e.to_string()))?,
            name: user.name,
            email: user.email,
            until: now.plus(self.plan.session),
        };
        tracing::info!(name = %self.base, user = %session.name, "logged in");
        let sealed = ring.seal(&self.context[0], &session).ok();
        sealed
            .and_then(|sealed| cookies::set(cookies::SESSION, &sealed, now, session.until))
            .ok_or_else(|| Failure::Unavailable("the session cannot be sealed".into()))
    }

    /// The claims of a token, with the provider's keys; asked for anew, once, if it is by a key that is not known.
    async fn verify(&self, token: &str, expected: &Expected<'_>) -> Result<Claims, Failure> {
        let mut tried =
            self.provider
                .keys(false)
                .await
                .map_err(given)?
                .verify(token, expected, UnixTime::now());
        if let Err(TokenError::Key) = tried {
            tried = self
                .provider
                .keys(true)
                .await
                .map_err(given)?
                .verify(token, expected, UnixTime::now());
        }
        tried.map_err(|error| {
            tracing::warn!(name = %self.base, issuer = %self.plan.issuer, %error, "refused an ID token");
            Failure::Refused(refused("the provider's word on who logged in is not valid"))
        })
    }

    fn outside(&self, outside: Outside) -> Failure {
        Failure::NotAllowed(match outside {
            Outside::Nameless => {
                tracing::warn!(name = %self.base, claim = %self.plan.user, "a user of the provider has no such claim that could be a name");
                Fault::new(
                    Place::ServerGateway,
                    403,
                    "login-nameless",
                    "the provider does not say by which name you are to be known here",
                    "ask the operator of this name, who sees in the gateway's log what is missing",
                )
            }
            Outside::NotAllowed(user) => {
                tracing::info!(name = %self.base, user = %user.name, "refused somebody who logged in: no rule is for them");
                Fault::new(
                    Place::ServerGateway,
                    403,
                    "login-not-allowed",
                    format!("you are logged in as {}, who may not come in here", user.name),
                    "ask the operator of this name to let you in, or log in as somebody else",
                )
            }
        })
    }

    /// Ends the session.
    async fn logout<B>(&self, request: &Request<B>, ring: &Ring, now: UnixTime) -> Outcome {
        let from = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
        let own = matches!(from, None | Some(b"none" | b"same-origin"));
        if !own {
            // Another site may lead here, and not log anybody out.
            return Outcome::Answer(match *request.method() {
                Method::GET => page::page(
                    StatusCode::OK,
                    "Log out?",
                    "Another page led here.",
                    &Next::Button(LOGOUT_PATH, "Log out"),
                ),
                _ => page::fault(&refused("another page asked to log out"), &AGAIN),
            });
        }
        if let Some(session) = self.session(request.headers(), ring, now) {
            self.ended().end(&session.id, session.until, now);
        }
        let elsewhere = match self.provider.metadata().await {
            Ok(metadata) => metadata.end_session_endpoint.clone(),
            Err(_) => None,
        };
        let elsewhere = elsewhere.map(|at| {
            let client = form_urlencoded::byte_serialize(self.plan.client_id.as_bytes()).collect::<String>();
            let between = if at.contains('?') { '&' } else { '?' };
            format!("{at}{between}client_id={client}")
        });
        let mut links = vec![("/", "Log in again")];
        links.extend(
            elsewhere
                .iter()
                .map(|at| (at.as_str(), "Log out of the provider, too")),
        );
        let text = "You are logged out here.";
        let mut response = page::page(StatusCode::OK, "Logged out", text, &Next::Links(&links));
        if let Some(end) = cookies::end(cookies::SESSION) {
            response.headers_mut().append(SET_COOKIE, end);
        }
        Outcome::Answer(response)
    }

    fn unavailable(&self, why: &str, metrics: &CallMetrics) -> Outcome {
        tracing::warn!(name = %self.base, issuer = %self.plan.issuer, error = %why, "nobody can log in: the provider gives nothing");
        metrics.login(LoginOutcome::Unavailable);
        Outcome::Answer(page::fault(&unavailable(), &Next::Links(&[])))
    }

    fn redirect(&self) -> String {
        format!("{}{OWN}{CALLBACK}", self.base)
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Set-Cookie` that ends a login under way.
fn over(mark: &str) -> Option<HeaderValue> {
    cookies::end(&format!("{}{mark}", cookies::ATTEMPT))
}

fn given(error: ProviderError) -> Failure {
    match error {
        ProviderError::Code(_) => Failure::Refused(refused(
            "the provider does not take its own answer: it was used, or is too old",
        )),
        other => Failure::Unavailable(other.to_string()),
    }
}

/// Whether a person's browser asks for a page, which can be shown another one first.
fn navigates<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mode = headers.get("sec-fetch-mode").map(HeaderValue::as_bytes);
    let html = |t: &str| {
        t.split(';')
            .next()
            .is_some_and(|t| t.trim().eq_ignore_ascii_case("text/html"))
    };
    *request.method() == Method::GET
        && mode.is_none_or(|mode| mode == b"navigate")
        && list(headers, &ACCEPT).any(html)
        && Upgrade::of(request) == Upgrade::None
}

fn no_session() -> Fault {
    Fault::new(
        Place::ServerGateway,
        401,
        "login-needed",
        "this name asks for a login, and there is none, or it has ended",
        "open a page of this name in a browser, which leads to the login, and try again",
    )
}

fn refused(why: &str) -> Fault {
    Fault::new(
        Place::ServerGateway,
        403,
        "login-refused",
        format!("the login did not succeed: {why}"),
        "begin again; if it happens again, ask the operator of this name",
    )
}

fn unavailable() -> Fault {
    Fault::new(
        Place::ServerGateway,
        503,
        "login-unavailable",
        "the provider where visitors log in gives no answer that can be used",
        "try again later; the operator of this name sees in the gateway's log why",
    )
}

#[cfg(test)]
mod tests;
