//! Login at published names by an OpenID Connect provider of another maker, in a real browser. The provider is inside the domain,
//! and published under a name of its own; visitors and the gateway reach it there.

use std::{fs, path::Path};

use anyhow::Result;
use hawser_testkit::{
    Process,
    authority::Authority,
    browser::{self, Browser, Spec},
    curl::Curl,
    gate,
    net::Sites,
    origin::{HttpOrigin, Python},
    publishing::{Publishing, SETUP},
    wait,
};
use serde_json::{Value, json};

const WIKI: &str = "wiki.acme.example";
/// Leads to WebSockets.
const CHAT: &str = "chat.acme.example";
/// The provider.
const LOGIN: &str = "login.acme.example";
const NAMES: [&str; 3] = [WIKI, CHAT, LOGIN];
const ORIGIN: u16 = 8080;
const SOCKETS: u16 = 8003;
const PROVIDER: u16 = 9000;
const SECRET: &str = "of+the client:&";
const SESSION: &str = "__Host-hawser-session";

struct Ground {
    provider: Option<Process>,
    _origin: HttpOrigin,
    _sockets: Python,
    public: Publishing,
}

impl Ground {
    fn start() -> Self {
        let public = Publishing::start(&NAMES, tables).unwrap();
        let app = &public.site().app;
        let ip = app.address().to_string();
        let port = SOCKETS.to_string();
        let mut own = Self {
            provider: None,
            _origin: HttpOrigin::start(app, ORIGIN).unwrap(),
            _sockets: Python::start(app, "websocket_server.py", &[&ip, &port], &public.path("")).unwrap(),
            public,
        };
        own.provide("provider.log");
        own
    }

    /// What `hawser doctor` says of the provider.
    fn doctor(&self) -> String {
        let found = self.public.gateway.doctor(&format!("login {WIKI}")).unwrap();
        text(&found, "verdict").to_owned()
    }

    /// Starts the provider.
    fn provide(&mut self, log: &str) {
        let app = &self.public.site().app;
        let port = self.public.sites.hub_at().port();
        let callback = |name: &str| format!("https://{name}:{port}/.hawser/callback");
        let options = json!({
            "host": app.address(), "port": PROVIDER, "issuer": format!("https://{LOGIN}:{port}"),
            "client": { "client_id": "hawser", "client_secret": SECRET, "redirect_uris": [callback(WIKI), callback(CHAT)],
                        "scope": "openid email groups" },
            "users": {
                "ada": { "email": "ada@acme.example", "email_verified": true },
                "bob": { "email": "bob@other.example", "email_verified": true, "groups": ["x", "staff"] },
                "eve": { "email": "eve@acme.example", "email_verified": false, "groups": ["staff-not"] },
            },
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/provider.js");
        let args = [&*script.to_string_lossy(), &options.to_string()];
        let mut process = Process::start(app, "node", &args, &self.public.path(log)).unwrap();
        process.wait_for_log(SETUP, "ready\n").unwrap();
        self.provider = Some(process);
    }

    fn browser(&self) -> Browser {
        let certificate = self.public.authority.certificate();
        let hub = self.public.sites.hub.address();
        let spec = Spec {
            authorities: &[&certificate],
            names: &NAMES.map(|name| (name, hub)),
            prf: false,
        };
        Browser::start(&self.public.sites.net, &self.public.path("browser"), &spec).unwrap()
    }

    fn host(&self, name: &str) -> String {
        self.public.host(name)
    }

    fn url(&self, name: &str, path: &str) -> String {
        self.public.url(name, path)
    }

    /// curl, from outside.
    fn curl(&self, url: &str, cookie: &str) -> Curl {
        let curl = self.public.curl(url);
        match cookie {
            "" => curl,
            cookie => curl.header(&format!("Cookie: {cookie}")),
        }
    }

    fn status(&self, url: &str, cookie: &str) -> u16 {
        self.curl(url, cookie).call().unwrap().status
    }

    /// Visits a page and logs in on the way to it.
    fn enter(&self, browser: &mut Browser, user: &str, name: &str, path: &str) -> Value {
        let there = browser
            .tell("visit", json!({ "url": self.url(name, path) }))
            .unwrap();
        assert!(
            text(&there, "address").starts_with(&self.url(LOGIN, "/")),
            "{there}"
        );
        browser
            .tell("log-in", json!({ "user": user, "host": self.host(name) }))
            .unwrap()
    }
}

fn tables(sites: &Sites, authority: &Authority, dir: &Path) -> Result<String> {
    let site = &sites.domains[0];
    let port = sites.hub_at().port();
    fs::write(dir.join("secret"), format!("{SECRET}\n"))?;
    site.gateways[0].knows(&[(LOGIN, sites.hub.address())])?;
    let mut text = String::new();
    for (name, at) in [("web", ORIGIN), ("ws", SOCKETS), ("login", PROVIDER)] {
        text += &format!(
            "\n[[gateway.export]]\nname = \"{name}\"\nhttp = \"http://{}\"\n",
            site.app.at(at)
        );
    }
    let oidc = format!(
        "kind = \"oidc\"\nissuer = \"https://{LOGIN}:{port}\"\nclient_id = \"hawser\"\nclient_secret_file = \"{}\"\nca = \"{}\"\n\
         scopes = [\"email\", \"groups\"]\nemails = [\"ada@acme.example\", \"eve@acme.example\"]\nclaims = {{ groups = [\"staff\"] }}",
        dir.join("secret").display(),
        authority.certificate().display(),
    );
    for (name, export, login) in [
        (WIKI, "web", &*oidc),
        (CHAT, "ws", &oidc),
        (LOGIN, "login", "kind = \"none\""),
    ] {
        let (certificate, key) = authority.issue(name)?;
        text += &format!(
            "\n[[gateway.publish]]\nname = \"{name}\"\nexport = \"{export}\"\ncertificate = \"{}\"\nkey = \"{}\"\nport = {port}\n\
             allow = [{{}}]\n[gateway.publish.login]\n{login}\n",
            certificate.display(),
            key.display(),
        );
    }
    Ok(text)
}

fn text<'a>(answer: &'a Value, member: &str) -> &'a str {
    answer[member]
        .as_str()
        .unwrap_or_else(|| panic!("no {member} in {answer}"))
}

/// What the origin saw of a header, as its page shows it.
fn origin_saw(page: &Value, name: &str) -> Vec<String> {
    let echo: Value = serde_json::from_str(text(page, "text")).unwrap_or_else(|e| panic!("{e}: {page}"));
    let all = echo["headers"].as_array().unwrap();
    all.iter()
        .filter(|h| h[0] == name)
        .map(|h| h[1].as_str().unwrap().to_owned())
        .collect()
}

fn session(browser: &mut Browser) -> Value {
    let all = browser.tell("cookies", json!({})).unwrap();
    let all = all["cookies"].as_array().unwrap();
    all.iter()
        .find(|c| c["name"] == SESSION)
        .unwrap_or_else(|| panic!("{all:?}"))
        .clone()
}

#[test]
fn people_log_in_at_a_provider_and_the_service_hears_who_they_are() {
    if !gate::networks("login at a provider") || !browser::possible("login at a provider") {
        return;
    }
    let ground = Ground::start();
    let mut browser = ground.browser();
    let page = ground.enter(&mut browser, "ada", WIKI, "/echo/deep?a=b&c=%2F");
    assert_eq!(text(&page, "address"), ground.url(WIKI, "/echo/deep?a=b&c=%2F"));
    assert_eq!(page["status"], 200, "{page}");
    assert_eq!(origin_saw(&page, "x-forwarded-user"), ["ada"]);
    assert_eq!(origin_saw(&page, "x-forwarded-email"), ["ada@acme.example"]);
    assert!(origin_saw(&page, "cookie").is_empty(), "{page}");
    let asked = browser.tell("ask", json!({ "path": "/echo" })).unwrap();
    assert_eq!(
        (&asked["status"], origin_saw(&asked, "x-forwarded-user")),
        (&json!(200), vec!["ada".to_owned()])
    );

    let cookie = session(&mut browser);
    assert_eq!(
        (&cookie["secure"], &cookie["httpOnly"], &cookie["sameSite"]),
        (&json!(true), &json!(true), &json!("Lax"))
    );
    assert_eq!((&cookie["domain"], &cookie["path"]), (&json!(WIKI), &json!("/")));
    let all = browser.tell("cookies", json!({})).unwrap().to_string();
    assert!(
        !all.contains("__Host-hawser-login-"),
        "the attempt is over: {all}"
    );

    // The cookie by itself: here, elsewhere, changed.
    let sealed = text(&cookie, "value");
    let own = format!("mine=1; {SESSION}={sealed}; other=2");
    let echo = ground.url(WIKI, "/echo");
    let answer = ground
        .curl(&echo, &own)
        .header("X-Forwarded-User: root")
        .expect(200)
        .unwrap();
    let seen = json!({ "text": answer.text() });
    assert_eq!(origin_saw(&seen, "x-forwarded-user"), ["ada"]);
    assert_eq!(origin_saw(&seen, "cookie"), ["mine=1; other=2"]);
    assert_eq!(
        ground.status(&ground.url(CHAT, "/"), &own),
        401,
        "it is for one name"
    );
    let middle = sealed.len() / 2;
    let other = if &sealed[middle..=middle] == "A" { "B" } else { "A" };
    let tampered = format!("{SESSION}={}{other}{}", &sealed[..middle], &sealed[middle + 1..]);
    assert_eq!(ground.status(&echo, &tampered), 401);

    // What came back from the provider counts once, and only here.
    let callbacks = browser
        .tell("asked", json!({ "part": "/.hawser/callback" }))
        .unwrap();
    let callback = &callbacks["requests"][0];
    let (url, with) = (text(callback, "url"), text(callback, "cookie"));
    assert!(with.contains("__Host-hawser-login-"), "{callbacks}");
    assert!(url.contains("iss="), "the provider says who it is: {url}");
    let replayed = ground.curl(url, with).expect(403).unwrap();
    assert!(replayed.text().contains("used already"), "{}", replayed.text());
    assert_eq!(ground.status(url, ""), 403);
    let page = browser.tell("visit", json!({ "url": url })).unwrap();
    assert_eq!(page["status"], 403, "{page}");
    let forged = ground.url(WIKI, "/.hawser/callback?code=x&state=forged-by-somebody");
    let page = browser.tell("visit", json!({ "url": forged })).unwrap();
    assert_eq!(page["status"], 403, "{page}");

    // Out. A page of the service stays open beside.
    browser
        .tell("visit", json!({ "url": echo, "on": "beside" }))
        .unwrap();
    let page = browser
        .tell("visit", json!({ "url": ground.url(WIKI, "/.hawser/logout") }))
        .unwrap();
    assert!(
        page["status"] == 200 && text(&page, "text").contains("logged out"),
        "{page}"
    );
    let asked = browser
        .tell("ask", json!({ "path": "/echo", "on": "beside" }))
        .unwrap();
    assert_eq!(
        (&asked["status"], &asked["type"]),
        (&json!(401), &json!("application/problem+json"))
    );
    assert_eq!(ground.status(&echo, &own), 401, "who kept the cookie is out, too");

    let log = || fs::read_to_string(ground.public.path("access.log")).unwrap_or_default();
    wait::for_condition(wait::SOON, "the access log to name the user", || {
        log().contains("\"user\":\"ada\"")
    })
    .unwrap();
    let logs =
        ["acme.log", "hub.log", "access.log"].map(|l| fs::read_to_string(ground.public.path(l)).unwrap());
    for kept in [SECRET, sealed] {
        assert!(!logs.concat().contains(kept), "{kept} is in a log");
    }
}

#[test]
fn the_rules_say_who_gets_in_and_several_pages_may_ask_at_once() {
    if !gate::networks("rules for users") || !browser::possible("rules for users") {
        return;
    }
    let ground = Ground::start();
    let mut browser = ground.browser();
    let page = ground.enter(&mut browser, "eve", WIKI, "/echo");
    assert_eq!(page["status"], 403, "{page}");
    assert!(text(&page, "text").contains("logged in as eve"), "{page}");
    let all = browser.tell("cookies", json!({})).unwrap().to_string();
    assert!(!all.contains(SESSION), "{all}");

    browser.tell("forget", json!({})).unwrap();
    for (on, path) in [("one", "/echo/one"), ("two", "/echo/two")] {
        let there = browser
            .tell("visit", json!({ "url": ground.url(WIKI, path), "on": on }))
            .unwrap();
        assert!(
            text(&there, "address").starts_with(&ground.url(LOGIN, "/")),
            "{there}"
        );
    }
    for (on, path) in [("one", "/echo/one"), ("two", "/echo/two")] {
        let with = json!({ "user": "bob", "host": ground.host(WIKI), "on": on });
        let page = browser.tell("log-in", with).unwrap();
        assert_eq!(text(&page, "address"), ground.url(WIKI, path), "{page}");
        assert_eq!(origin_saw(&page, "x-forwarded-user"), ["bob"], "by the group");
    }

    // The provider knows who it is: nobody is asked again. A WebSocket needs the session.
    browser
        .tell("visit", json!({ "url": ground.url(CHAT, "/"), "on": "chat" }))
        .unwrap();
    let socket = json!({ "path": "/socket", "on": "chat" });
    let opened = browser.tell("socket", socket.clone()).unwrap();
    let log = fs::read_to_string(ground.public.path("access.log")).unwrap_or_default();
    assert_eq!(
        opened["opened"],
        true,
        "{}\n{}",
        browser.log(),
        log.lines().rev().take(8).collect::<Vec<_>>().join("\n")
    );
    browser.tell("forget", json!({})).unwrap();
    assert_eq!(browser.tell("socket", socket).unwrap()["opened"], false);
}

#[test]
fn without_the_provider_nobody_new_gets_in_and_who_is_in_stays() {
    if !gate::networks("a provider that is down") || !browser::possible("a provider that is down") {
        return;
    }
    let mut ground = Ground::start();
    assert_eq!(ground.doctor(), "ok");
    ground.provider = None;
    assert_eq!(ground.doctor(), "fail");
    let mut browser = ground.browser();
    let wiki = ground.url(WIKI, "/echo");
    let page = browser.tell("visit", json!({ "url": wiki })).unwrap();
    assert_eq!(page["status"], 503, "{page}");
    assert!(text(&page, "text").contains("try again later"), "{page}");
    assert_eq!(
        ground.status(&wiki, ""),
        401,
        "what is no page is not led anywhere"
    );
    ground.provide("provider-again.log");
    wait::for_condition(SETUP, "the provider to be asked again", || {
        let page = browser.tell("visit", json!({ "url": wiki })).unwrap();
        text(&page, "address").starts_with(&ground.url(LOGIN, "/"))
    })
    .unwrap();
    let page = ground.enter(&mut browser, "ada", WIKI, "/echo");
    assert_eq!(page["status"], 200, "{page}");
    ground.provider = None;
    let asked = browser.tell("ask", json!({ "path": "/echo" })).unwrap();
    assert_eq!(asked["status"], 200, "{asked}");
}
