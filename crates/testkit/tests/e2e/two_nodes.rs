//! Two nodes and no hub of its own: one process in the second domain is hub, gateway and web proxy there. A web application in that
//! domain edits documents that lie on a WebDAV server in the first one, behind a firewall whose only way out is squid.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use hawser_testkit::{
    Daemon,
    curl::Curl,
    gate,
    hawser::{admin_table, run},
    net::{Plan, Sites},
    origin::{Squid, WebDav, squid},
    parties::{Party, editor::editor},
    pattern, wait,
    world::{PROXY_PORT, SQUID_PASSWORD, SQUID_USER},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::ways_in::browse;

const DAV: u16 = 8080;
const EDITOR: u16 = 8090;
/// Long enough for a busy machine to make keys, join and connect.
const SETUP: Duration = Duration::from_secs(60);
/// Large enough that nobody keeps it in a buffer unnoticed.
const LARGE: u64 = 48_000_000;
/// The name by which everybody in the first domain knows the WebDAV server.
const DAV_NAME: &str = "dav.acme.example";

/// Both domains.
struct TwoNodes {
    /// The second domain's one process.
    node: Option<Daemon>,
    /// The first domain's gateway.
    gateway: Daemon,
    squid: Squid,
    dav: WebDav,
    sites: Sites,
    node_paths: [PathBuf; 3],
    dir: TempDir,
}

fn possible(what: &str) -> bool {
    gate::networks(what) && gate::programs(what, &["squid", "openssl", "apache2", "chromium"])
}

/// The second domain's whole configuration.
fn node_config(sites: &Sites, state: &Path) -> String {
    let at = &sites.hub;
    format!(
        r#"{admin}
[hub]
listen = ["{listen}"]
public = "{listen}"
state = "{state}/hub"
allow = [
  {{ from = "acme", to = "beta", services = ["editor"] }},
  {{ from = "beta", to = "acme", services = ["files"] }},
]

[gateway]
state = "{state}/gateway"
[gateway.proxy]
listen = ["{proxy}"]
clients = ["{ip}/32"]
[[gateway.proxy.through]]
hosts = ["{DAV_NAME}"]
domain = "acme"
[[gateway.export]]
name = "editor"
http = "http://{editor}"
allow = [{{ domains = ["acme"] }}]
"#,
        admin = admin_table(at),
        listen = sites.hub_at(),
        state = state.display(),
        proxy = at.at(PROXY_PORT),
        ip = at.address(),
        editor = at.at(EDITOR),
    )
}

/// The first domain's: what the second one may do with its documents is said here.
fn gateway_config(sites: &Sites, state: &Path, password: &Path) -> String {
    let site = &sites.domains[0];
    let host = &site.gateways[0];
    format!(
        r#"{admin}
[gateway]
state = "{state}"
[[gateway.carrier]]
kind = "connect"
proxy = "{squid}"
user = "{SQUID_USER}"
password_file = "{password}"
[gateway.proxy]
listen = ["{proxy}"]
clients = ["{network}"]
[[gateway.export]]
name = "files"
http = "http://{dav}"
allow = [{{ domains = ["beta"], methods = ["GET", "PUT", "PROPFIND", "LOCK", "UNLOCK"], paths = ["/docs/**"] }}]
[[gateway.callbacks.open]]
domains = ["beta"]
targets = ["{DAV_NAME}:{DAV}"]
"#,
        admin = admin_table(host),
        state = state.display(),
        squid = site.proxy.at(squid::PORT),
        password = password.display(),
        proxy = host.at(PROXY_PORT),
        network = site.network,
        dav = site.app.at(DAV),
    )
}

impl TwoNodes {
    /// Sets both up as the documentation says, command by command.
    fn start() -> Self {
        let plan = Plan {
            domains: &["acme"],
            gateways: 1,
            proxy_only: true,
        };
        let sites = Sites::build(&plan).unwrap();
        let dir = tempfile::Builder::new().prefix("hawser-test-").tempdir().unwrap();
        // Servers that run as users of their own have their files in here.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name);
        let site = &sites.domains[0];
        let exit = sites.hub_at();
        let squid = Squid::start(&site.proxy, SQUID_USER, SQUID_PASSWORD, exit, dir.path()).unwrap();
        let dav = WebDav::start(&site.app, DAV, dir.path()).unwrap();
        site.gateways[0].knows(&[(DAV_NAME, site.app.address())]).unwrap();

        let node_paths = [path("node.toml"), path("node"), path("node.log")];
        let [config, state, log] = &node_paths;
        fs::create_dir(state).unwrap();
        fs::write(config, node_config(&sites, state)).unwrap();
        let at_node = |words: &[&str], input: &str| run(&sites.hub, config, words, input).unwrap();
        at_node(&["domain", "init", "beta", "gw1"], "");
        let mut node = Daemon::start(&sites.hub, config, &state.join("gateway"), log).unwrap();
        // Nobody has told the gateway of the hub beside it.
        node.wait_ready(SETUP).unwrap();
        let token = at_node(&["token", "hub", "acme"], "");
        let peering = at_node(&["domain", "peer", "token"], "");

        let (own, own_state, password) = (path("acme.toml"), path("acme"), path("password"));
        fs::write(&password, SQUID_PASSWORD).unwrap();
        fs::write(&own, gateway_config(&sites, &own_state, &password)).unwrap();
        let host = &site.gateways[0];
        let at_gateway = |words: &[&str], input: &str| run(host, &own, words, input).unwrap();
        at_gateway(&["domain", "init", "acme", "gw1"], "");
        at_gateway(&["join"], &token);
        at_gateway(&["domain", "peer", "accept", "--yes"], &peering);
        let back = at_gateway(&["domain", "peer", "token"], "");
        at_node(&["domain", "peer", "accept", "--yes"], &back);
        let gateway = Daemon::start(host, &own, &own_state, &path("acme.log")).unwrap();

        let mut own = Self {
            node: Some(node),
            gateway,
            squid,
            dav,
            sites,
            node_paths,
            dir,
        };
        own.wait_connected();
        // It ran when it was told of the other domain, and takes that up within a second.
        wait::for_condition(SETUP, "the node to accept the other domain's gateway", || {
            own.user("/")
                .call()
                .is_ok_and(|answer| !answer.text().contains("session-failed"))
        })
        .unwrap();
        own
    }

    /// Waits until each side sees what the other offers.
    fn wait_connected(&mut self) {
        let node = self.node.as_mut().unwrap();
        node.wait_ready(SETUP).unwrap();
        self.gateway.wait_ready(SETUP).unwrap();
        for (daemon, service) in [(&*node, "files"), (&self.gateway, "editor")] {
            wait::for_condition(SETUP, service, || {
                daemon
                    .ask("/services")
                    .is_ok_and(|seen| seen.to_string().contains(service))
            })
            .unwrap();
        }
    }

    /// The second domain's process is killed, and started again.
    fn restart_node(&mut self) {
        self.node.take().unwrap().process.kill().unwrap();
        let [config, state, log] = &self.node_paths;
        self.node = Some(Daemon::start(&self.sites.hub, config, &state.join("gateway"), log).unwrap());
        self.wait_connected();
    }

    /// The hosted application, for documents at an address, which it reaches by its own domain's process.
    fn editor(&self, files: &str) -> Party {
        let at = &self.sites.hub;
        let proxy = at.at(PROXY_PORT);
        editor(at, at.at(EDITOR), files, proxy, self.dir.path()).unwrap()
    }

    /// A user in the first domain, at the hosted application.
    fn user(&self, path: &str) -> Curl {
        let site = &self.sites.domains[0];
        Curl::new(&site.app, format!("http://editor.beta.hawser{path}"))
            .proxy(site.gateways[0].at(PROXY_PORT))
    }

    /// A user's form: the whole document, for a draft.
    fn save(&self, draft: &str, text: &str) -> Curl {
        let fields = [format!("draft={draft}"), format!("text={text}")];
        self.user("/save")
            .args(fields.iter().flat_map(|f| ["--data-urlencode", f]))
    }

    /// Opens a document in the editor: the draft's number, and the page.
    fn open(&self, name: &str) -> (String, String) {
        let page = self
            .user(&format!("/edit?doc={name}"))
            .expect(200)
            .unwrap()
            .text();
        let (_, rest) = page.split_once("name=\"draft\" value=\"").unwrap();
        (rest.split_once('"').unwrap().0.to_owned(), page)
    }

    /// From the second domain, through its process as web proxy.
    fn beta(&self, url: &str) -> Curl {
        Curl::new(&self.sites.hub, url).proxy(self.sites.hub.at(PROXY_PORT))
    }
}

#[test]
fn a_hosted_editor_works_on_documents_behind_the_firewall() {
    if !possible("a hosted editor and a local WebDAV server") {
        return;
    }
    let mut two = TwoNodes::start();
    let dav = two.sites.domains[0].app.at(DAV);
    assert!(
        !two.sites.hub.connects(dav, Duration::from_secs(1)).unwrap(),
        "control: the firewall lets nobody in"
    );
    let mut editor = two.editor("http://files.acme.hawser/docs");
    two.dav.write("minutes.txt", "Two < three\n".as_bytes()).unwrap();

    let list = two.user("/").expect(200).unwrap().text();
    assert!(list.contains("/edit?doc=minutes.txt"), "{list}");
    let (draft, page) = two.open("minutes.txt");
    assert!(page.contains("Two &lt; three\n</textarea>"), "{page}");
    // It is locked for everybody, those beside the server included.
    let near = Curl::new(
        &two.sites.domains[0].app,
        format!("http://{dav}/docs/minutes.txt"),
    );
    near.args(["-X", "PUT", "-d", "mine"]).expect(423).unwrap();
    two.save(&draft, "Three > two\n").expect(200).unwrap();
    assert_eq!(two.dav.read("minutes.txt").unwrap(), b"Three > two\n");

    // Somebody changes it under the editor: that stays a conflict, and the document as they left it.
    let (draft, _) = two.open("minutes.txt");
    two.dav.write("minutes.txt", b"changed at home\n").unwrap();
    let refused = two.save(&draft, "lost?").expect(412).unwrap();
    assert!(
        refused.text().contains("The file server said no"),
        "{}",
        refused.text()
    );
    assert_eq!(two.dav.read("minutes.txt").unwrap(), b"changed at home\n");
    // The lock is gone all the same.
    let (draft, _) = two.open("minutes.txt");
    two.save(&draft, "merged\n").expect(200).unwrap();
    for method in ["PROPFIND", "LOCK", "GET", "PUT", "UNLOCK"] {
        // A request is written down once it is answered.
        wait::for_condition(wait::SOON, method, || {
            let served = two.dav.served();
            served.iter().any(|line| line.starts_with(method))
        })
        .unwrap_or_else(|e| panic!("{e:#}: {:?}", two.dav.served()));
    }

    in_a_browser(&two);
    large(&two);
    refused_at_home(&mut editor, &two);

    // Killed between opening and saving.
    let (draft, _) = two.open("minutes.txt");
    two.restart_node();
    two.save(&draft, "after the restart\n").expect(200).unwrap();
    assert_eq!(two.dav.read("minutes.txt").unwrap(), b"after the restart\n");

    assert_operated(&two);
    drained(&mut two);
}

/// What a user sees who was told of the gateway by a file.
fn in_a_browser(two: &TwoNodes) {
    let site = &two.sites.domains[0];
    let pac = format!(
        "--proxy-pac-url=http://{}/proxy.pac",
        site.gateways[0].at(PROXY_PORT)
    );
    let url = "http://editor.beta.hawser/";
    let page = browse(&site.app, two.dir.path(), "browser", &[&pac], url);
    assert!(
        page.contains("<h1>Documents</h1>") && page.contains("minutes.txt"),
        "{page}"
    );
}

/// A document of some tens of MB, out, back, and unchanged.
fn large(two: &TwoNodes) {
    two.dav.write("plan.bin", b"").unwrap();
    let draft = two.user("/raw?doc=plan.bin").expect(200).unwrap();
    let draft = draft.header("draft").unwrap();
    let take = two.user(&format!("/raw?draft={draft}")).args(["-X", "POST"]);
    take.upload(LARGE).unwrap();
    assert!(pattern::hash_of(&two.dav.read("plan.bin").unwrap()) == pattern::hash(LARGE));
    let given = two.user("/raw?doc=plan.bin").download().unwrap();
    assert_eq!(given, (LARGE, pattern::hash(LARGE)));
}

/// What the first domain's gateway does not list, the second domain does not get, and is told so.
fn refused_at_home(editor: &mut Party, two: &TwoNodes) {
    let before = two.dav.served().len();
    for (method, url, status, place) in [
        ("GET", "http://files.acme.hawser/locks.dir", 403, "policy"),
        (
            "DELETE",
            "http://files.acme.hawser/docs/minutes.txt",
            403,
            "policy",
        ),
        ("GET", "http://other.acme.hawser/", 404, "client-gateway"),
        ("GET", "http://intranet.acme.example/", 403, "client-gateway"),
    ] {
        let answer = two.beta(url).args(["-X", method]).call().unwrap();
        let said = answer.text();
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{method} {url}: {said}");
        let seen = (answer.status, answer.json().unwrap()["where"].clone());
        assert_eq!(seen, (status, place.into()), "{method} {url}: {said}");
    }
    // The application passes it on to its user.
    let page = two.user("/edit?doc=..%2Flocks.dir").call().unwrap();
    assert!(page.text().contains("The file server said no"), "{}", page.text());
    editor.wait_for("problem", |_| true).unwrap();
    // What was answered before may be written down only now.
    let since = two.dav.served().split_off(before);
    assert!(
        since
            .iter()
            .all(|line| line.contains(" /docs/plan.bin ") && !line.starts_with("DELETE")),
        "nothing of it reached the server: {since:?}"
    );
}

/// Both halves of the one process are seen, and squid saw one kind of connection only.
fn assert_operated(two: &TwoNodes) {
    let node = two.node.as_ref().unwrap();
    let status: Value = serde_json::from_str(&node.command(&["status", "--json"], "").unwrap()).unwrap();
    let connected = status["hub"]["gateways"].as_array().unwrap();
    assert_eq!(connected.len(), 2, "{status}");
    assert_eq!(status["gateway"]["hubs"][0]["connected"], true, "{status}");
    let metrics = node.metrics().unwrap();
    for name in [
        "hawser_hub_relayed_bytes_total",
        "hawser_gateway_key_exchanges_total",
    ] {
        assert!(metrics.sum(name, &[]) > 0.0, "{name}\n{}", metrics.text());
    }
    node.command(&["doctor"], "").unwrap();
    node.command(&["check"], "").unwrap();
    let log = two.squid.access_log();
    let own = two.sites.domains[0].gateways[0].address().to_string();
    let connect = format!("CONNECT {} {SQUID_USER}", two.sites.hub_at());
    let mut of_gateway = log.lines().filter(|line| line.contains(&own)).peekable();
    assert!(
        of_gateway.peek().is_some() && of_gateway.all(|line| line.contains(&connect)),
        "{log}"
    );
}

/// Told to end, the one process ends after what is under way: both halves stay until then.
fn drained(two: &mut TwoNodes) {
    // The other one is locked by a draft.
    let plan = two.dav.read("plan.bin").unwrap();
    two.dav.write("copy.bin", &plan).unwrap();
    let mut given = two.user("/raw?doc=copy.bin").stream().unwrap();
    let mut first = vec![0; 1 << 20];
    given.out.read_exact(&mut first).unwrap();
    let mut node = two.node.take().unwrap();
    node.process.signal(Signal::TERM).unwrap();
    node.process
        .wait_for_log(wait::SOON, "draining; a second signal")
        .unwrap();
    let mut hash = pattern::Hash::new();
    hash.update(&first);
    let mut rest = Vec::new();
    given.out.read_to_end(&mut rest).unwrap();
    hash.update(&rest);
    assert_eq!(given.end().unwrap().0, 0);
    assert!(hash.finish() == pattern::hash(LARGE));
    assert!(node.process.wait_end(SETUP).unwrap().success());
}

/// The application knows nothing of Hawser: the documents are where everybody at home has them.
#[test]
fn a_hosted_editor_uses_the_addresses_that_are_used_at_home() {
    if !possible("documents by their own address") {
        return;
    }
    let two = TwoNodes::start();
    let _editor = two.editor(&format!("http://{DAV_NAME}:{DAV}/docs"));
    two.dav.write("letter.txt", b"Dear all\n").unwrap();
    let (draft, page) = two.open("letter.txt");
    assert!(page.contains("Dear all"), "{page}");
    two.save(&draft, "Dear both\n").expect(200).unwrap();
    assert_eq!(two.dav.read("letter.txt").unwrap(), b"Dear both\n");
    // Another port of that host is not on the list.
    let refused = two.beta(&format!("http://{DAV_NAME}:22/")).call().unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(
        refused.header("content-type"),
        Some("application/problem+json"),
        "{}",
        refused.text()
    );
}
