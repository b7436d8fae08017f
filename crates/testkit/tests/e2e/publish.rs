//! Exported services under public host names: who gets in, what they may do there, and what the service hears of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use hawser_testkit::{
    authority::Authority,
    curl::{Answer, Curl},
    gate,
    hawser::try_run,
    net::Sites,
    origin::{HttpOrigin, Python},
    pattern,
    publishing::Publishing,
    wait,
};

/// Asks for a password.
const WIKI: &str = "wiki.acme.example";
/// Asks for a password, and leads to WebSockets.
const CHAT: &str = "chat.acme.example";
/// Is open to everybody.
const OPEN: &str = "open.acme.example";
const NAMES: [&str; 3] = [WIKI, OPEN, CHAT];
const ORIGIN: u16 = 8080;
const SOCKETS: u16 = 8003;
const PASSWORD: &str = "correct-horse-battery-staple";
/// Large enough that nobody keeps it in a buffer unnoticed.
const LARGE: u64 = 40_000_000;

/// The names are published, and lead to one web service.
struct Ground {
    _origin: HttpOrigin,
    public: Publishing,
}

impl Ground {
    fn start() -> Self {
        let public = Publishing::start(&NAMES, tables).unwrap();
        Self {
            _origin: HttpOrigin::start(&public.site().app, ORIGIN).unwrap(),
            public,
        }
    }

    /// curl, from outside.
    fn curl(&self, name: &str, path: &str) -> Curl {
        self.public.curl(&self.public.url(name, path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.public.path(name)
    }

    fn admin(&self, args: &[&str], input: &str) -> (String, String, bool) {
        let gateway = &self.public.gateway;
        try_run(gateway.host(), gateway.config(), args, input).unwrap()
    }
}

fn tables(sites: &Sites, authority: &Authority, _: &Path) -> Result<String> {
    let app = &sites.domains[0].app;
    let mut text = format!(
        "\n[[gateway.export]]\nname = \"web\"\nhttp = \"http://{}\"\n\n\
         [[gateway.export]]\nname = \"ws\"\nhttp = \"http://{}\"\n",
        app.at(ORIGIN),
        app.at(SOCKETS),
    );
    for (name, export, login) in [
        (WIKI, "web", "kind = \"basic\"\nrealm = \"The wiki\""),
        (OPEN, "web", "kind = \"none\""),
        (CHAT, "ws", "kind = \"basic\""),
    ] {
        let (certificate, key) = authority.issue(name)?;
        text += &format!(
            r#"
[[gateway.publish]]
name = "{name}"
export = "{export}"
certificate = "{}"
key = "{}"
port = {}
allow = [
  {{ methods = ["GET", "HEAD", "POST"], paths = ["/echo/**", "/bytes/*", "/socket"] }},
  {{ methods = ["POST"], paths = ["/upload"] }},
]
[gateway.publish.login]
{login}
"#,
            certificate.display(),
            key.display(),
            sites.hub_at().port(),
        );
    }
    Ok(text)
}

/// What the origin saw of a header.
fn seen(answer: &Answer, name: &str) -> Vec<String> {
    let all = answer.json().unwrap()["headers"].as_array().unwrap().clone();
    all.iter()
        .filter(|h| h[0] == name)
        .map(|h| h[1].as_str().unwrap().to_owned())
        .collect()
}

fn problem(answer: &Answer) -> String {
    let problem = answer.json().unwrap();
    let kind = problem["type"].as_str().unwrap();
    kind.trim_start_matches("urn:hawser:fault:").to_owned()
}

#[test]
fn visitors_log_in_by_password_and_the_service_hears_who_they_are() {
    if !gate::networks("login by password") {
        return;
    }
    let ground = Ground::start();
    let login = format!("ada:{PASSWORD}");
    let (_, said, ok) = ground.admin(&["login", "set", "ada"], "short\n");
    assert!(!ok && said.contains("expected 8 or more"), "{said}");
    let right = || ground.curl(WIKI, "/echo").args(["-u", &login]);
    assert_eq!(right().call().unwrap().status, 401, "there is no such user yet");
    let (_, said, ok) = ground.admin(&["login", "set", "ada"], &format!("{PASSWORD}\n"));
    assert!(ok, "{said}");

    let none = ground.curl(WIKI, "/echo").expect(401).unwrap();
    assert_eq!(
        none.header("www-authenticate"),
        Some("basic realm=\"the wiki\", charset=\"utf-8\"")
    );
    for wrong in [
        "ada:wrong horse battery",
        "bob:correct-horse-battery-staple",
        "ada:",
    ] {
        ground
            .curl(WIKI, "/echo")
            .args(["-u", wrong])
            .expect(401)
            .unwrap();
    }
    for (version, flag) in [("2", "--http2"), ("1.1", "--http1.1")] {
        let answer = right()
            .args([flag])
            .header("X-Forwarded-User: root")
            .header("X_Forwarded_User: root")
            .header("X-Forwarded-Email: root@acme.example")
            .header("Remote-User: root")
            .header("X-Forwarded-For: 127.0.0.1")
            .header("Forwarded: for=127.0.0.1")
            .header("Hawser-Service: other")
            .header("X-Mine: kept")
            .expect(200)
            .unwrap();
        assert_eq!(answer.version, version);
        assert_eq!(seen(&answer, "x-forwarded-user"), ["ada"], "{version}");
        for gone in [
            "x_forwarded_user",
            "x-forwarded-email",
            "remote-user",
            "x-forwarded-for",
            "hawser-service",
            "authorization",
        ] {
            assert!(
                seen(&answer, gone).is_empty(),
                "{version}: {gone} reached the service"
            );
        }
        assert_eq!(seen(&answer, "x-mine"), ["kept"]);
        assert_eq!(seen(&answer, "x-forwarded-proto"), ["https"]);
        let authority = format!("{WIKI}:{}", ground.public.sites.hub_at().port());
        assert_eq!(seen(&answer, "x-forwarded-host"), [authority.as_str()]);
        assert_eq!(seen(&answer, "host"), [authority.as_str()]);
        let forwarded = format!("for=unknown;by=_gw1.acme;host=\"{authority}\";proto=https");
        assert_eq!(seen(&answer, "forwarded"), [forwarded]);
        assert!(answer.header("hawser-fault").is_none());
    }

    let told = |line: &str| fs::read_to_string(ground.path("access.log")).is_ok_and(|log| log.contains(line));
    wait::for_condition(wait::SOON, "the access log to name the user", || {
        told("\"side\":\"visit\"") && told("\"user\":\"ada\"")
    })
    .unwrap();
    let (kept, _, _) = ground.admin(&["inspect", "--json"], "");
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let mut of_ada = kept.as_array().unwrap().iter().filter(|e| e["user"] == "ada");
    assert!(
        of_ada.any(|e| e["side"] == "visit" && e["status"] == 200),
        "{kept}"
    );

    let (listed, _, _) = ground.admin(&["login", "list"], "");
    assert!(listed.contains("ada"), "{listed}");
    ground.admin(&["login", "remove", "ada"], "");
    wait::for_condition(wait::SOON, "the removed user to be refused", || {
        right().call().is_ok_and(|a| a.status == 401)
    })
    .unwrap();
    let logs = ["acme.log", "hub.log", "access.log"].map(|l| fs::read_to_string(ground.path(l)).unwrap());
    assert!(!logs.concat().contains(PASSWORD), "a password is in a log");
}

#[test]
fn guesses_are_put_off_and_their_connection_ends() {
    if !gate::networks("guessed passwords") {
        return;
    }
    let ground = Ground::start();
    ground.admin(&["login", "set", "ada"], PASSWORD);
    let right = || {
        ground
            .curl(WIKI, "/echo")
            .args(["-u", &format!("ada:{PASSWORD}")])
    };
    right().expect(200).unwrap();
    let mut last = 0;
    for guess in 0..6 {
        let wrong = format!("ada:wrong horse {guess}");
        let answer = ground.curl(WIKI, "/echo").args(["-u", &wrong]).call().unwrap();
        last = answer.status;
        assert!([401, 429].contains(&last), "{answer:?}");
        if last == 429 {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    }
    // A machine that takes longer for six than the first wait lasts is let off; the wait grows until it is not.
    let mut guesses = 0;
    while last != 429 {
        guesses += 1;
        assert!(guesses < 20, "guesses go on");
        let wrong = format!("ada:wrong horse again {guesses}");
        last = ground
            .curl(WIKI, "/echo")
            .args(["-u", &wrong])
            .call()
            .unwrap()
            .status;
    }
    right().expect(200).unwrap();
}

#[test]
fn visitors_may_do_what_is_allowed_and_nothing_else() {
    if !gate::networks("what visitors may do") {
        return;
    }
    let ground = Ground::start();
    let open = |path: &str| ground.curl(OPEN, path);
    let answer = open("/echo/deep/path?q=1").expect(200).unwrap();
    assert_eq!(answer.json().unwrap()["path"], "/echo/deep/path?q=1");
    assert!(seen(&answer, "x-forwarded-user").is_empty());
    let answer = open("/echo")
        .header("X-Forwarded-User: root")
        .expect(200)
        .unwrap();
    assert!(seen(&answer, "x-forwarded-user").is_empty(), "nobody logged in");

    for (path, more, status, code) in [
        ("/status/200", vec![], 403, "path-not-allowed"),
        ("/", vec![], 403, "path-not-allowed"),
        ("/echo", vec!["-X", "DELETE"], 403, "visitors-not-allowed"),
        ("/echo/../status/200", vec!["--path-as-is"], 400, "path-ambiguous"),
        (
            "/echo/%2e%2e/status/200",
            vec!["--path-as-is"],
            400,
            "path-ambiguous",
        ),
        (
            "/echo",
            vec!["-H", "X-HTTP-Method-Override: DELETE"],
            400,
            "header-not-allowed",
        ),
        ("/.hawser/interface", vec![], 404, "not-found"),
        ("/.hawser/cb/acme/x", vec![], 404, "not-found"),
        ("/echo", vec!["-H", "Host: wiki.acme.example"], 421, "misdirected"),
        ("/echo", vec!["-X", "TRACE"], 405, "trace-refused"),
    ] {
        for version in ["--http1.1", "--http2"] {
            let answer = open(path).args(&more).args([version]).expect(status).unwrap();
            assert_eq!(problem(&answer), code, "{path} {more:?} {version}");
        }
    }
}

#[test]
fn bodies_stream_both_ways_and_a_reload_changes_who_gets_in() {
    if !gate::networks("bodies of visitors") {
        return;
    }
    let ground = Ground::start();
    let (len, hash) = ground.curl(OPEN, &format!("/bytes/{LARGE}")).download().unwrap();
    assert_eq!((len, hash), (LARGE, pattern::hash(LARGE)));
    let said = ground
        .curl(OPEN, "/upload")
        .args(["-X", "POST"])
        .upload(LARGE)
        .unwrap();
    assert!(said.contains(&pattern::hash(LARGE)), "{said}");

    let config = fs::read_to_string(ground.public.gateway.config()).unwrap();
    let other = config.replace("kind = \"none\"", "kind = \"basic\"");
    ground.public.gateway.reload(&other).unwrap();
    wait::for_condition(wait::SOON, "a login to be asked for", || {
        ground.curl(OPEN, "/echo").call().is_ok_and(|a| a.status == 401)
    })
    .unwrap();
    // What is wrong changes nothing.
    ground
        .public
        .gateway
        .reload(&other.replace("export = \"web\"", "export = \"none\""))
        .unwrap();
    wait::for_condition(wait::SOON, "the log to say what is wrong", || {
        fs::read_to_string(ground.path("acme.log"))
            .is_ok_and(|log| log.contains("there is no [[gateway.export]] of the name none"))
    })
    .unwrap();
    ground.curl(OPEN, "/echo").expect(401).unwrap();
}

#[test]
fn visitors_open_websockets_once_they_are_in() {
    if !gate::networks("WebSockets of visitors") {
        return;
    }
    let ground = Ground::start();
    let app = &ground.public.site().app;
    let ip = app.address().to_string();
    let port = SOCKETS.to_string();
    let _server = Python::start(app, "websocket_server.py", &[&ip, &port], &ground.path("")).unwrap();
    ground.admin(&["login", "set", "ada"], PASSWORD);
    let outside = &ground.public.sites.net;
    let hub = ground.public.sites.hub_at();
    outside.knows(&[(CHAT, hub.ip())]).unwrap();
    let authority = ground.public.authority.certificate().display().to_string();
    let talk = |login: &str, path: &str| {
        let url = format!("wss://{login}{CHAT}:{}{path}", hub.port());
        Python::run(outside, "websocket_client.py", &[&url, "-", &authority])
    };
    for (login, path, status) in [
        ("", "/socket", "401"),
        ("ada:wrong-horse@", "/socket", "401"),
        (&format!("ada:{PASSWORD}@"), "/elsewhere", "403"),
    ] {
        let refused = format!("{:#}", talk(login, path).unwrap_err());
        assert!(refused.contains(&format!("HTTP {status}")), "{refused}");
    }
    let said = talk(&format!("ada:{PASSWORD}@"), "/socket").unwrap();
    assert!(said.contains("ok"), "{said}");
}
