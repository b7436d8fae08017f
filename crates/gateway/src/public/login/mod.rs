//! Who gets in at a published name. Decided here, before the origin hears of a request.

mod basic;
mod brake;
pub mod oidc;
pub mod users;

use std::sync::atomic::Ordering;

use hawser_proto::{Fault, Place};
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE},
};

pub(super) use self::{
    basic::{Basic, Passwords},
    oidc::{Keys, Oidc},
};
use super::{Site, call::OWN, serve::Connection};
use crate::{
    calls::LoginOutcome,
    config::{LoginPlan, PublishPlan},
    export::User,
    headers::{fresh_request_id, value},
    problem::{self, Asker},
    seam::Body,
};

/// Wrong logins on one connection, after which it is closed.
const MAX_WRONG: u32 = 10;

/// How visitors of one name get in.
pub(super) enum Login {
    /// Without.
    None,
    /// By a password.
    Basic(Basic),
    /// At a provider.
    Oidc(Box<Oidc>),
}

/// What is to be done with a request.
pub(super) enum Outcome {
    /// It may go on.
    In(Admitted),
    /// This is its answer.
    Answer(Response<Body>),
    /// It is refused.
    Refuse(Fault),
}

/// Who has been let in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) user: Option<User>,
}

/// What came of a password.
pub(super) enum Tried {
    /// It is this user's.
    Right(User),
    /// It is wrong, or there was none.
    Wrong { given: bool },
    /// It was not looked at: too many were wrong, or too many are under way.
    Later { seconds: u64 },
}

impl Login {
    pub(super) fn new(plan: &PublishPlan, passwords: &Passwords, keys: &Keys) -> Result<Self, String> {
        Ok(match &plan.login {
            LoginPlan::None => Login::None,
            LoginPlan::Basic { realm, users } => {
                Login::Basic(Basic::new(realm, users.clone(), passwords.clone()))
            }
            LoginPlan::Oidc(oidc) => Login::Oidc(Box::new(Oidc::new(oidc, &plan.authority, keys.clone())?)),
        })
    }

    /// Removes what is for the gateway alone.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        match self {
            Login::None => {}
            Login::Basic(_) => drop(headers.remove(AUTHORIZATION)),
            Login::Oidc(oidc) => oidc.strip(headers),
        }
    }

    /// Removes from an answer what only the gateway may say.
    pub(super) fn strip_answer(&self, headers: &mut HeaderMap) {
        if let Login::Oidc(oidc) = self {
            oidc.strip_set(headers);
        }
    }
}

impl Connection {
    /// Looks at who asks. Cancel safe.
    pub(super) async fn login<B>(&self, site: &Site, request: &Request<B>) -> Outcome {
        let own = request.uri().path().starts_with(OWN);
        if own && !matches!(site.login, Login::Oidc(_)) {
            return Outcome::Refuse(nothing());
        }
        match &site.login {
            Login::None => Outcome::In(Admitted { user: None }),
            Login::Basic(basic) => self.by_password(basic, request).await,
            Login::Oidc(oidc) => oidc.login(request, &self.public.0.metrics).await,
        }
    }

    async fn by_password<B>(&self, basic: &Basic, request: &Request<B>) -> Outcome {
        let metrics = &self.public.0.metrics;
        if self.wrong.load(Ordering::Acquire) >= MAX_WRONG {
            self.close.cancel();
            metrics.login(LoginOutcome::Deferred);
            return answered(request, &too_many(), RETRY_AFTER, value(1));
        }
        match basic.admit(request.headers()).await {
            Tried::Right(user) => {
                metrics.login(LoginOutcome::Accepted);
                Outcome::In(Admitted { user: Some(user) })
            }
            Tried::Wrong { given } => {
                if given {
                    self.wrong.fetch_add(1, Ordering::AcqRel);
                    metrics.login(LoginOutcome::Refused);
                }
                answered(request, &no_login(), WWW_AUTHENTICATE, basic.challenge())
            }
            Tried::Later { seconds } => {
                metrics.login(LoginOutcome::Deferred);
                answered(request, &too_many(), RETRY_AFTER, value(seconds))
            }
        }
    }
}

/// A fault with one more header.
fn answered<B>(request: &Request<B>, fault: &Fault, name: http::HeaderName, header: HeaderValue) -> Outcome {
    let asker = Asker::of(request.method(), request.headers());
    // The request's own id takes the place of this one.
    let mut response = problem::answer(fault, fresh_request_id(), asker);
    response.headers_mut().insert(name, header);
    Outcome::Answer(response)
}

fn no_login() -> Fault {
    Fault::new(
        Place::ServerGateway,
        401,
        "login-needed",
        "this name asks for a user and a password, and those that came, if any did, are not right",
        "log in; the name's operator adds users with `hawser login set`",
    )
}

fn too_many() -> Fault {
    Fault::new(
        Place::ServerGateway,
        429,
        "login-later",
        "too many logins were wrong, or too many are being looked at",
        "try again later",
    )
}

fn nothing() -> Fault {
    Fault::new(
        Place::ServerGateway,
        404,
        "not-found",
        "paths below /.hawser/ are the gateway's own, and there is nothing at this one",
        "ask for a path of the service",
    )
}
