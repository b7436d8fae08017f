//! `hawser doctor`: for each row, something that makes it fail or warn.

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use support::{Machine, Ports, Ran, eventually, tunnel};

#[test]
fn a_tunnel_that_works_has_no_failing_row() {
    let m = Machine::new();
    let config = tunnel(&m, &Ports::free());
    let _process = running(&m, &config);
    let rows = Rows::of(m.run(&["-c", &config, "doctor", "--json"]));
    assert_eq!(rows.code, 0, "{rows:?}");
    for check in [
        "config",
        "hub state",
        "hub process",
        "admitted",
        "gateway state",
        "identity",
        "clock",
        "certificate",
    ] {
        assert_eq!(rows.verdict(check), "ok", "{check}: {rows:?}");
    }
    for check in [
        "issuer",
        "process",
        "tcp ",
        "hub key ",
        "control ",
        "hub listens on ",
    ] {
        assert_eq!(rows.verdict(check), "ok", "{check}: {rows:?}");
    }
    // Nobody to talk with yet.
    for check in ["peers", "services", "hub policy"] {
        assert_eq!(rows.verdict(check), "warn", "{check}: {rows:?}");
    }
    let text = m.run(&["-c", &config, "doctor"]).ok();
    assert!(
        text.contains("What to do:") && text.contains("WARN  peers"),
        "{text}"
    );
}

#[test]
fn without_a_running_gateway_it_connects_by_itself() {
    let m = Machine::new();
    let config = tunnel(&m, &Ports::free());
    let hub = m.daemon(&["-c", &config, "hub"], "log");
    let rows = eventually("the hub", || {
        Some(Rows::of(m.run(&["-c", &config, "doctor", "--json"]))).filter(|r| r.code == 0)
    });
    assert_eq!(
        (rows.verdict("process"), rows.verdict("control ")),
        ("warn", "ok"),
        "{rows:?}"
    );

    m.run(&["-c", &config, "hub", "revoke", "spiffe://acme/gateway/gw1"])
        .ok();
    eventually("the hub to shut its door", || {
        Some(Rows::of(m.run(&["-c", &config, "doctor", "--json"])))
            .filter(|r| r.verdict("control ") == "fail")
    });
    drop(hub);
    let rows = Rows::of(m.run(&["-c", &config, "doctor", "--json"]));
    assert_eq!(
        (rows.code, rows.verdict("tcp "), rows.verdict("hub process")),
        (1, "fail", "fail"),
        "{rows:?}"
    );
}

#[test]
fn what_is_wrong_on_this_machine_is_named() {
    let m = Machine::new();
    let config = tunnel(&m, &Ports::free());
    let look = || Rows::of(m.run(&["-c", &config, "doctor", "--json", "--timeout", "2s"]));

    let mode =
        |file: &str, mode| fs::set_permissions(m.path(file), fs::Permissions::from_mode(mode)).unwrap();
    mode("gateway/node.key", 0o644);
    assert_eq!(look().verdict("gateway state"), "fail");
    mode("gateway/node.key", 0o600);
    mode("gateway", 0o755);
    assert_eq!(look().verdict("gateway state"), "fail");
    mode("gateway", 0o700);

    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    let file = fs::File::options()
        .write(true)
        .open(m.path("gateway/root.crt"))
        .unwrap();
    file.set_modified(later).unwrap();
    assert_eq!(look().verdict("gateway clock"), "fail");
    file.set_modified(std::time::SystemTime::now()).unwrap();

    fs::rename(m.path("gateway/issuer.crt"), m.path("kept")).unwrap();
    assert_eq!(look().verdict("issuer"), "fail");
    fs::rename(m.path("kept"), m.path("gateway/issuer.crt")).unwrap();

    fs::rename(m.path("gateway/node.crt"), m.path("kept")).unwrap();
    assert_eq!(look().verdict("identity"), "fail");
    fs::rename(m.path("kept"), m.path("gateway/node.crt")).unwrap();

    fs::rename(m.path("gateway"), m.path("gone")).unwrap();
    assert_eq!(look().verdict("gateway state"), "fail");
    fs::rename(m.path("gone"), m.path("gateway")).unwrap();

    fs::rename(m.path("hub"), m.path("gone")).unwrap();
    assert_eq!(look().verdict("hub state"), "fail");
    fs::rename(m.path("gone"), m.path("hub")).unwrap();

    m.write(&config, "[gateway]\nstat = 1\n");
    let rows = look();
    assert_eq!((rows.code, rows.verdict("config")), (1, "fail"));
}

#[test]
fn what_is_wrong_on_the_way_is_named() {
    let m = Machine::new();
    let config = tunnel(&m, &Ports::free());
    let text = fs::read_to_string(m.path(&config)).unwrap();
    let gateway = format!("[gateway]{}", text.split_once("[gateway]").unwrap().1);
    let look = |extra: &str| {
        m.write("alone.toml", &format!("{gateway}{extra}"));
        Rows::of(m.run(&["-c", "alone.toml", "doctor", "--json", "--timeout", "2s"]))
    };
    let carrier = |proxy: &str| format!("[[gateway.carrier]]\nkind = \"connect\"\nproxy = \"{proxy}\"\n");

    assert_eq!(look("").verdict("tcp "), "fail", "no hub listens");
    assert_eq!(look(&carrier("proxy.invalid:3128")).verdict("dns "), "fail");
    assert_eq!(look(&carrier("127.0.0.1:1")).verdict("proxy "), "fail");
    let wants = format!(
        "{}user = \"u\"\npassword_file = \"missing\"\n",
        carrier("127.0.0.1:1")
    );
    assert_eq!(look(&wants).verdict("ways out"), "fail");

    // Another hub has taken the place of the one that was joined.
    fs::remove_file(m.path("hub/hub.key")).unwrap();
    fs::remove_file(m.path("hub/hub.crt")).unwrap();
    let _hub = m.daemon(&["-c", &config, "hub"], "log");
    eventually("the other hub", || {
        Some(look("")).filter(|r| r.verdict("tcp ") == "ok")
    });
    assert_eq!(look("").verdict("hub key "), "fail");

    m.run(&["domain", "init", "beta", "--state", "beta"]).ok();
    m.write("beta.toml", "[gateway]\nstate = \"beta\"\n");
    assert_eq!(
        Rows::of(m.run(&["-c", "beta.toml", "doctor", "--json"])).verdict("hubs"),
        "fail"
    );
}

#[derive(Debug)]
struct Rows {
    code: i32,
    rows: Vec<serde_json::Value>,
}

#[allow(clippy::unwrap_used)]
impl Rows {
    fn of(ran: Ran) -> Self {
        let rows = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        Self { code: ran.code, rows }
    }

    /// The worst verdict of the rows whose check begins so.
    fn verdict(&self, check: &str) -> &str {
        let verdicts: Vec<&str> = self
            .rows
            .iter()
            .filter(|r| match check.ends_with(' ') {
                true => r["check"].as_str().unwrap().starts_with(check),
                false => r["check"] == check,
            })
            .map(|r| r["verdict"].as_str().unwrap())
            .collect();
        let all = ["fail", "warn", "ok"];
        all.into_iter()
            .find(|v| verdicts.contains(v))
            .unwrap_or("no such row")
    }
}

#[allow(clippy::unwrap_used)]
fn running(m: &Machine, config: &str) -> support::Daemon {
    let process = m.daemon(&["-c", config, "run"], "log");
    eventually("the gateway to be connected", || {
        let r = m.run(&["-c", config, "status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&r.out).ok()?;
        (status["gateway"]["hubs"][0]["connected"] == true).then_some(())
    });
    process
}
