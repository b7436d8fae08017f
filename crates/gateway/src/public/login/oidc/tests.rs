use std::time::Duration;

use http::header::{COOKIE, LOCATION};
use proptest::prelude::*;

use super::{rules::tests::plan, *};
use crate::config::Allowed;

const NOW: UnixTime = UnixTime(1_800_000_000);

struct Name {
    dir: tempfile::TempDir,
    oidc: Oidc,
    ring: std::sync::Arc<Ring>,
}

/// A name whose provider nobody reaches.
async fn name(authority: &str, change: impl FnOnce(&mut OidcPlan)) -> Name {
    named(tempfile::tempdir().unwrap(), authority, change).await
}

async fn named(dir: tempfile::TempDir, authority: &str, change: impl FnOnce(&mut OidcPlan)) -> Name {
    let ca = dir.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(&ca, certificate.pem()).unwrap();
    let keys = Keys::new(&hawser_store::Store::open(dir.path()).unwrap());
    let ring = keys.ring().await.unwrap();
    let mut plan = plan("sub", Allowed::Everyone);
    // The discard port of this machine: refused at once.
    plan.issuer = "https://127.0.0.1:9".into();
    plan.ca = Some(ca);
    change(&mut plan);
    let oidc = Oidc::new(&plan, &authority.parse().unwrap(), keys).unwrap();
    Name { dir, oidc, ring }
}

fn session(name: &Name, until: UnixTime) -> String {
    let session = Session {
        id: "one".into(),
        name: "ada".into(),
        email: None,
        until,
    };
    name.ring.seal(&name.oidc.context[0], &session).unwrap()
}

fn shown(name: &Name, cookie: &str, now: UnixTime) -> Option<String> {
    let line = format!("{}={cookie}", cookies::SESSION);
    let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(line).unwrap())]);
    name.oidc.session(&headers, &name.ring, now).map(|s| s.name)
}

#[tokio::test]
async fn a_session_holds_for_its_time_its_name_and_its_rules() {
    let hour = Duration::from_secs(3600);
    let wiki = name("wiki.example", |_| {}).await;
    let cookie = session(&wiki, NOW.plus(hour));
    assert_eq!(shown(&wiki, &cookie, NOW).as_deref(), Some("ada"));
    assert_eq!(shown(&wiki, &cookie, NOW.plus(hour)), None, "its end is absolute");
    let late = session(&wiki, NOW.plus(hour * 3));
    assert_eq!(shown(&wiki, &late, NOW), None, "it lasts longer than sessions do");
    let attempt = wiki
        .ring
        .seal(&wiki.oidc.context[1], &Attempt::new("/", NOW).unwrap())
        .unwrap();
    assert_eq!(shown(&wiki, &attempt, NOW), None);
    let twice = format!("{cookie}; {}={cookie}", cookies::SESSION);
    assert_eq!(shown(&wiki, &twice, NOW), None, "there can be only one");
    let logged_out = session(&wiki, NOW.plus(hour / 2));
    wiki.oidc.ended().end("one", NOW.plus(hour / 2), NOW);
    assert_eq!(shown(&wiki, &logged_out, NOW), None);

    // By the same keys.
    let other = named(wiki.dir, "other.example", |_| {}).await;
    assert_eq!(shown(&other, &cookie, NOW), None);
    let ruled = named(other.dir, "wiki.example", |p| p.client_id = "another".into()).await;
    assert_eq!(shown(&ruled, &cookie, NOW), None);
    let same = named(ruled.dir, "wiki.example", |_| {}).await;
    assert_eq!(
        shown(&same, &cookie, NOW).as_deref(),
        Some("ada"),
        "it outlives the process"
    );
    let stranger = name("wiki.example", |_| {}).await;
    assert_eq!(shown(&stranger, &cookie, NOW), None);
}

fn metrics() -> CallMetrics {
    CallMetrics::register(&mut prometheus_client::registry::Registry::default())
}

fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri(format!("http://wiki.example{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn status(name: &Name, request: &Request<()>) -> (u16, Option<String>) {
    match name.oidc.login(request, &metrics()).await {
        Outcome::In(_) => (200, None),
        Outcome::Refuse(fault) => (fault.status, Some(fault.code)),
        Outcome::Answer(response) => {
            assert!(response.headers().get(LOCATION).is_none());
            let kind = response.headers()[http::header::CONTENT_TYPE].to_str().unwrap();
            (response.status().as_u16(), Some(kind.to_owned()))
        }
    }
}

#[tokio::test]
async fn only_who_looks_at_a_page_is_led_to_the_login() {
    let wiki = name("wiki.example", |_| {}).await;
    let html = ("accept", "text/html, */*;q=0.1");
    let problem = (401, Some("application/problem+json".to_owned()));
    // The provider is down: who would be led there is told so.
    let led = (503, Some("text/html; charset=utf-8".to_owned()));
    for (headers, answer) in [
        (vec![html], &led),
        (vec![html, ("sec-fetch-mode", "navigate")], &led),
        (vec![], &problem),
        (vec![("accept", "*/*")], &problem),
        (vec![("accept", "text/htmlx")], &problem),
        (vec![html, ("sec-fetch-mode", "cors")], &problem),
        (
            vec![html, ("connection", "upgrade"), ("upgrade", "websocket")],
            &problem,
        ),
    ] {
        assert_eq!(
            status(&wiki, &request("/a", &headers)).await,
            *answer,
            "{headers:?}"
        );
    }
    let mut post = request("/a", &[html]);
    *post.method_mut() = Method::POST;
    assert_eq!(status(&wiki, &post).await, problem);
    assert_eq!(status(&wiki, &request("/.hawser/other", &[html])).await.0, 404);
    let far = [("sec-fetch-site", "cross-site")];
    let Outcome::Answer(asked) = wiki.oidc.login(&request(LOGOUT_PATH, &far), &metrics()).await else {
        panic!("no page");
    };
    assert!(
        asked.headers().get(SET_COOKIE).is_none(),
        "another site logs nobody out"
    );
}

#[tokio::test]
async fn an_attempt_is_answered_by_its_own_browser() {
    let wiki = name("wiki.example", |_| {}).await;
    let attempt = Attempt::new("/", UnixTime::now()).unwrap();
    let sealed = wiki.ring.seal(&wiki.oidc.context[1], &attempt).unwrap();
    let cookie = format!("{}{}={sealed}", cookies::ATTEMPT, attempt.mark());
    let path = format!("/.hawser/callback?code=x&state={}", attempt.state);
    assert_eq!(status(&wiki, &request(&path, &[])).await.0, 403);
    let forged = format!(
        "/.hawser/callback?code=x&state={}{}",
        attempt.mark(),
        "A".repeat(14)
    );
    // It would be redeemed, if the provider were there.
    assert_eq!(
        status(&wiki, &request(&path, &[("cookie", &cookie)])).await.0,
        503
    );
    assert_eq!(
        status(&wiki, &request(&forged, &[("cookie", &cookie)])).await.0,
        503
    );
    let plain = wiki.oidc.attempt(
        &HeaderMap::from_iter([(COOKIE, cookie.parse().unwrap())]),
        &wiki.ring,
        attempt.mark(),
    );
    assert_eq!(plain, Some(attempt));
}

#[tokio::test]
async fn of_many_logins_under_way_the_oldest_are_given_up() {
    let wiki = name("wiki.example", |_| {}).await;
    let mut line = Vec::new();
    let mut marks = Vec::new();
    for age in 0..6 {
        let attempt = Attempt::new("/", UnixTime(NOW.0 - age)).unwrap();
        let sealed = wiki.ring.seal(&wiki.oidc.context[1], &attempt).unwrap();
        line.push(format!("{}{}={sealed}", cookies::ATTEMPT, attempt.mark()));
        marks.push(attempt.mark().to_owned());
    }
    line.push(format!("{}broken=x", cookies::ATTEMPT));
    let headers = HeaderMap::from_iter([(COOKIE, line.join("; ").parse().unwrap())]);
    let gone = wiki.oidc.surplus(&headers, &wiki.ring);
    let gone: Vec<_> = gone
        .iter()
        .map(|v| v.to_str().unwrap().split('=').next().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = ["broken", &marks[5], &marks[4], &marks[3]]
        .iter()
        .map(|m| format!("{}{m}", cookies::ATTEMPT))
        .collect();
    assert_eq!(gone, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_cookie_and_no_query_of_a_stranger_lets_in(cookie in "[!-~]{0,80}", query in "[!-\"$-~]{0,80}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let wiki = name("wiki.example", |_| {}).await;
            assert_eq!(shown(&wiki, &cookie, NOW), None);
            let line = format!("{}={cookie}; {}abcdefgh={cookie}", cookies::SESSION, cookies::ATTEMPT);
            if let Ok(uri) = format!("/.hawser/callback?{query}&state=abcdefgh").parse::<http::Uri>() {
                let (status, _) = status(&wiki, &request(&uri.to_string(), &[("cookie", &line)])).await;
                assert_eq!(status, 403);
            }
        });
    }
}
