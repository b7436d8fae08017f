//! The real binary, driven as an operator drives it.

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use support::{Machine, Ran};

#[test]
fn help_says_what_there_is_and_how_it_ends() {
    let m = Machine::new();
    let help = m.run(&["--help"]).ok();
    for word in ["First steps:", "hawser domain init", "Exit codes:", "doctor"] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
    assert!(m.run(&["join", "--help"]).ok().contains("HAWSER_TOKEN"));
    assert_eq!(m.run(&["frobnicate"]).code, 2);
}

#[test]
fn completions_and_manual_pages_are_made() {
    let m = Machine::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(m.run(&["completions", shell]).ok().contains("hawser"), "{shell}");
    }
    assert!(m.run(&["man"]).ok().contains(".TH hawser 1"));
    m.run(&["man", "pages"]).ok();
    for page in ["hawser.1", "hawser-domain-peer-accept.1", "hawser-doctor.1"] {
        assert!(m.path("pages").join(page).exists(), "{page}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    let m = Machine::new();
    m.write(
        "hawser.toml",
        "[gateway]\nsufix = \"x\"\n[gateway.proxy]\nlisten = [\"127.0.0.1:1\"]\nclient = []\n",
    );
    let r = m.run(&["-c", "hawser.toml", "check"]);
    assert_eq!(r.code, 3, "{r:?}");
    assert!(
        r.err
            .contains("hawser.toml:2: unknown key \"sufix\" in [gateway]; did you mean \"suffix\"?"),
        "{r:?}"
    );
    assert!(
        r.err
            .contains("hawser.toml:5: unknown key \"client\" in [gateway.proxy]; did you mean \"clients\"?"),
        "{r:?}"
    );
    assert!(
        !r.err.contains("panicked") && r.err.lines().all(|l| l.starts_with("hawser: ")),
        "{r:?}"
    );
}

#[test]
fn check_prints_what_would_run() {
    let m = Machine::new();
    m.write(
        "hawser.toml",
        "[hub]\nlisten = [\"127.0.0.1:8443\"]\npublic = \"hub.example.org:8443\"\nallow = [{ from = \"acme\", to = \"beta\", \
         services = [\"*\"] }]\n[gateway]\n[[gateway.export]]\nname = \"orders\"\nhttp = \"http://127.0.0.1:8080\"\nallow = [{ \
         domains = [\"beta\"] }]\n[admin]\nlisten = \"127.0.0.1:9180\"\n",
    );
    let plan = m.run(&["-c", "hawser.toml", "check"]).ok();
    for word in [
        "hub.example.org:8443",
        "acme",
        "orders",
        "http://127.0.0.1:9180",
        "logs as text at info",
    ] {
        assert!(plan.contains(word), "{word} is missing in {plan}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&m.run(&["-c", "hawser.toml", "check", "--json"]).ok()).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["gateway"]["export"][0]["name"], "orders");
}

#[test]
fn metrics_are_for_this_machine_only() {
    let m = Machine::new();
    m.write("hawser.toml", "[gateway]\n[admin]\nlisten = \"0.0.0.0:9180\"\n");
    let r = m.run(&["-c", "hawser.toml", "check"]);
    assert!(r.code == 3 && r.err.contains("no loopback address"), "{r:?}");
}

#[test]
fn a_domain_keeps_its_keys_to_itself() {
    let m = Machine::new();
    let r = m.run(&["domain", "init", "acme", "gw1", "--state", "acme"]);
    assert!(r.err.contains("in words"), "{r:?}");
    assert_eq!(r.ok(), "", "what is said goes to standard error");
    assert_eq!(mode(&m, "acme"), 0o700);
    for file in [
        "root.key",
        "root.crt",
        "issuer.key",
        "node.key",
        "node.crt",
        "hawser.db",
    ] {
        assert_eq!(mode(&m, &format!("acme/{file}")), 0o600, "{file}");
    }
    let show = m.run(&["domain", "show", "--state", "acme"]).ok();
    assert!(
        show.contains("spiffe://acme/gateway/gw1") && show.contains("root's key   here"),
        "{show}"
    );

    let again = m.run(&["domain", "init", "acme", "gw1", "--state", "acme"]);
    assert!(again.code == 1 && again.err.contains("already"), "{again:?}");
}

#[test]
fn a_given_root_is_used_and_its_key_is_not_copied() {
    let m = Machine::new();
    m.run(&["domain", "init", "acme", "gw1", "--state", "old"]).ok();
    let init = [
        "domain",
        "init",
        "acme",
        "gw9",
        "--state",
        "new",
        "--root-certificate",
        "old/root.crt",
    ];
    m.run(&[&init[..], &["--root-key", "old/root.key"]].concat()).ok();
    assert!(!m.path("new/root.key").exists());
    let root = |state: &str| m.json(&["domain", "show", "--json", "--state", state])["root"].clone();
    assert_eq!(root("old"), root("new"));
    assert_eq!(m.run(&init).code, 2, "a certificate without its key");
}

#[test]
fn a_given_issuer_needs_no_key_of_the_root() {
    let m = Machine::new();
    m.run(&["domain", "init", "acme", "gw1", "--state", "old"]).ok();
    let init = |domain, state| {
        let given = [
            "--root-certificate",
            "old/root.crt",
            "--issuer-certificate",
            "old/issuer.crt",
        ];
        let key = ["--issuer-key", "old/issuer.key"];
        m.run(
            &[
                &["domain", "init", domain, "gw9", "--state", state][..],
                &given,
                &key,
            ]
            .concat(),
        )
    };
    init("acme", "new").ok();
    assert!(!m.path("new/root.key").exists());
    let shown = |state: &str| m.json(&["domain", "show", "--json", "--state", state]);
    let (old, new) = (shown("old"), shown("new"));
    assert_eq!(old["root"], new["root"]);
    assert_eq!(old["issuer_ends"], new["issuer_ends"]);
    assert_eq!(new["gateway"], "spiffe://acme/gateway/gw9");
    let other = init("beta", "beta");
    assert!(other.code == 1 && other.err.contains("beta"), "{other:?}");
}

#[test]
fn peers_are_accepted_only_when_they_are_compared() {
    let m = Machine::new();
    m.run(&["domain", "init", "acme", "gw1", "--state", "acme"]).ok();
    m.run(&["domain", "init", "beta", "gw1", "--state", "beta"]).ok();
    let token = m.run(&["domain", "peer", "token", "--state", "beta"]).ok();
    assert!(
        token.starts_with("hawser-peering:") && token.lines().count() == 1,
        "{token}"
    );
    let beta = m.json(&["domain", "show", "--json", "--state", "beta"]);
    let (root, words) = (
        beta["root"].as_str().unwrap(),
        beta["root_words"].as_str().unwrap(),
    );
    let accept = |args: &[&str]| {
        m.run_with(
            &[&["domain", "peer", "accept", "--state", "acme"], args].concat(),
            &token,
        )
    };

    let wrong = accept(&[
        "--words",
        "able about above absent absorb abstract absurd abuse access accident account accuse",
    ]);
    assert!(
        wrong.code == 1 && wrong.err.contains("words are others"),
        "{wrong:?}"
    );
    let wrong = accept(&["--fingerprint", &format!("sha256:{}", "0".repeat(64))]);
    assert!(
        wrong.code == 1 && wrong.err.contains("fingerprint is another"),
        "{wrong:?}"
    );
    let nobody = accept(&[]);
    assert!(
        nobody.code == 1 && nobody.err.contains("--words"),
        "nobody can be asked: {nobody:?}"
    );
    assert_eq!(
        m.json(&["domain", "peer", "list", "--json", "--state", "acme"]),
        serde_json::json!([])
    );

    accept(&["--words", words]).ok();
    accept(&["--fingerprint", root]).ok();
    assert!(accept(&["--yes"]).err.contains("without comparing"));
    assert_eq!(
        m.json(&["domain", "peer", "list", "--json", "--state", "acme"])[0]["root"],
        root
    );

    m.run(&["domain", "peer", "remove", "beta", "--state", "acme"])
        .ok();
    m.write("token", &token);
    let ask = |answer: &str| {
        m.run_on_terminal(
            &[
                "domain",
                "peer",
                "accept",
                "--token-file",
                "token",
                "--state",
                "acme",
            ],
            answer,
        )
    };
    for no in ["n\n", "\n", "yes please\n"] {
        let r = ask(no);
        assert!(
            r.code == 1 && r.out.contains(words) && r.out.contains("[y/N]") && r.out.contains("not accepted"),
            "{r:?}"
        );
    }
    assert_eq!(ask("y\n").code, 0);

    let own = m.run_with(&["domain", "peer", "accept", "--yes", "--state", "beta"], &token);
    assert!(own.code == 1 && own.err.contains("this very domain"), "{own:?}");
    m.run(&["domain", "peer", "remove", "beta", "--state", "acme"])
        .ok();
    assert_eq!(
        m.run(&["domain", "peer", "remove", "beta", "--state", "acme"])
            .code,
        1
    );
}

#[test]
fn tokens_come_by_input_file_or_environment_and_errors_do_not_repeat_them() {
    let m = Machine::new();
    m.write(
        "hub.toml",
        "[hub]\nstate = \"hub\"\nlisten = [\"127.0.0.1:1\"]\npublic = \"127.0.0.1:1\"\n",
    );
    m.run(&["domain", "init", "acme", "gw1", "--state", "acme"]).ok();
    let made = m.run(&["-c", "hub.toml", "token", "hub", "acme"]);
    assert!(made.err.contains("once, until"), "{made:?}");
    let token = made.ok();
    assert!(
        token.starts_with("hawser-hub-token:") && token.lines().count() == 1,
        "{token}"
    );
    let secret = token.trim().trim_start_matches("hawser-hub-token:");

    // Nobody listens on port 1: every way of giving the token gets as far as dialling.
    m.write("token", &token);
    let ways: [Ran; 3] = [
        m.run_with(&["join", "--state", "acme"], &token),
        m.run(&["join", "--state", "acme", "--token-file", "token"]),
        m.run_env(&["join", "--state", "acme"], "HAWSER_TOKEN", token.trim()),
    ];
    for r in ways {
        assert!(
            r.code == 1 && r.err.contains("127.0.0.1:1") && !r.err.contains(secret),
            "{r:?}"
        );
    }

    let mut damaged = token.trim().to_string();
    damaged.truncate(damaged.len() - 3);
    let r = m.run_with(&["join", "--state", "acme"], &damaged);
    assert!(
        r.code == 1 && r.err.contains("damaged") && !r.err.contains(&secret[..20]),
        "{r:?}"
    );
    let r = m.run_with(&["domain", "peer", "accept", "--state", "acme", "--yes"], &token);
    assert!(
        r.code == 1 && r.err.contains("peering token") && !r.err.contains(secret),
        "{r:?}"
    );
    let r = m.run_with(&["join", "--state", "acme"], "");
    assert!(r.code == 1 && r.err.contains("no token came"), "{r:?}");

    let r = m.run(&["join", token.trim(), "--state", "acme"]);
    assert_eq!(r.code, 2, "a token is no argument: {r:?}");
}

#[test]
fn a_gateway_token_needs_a_hub_and_an_issuer() {
    let m = Machine::new();
    let r = m.run(&["token", "gateway", "--state", "acme"]);
    assert!(r.code == 1 && r.err.contains("hawser domain init"), "{r:?}");
    m.run(&["domain", "init", "acme", "gw1", "--state", "acme"]).ok();
    let r = m.run(&["token", "gateway", "--state", "acme"]);
    assert!(r.code == 1 && r.err.contains("joined no hub"), "{r:?}");
}

#[test]
fn revocation_is_of_the_own_domain() {
    let m = Machine::new();
    m.run(&["domain", "init", "acme", "gw1", "--state", "acme"]).ok();
    m.run(&["domain", "revoke", "gw2", "--state", "acme"]).ok();
    let revoked = m.json(&["domain", "show", "--json", "--state", "acme"])["revoked"].clone();
    assert_eq!(revoked, serde_json::json!(["spiffe://acme/gateway/gw2"]));
    let r = m.run(&["domain", "revoke", "spiffe://beta/gateway/gw1", "--state", "acme"]);
    assert!(r.code == 1 && r.err.contains("peer remove beta"), "{r:?}");
}

#[test]
fn asking_what_runs_where_nothing_runs_says_so() {
    let m = Machine::new();
    m.write("hawser.toml", "[gateway]\nstate = \"acme\"\n");
    for command in ["status", "services"] {
        let r = m.run(&["-c", "hawser.toml", command]);
        assert!(r.code == 4 && r.err.contains("hawser run"), "{r:?}");
    }
}

#[test]
fn reference_pages_name_every_command_and_table() {
    let m = Machine::new();
    let cli = m.run(&["reference", "cli"]).ok();
    for heading in [
        "## hawser\n",
        "## hawser domain peer accept\n",
        "## hawser doctor\n",
    ] {
        assert!(cli.contains(heading), "{heading}");
    }
    assert!(!cli.contains("## hawser reference"));
    assert!(
        m.run(&["reference", "config"])
            .ok()
            .contains("## `[[gateway.export]]`")
    );
}

#[test]
fn the_readme_shows_the_quick_start_script() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let script = fs::read_to_string(root.join("docs/examples/quickstart.sh")).unwrap();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    assert!(
        readme.contains(&format!("```sh\n{script}```\n")),
        "copy docs/examples/quickstart.sh into README.md"
    );
}

#[allow(clippy::unwrap_used)]
fn mode(m: &Machine, path: &str) -> u32 {
    fs::metadata(m.path(path)).unwrap().permissions().mode() & 0o7777
}
