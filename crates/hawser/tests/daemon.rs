//! Running hubs and gateways: start, status, reload, drain.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use support::{Machine, Ports, eventually, tunnel};

#[test]
fn a_hub_and_a_gateway_in_one_process_answer_and_drain() {
    let m = Machine::new();
    let ports = Ports::free();
    let config = tunnel(&m, &ports);
    let mut process = m.daemon(&["-c", &config, "run"], "log");

    let ready = eventually("readiness", || {
        get(ports.admin, "/readyz").filter(|a| a.starts_with("HTTP/1.1 200"))
    });
    assert!(
        ready.contains("hub: ready") && ready.contains("gateway: ready"),
        "{ready}"
    );
    assert!(get(ports.admin, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    assert!(get(ports.admin, "/else").unwrap().starts_with("HTTP/1.1 404"));
    let metrics = get(ports.admin, "/metrics").unwrap();
    assert!(
        metrics.contains("application/openmetrics-text") && metrics.contains("# TYPE hawser_"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");

    let status = m.json(&["-c", &config, "status", "--json"]);
    assert_eq!(status["gateway"]["hubs"][0]["connected"], true, "{status}");
    assert_eq!(
        status["hub"]["gateways"][0]["id"], "spiffe://acme/gateway/gw1",
        "{status}"
    );
    let page = m.run(&["-c", &config, "status"]).ok();
    assert!(
        page.contains("hub\n") && page.contains("gateway\n") && page.contains("UTC"),
        "{page}"
    );
    let services = m.json(&["-c", &config, "services", "--json"]);
    assert_eq!(
        services,
        serde_json::json!([]),
        "a domain with no rule for itself sees nothing"
    );

    let second = m.run(&["-c", &config, "run"]);
    assert!(second.code == 1 && second.err.contains("in use"), "{second:?}");

    process.signal("TERM");
    assert_eq!(process.wait(), 0);
    let log = std::fs::read_to_string(m.path("log")).unwrap();
    assert!(log.contains("drained"), "{log}");
    assert!(!m.path("gateway/admin.sock").exists());
    assert_eq!(m.run(&["-c", &config, "status"]).code, 4);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let m = Machine::new();
    let ports = Ports::free();
    let config = tunnel(&m, &ports);
    let good = std::fs::read_to_string(m.path(&config)).unwrap();
    let process = m.daemon(&["-c", &config, "run"], "log");
    eventually("readiness", || {
        get(ports.admin, "/readyz").filter(|a| a.starts_with("HTTP/1.1 200"))
    });
    let says = |what: &str| {
        eventually(what, || {
            std::fs::read_to_string(m.path("log"))
                .unwrap()
                .contains(what)
                .then_some(())
        });
    };
    let rules = || {
        m.json(&["-c", &config, "status", "--json"])["hub"]["allows"]
            .as_array()
            .unwrap()
            .len()
    };
    let before = rules();

    let rule = "allow = [{ from = \"acme\", to = \"acme\", services = [\"*\"] }]\n";
    let more = good.replace("[gateway]\n", &format!("{rule}[gateway]\n"));
    m.write(&config, &more.replace("suffix", "sufix"));
    process.signal("HUP");
    says("did you mean \"suffix\"?");
    m.write(
        &config,
        &more.replace("state = \"gateway\"", "state = \"elsewhere\""),
    );
    process.signal("HUP");
    says("gateway.state changed: that needs a restart");
    assert_eq!(rules(), before, "nothing of a bad file is in force");

    m.write(&config, &more);
    process.signal("HUP");
    says("configuration reloaded");
    assert_eq!(rules(), before + 1);
}

/// A hub and a gateway in one file. Nothing but this machine can reach the hub by the name that others know, and the way out that
/// other hubs are reached by is closed.
fn beside(public: &str, ports: &Ports) -> String {
    format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\n[hub]\nlisten = [\"0.0.0.0:{hub}\"]\npublic = \"{public}\"\nstate = \"hub\"\n\
         allow = [{{ from = \"acme\", to = \"beta\", services = [\"*\"] }}]\n[gateway]\nstate = \"gateway\"\n\
         [[gateway.carrier]]\nkind = \"connect\"\nproxy = \"127.0.0.1:1\"\n",
        admin = ports.admin,
        hub = ports.hub,
    )
}

#[test]
fn a_gateway_and_the_hub_beside_it_need_no_tokens() {
    let m = Machine::new();
    let ports = Ports::free();
    let config = "hawser.toml";
    let connected = |hub: &str| {
        eventually(hub, || {
            let r = m.run(&["-c", config, "status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&r.out).ok()?;
            let hubs = status["gateway"]["hubs"].as_array()?;
            (hubs.len() == 1 && hubs[0]["hub"] == hub && hubs[0]["connected"] == true).then_some(())
        });
    };
    m.write(config, &beside("one.invalid:8443", &ports));
    m.run(&["-c", config, "domain", "init", "acme", "gw1"]).ok();
    let plan = m.run(&["-c", config, "check"]).ok();
    let expected = format!(
        "reaches the hub one.invalid:8443 in this process, at 127.0.0.1:{}",
        ports.hub
    );
    assert!(plan.contains(&expected), "{plan}");
    let mut process = m.daemon(&["-c", config, "run"], "log");
    connected("one.invalid:8443");
    let r = m.run(&["-c", config, "doctor", "--json"]);
    assert_eq!(r.code, 0, "{r:?}");
    let token = m.run(&["-c", config, "token", "gateway"]);
    assert_eq!(token.code, 0, "a further gateway joins by this hub: {token:?}");

    // The hub is given another name.
    m.write(config, &beside("two.invalid:8443", &ports));
    process.signal("HUP");
    connected("two.invalid:8443");
    process.signal("TERM");
    assert_eq!(process.wait(), 0);

    // The domain is made anew: who is to be believed is for people to say.
    std::fs::rename(m.path("gateway"), m.path("old")).unwrap();
    m.run(&["-c", config, "domain", "init", "acme", "gw1"]).ok();
    let refused = m.run(&["-c", config, "run"]);
    assert!(
        refused.code == 1 && refused.err.contains("hawser hub forget acme"),
        "{refused:?}"
    );
    m.run(&["-c", config, "hub", "forget", "acme"]).ok();
    let _process = m.daemon(&["-c", config, "run"], "log");
    connected("two.invalid:8443");
}

#[test]
fn tables_that_contradict_each_other_are_refused() {
    let m = Machine::new();
    let ports = Ports::free();
    let config = "hawser.toml";
    let good = beside("hub.example.org:8443", &ports).replace("acme", "gamma");
    m.write(
        config,
        &format!("{good}[gateway.proxy]\nlisten = [\"127.0.0.1:{}\"]\n", ports.hub),
    );
    let refused = m.run(&["-c", config, "check"]);
    assert!(
        refused.code == 3 && refused.err.contains("one port serves one of them"),
        "{refused:?}"
    );

    m.write(config, &good);
    m.run(&["-c", config, "domain", "init", "acme", "gw1"]).ok();
    let plan = m.run(&["-c", config, "check"]).ok();
    assert!(
        plan.contains("warning: no [[hub.allow]] rule names acme"),
        "{plan}"
    );
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let m = Machine::new();
    let ports = Ports::free();
    let config = tunnel(&m, &ports);
    let mut process = m.daemon(&["-c", &config, "run"], "log");
    eventually("readiness", || {
        get(ports.admin, "/readyz").filter(|a| a.starts_with("HTTP/1.1 200"))
    });
    process.signal("TERM");
    process.signal("INT");
    assert_eq!(process.wait(), 0);
}

#[test]
fn no_secret_is_logged_even_at_the_finest_level() {
    let m = Machine::new();
    let ports = Ports::free();
    let config = tunnel(&m, &ports);
    let token = m.run(&["-c", &config, "token", "gateway"]).ok();
    m.write(
        &config,
        &std::fs::read_to_string(m.path(&config))
            .unwrap()
            .replace("\"info\"", "\"trace\""),
    );
    let mut process = m.daemon(&["-c", &config, "run"], "log");
    eventually("readiness", || {
        get(ports.admin, "/readyz").filter(|a| a.starts_with("HTTP/1.1 200"))
    });
    m.write("second.toml", "[gateway]\nstate = \"second\"\n");
    m.run_with(&["-c", "second.toml", "join", "gw2"], &token).ok();
    let again = m.run_with(&["-c", "second.toml", "join", "gw3", "--state", "third"], &token);
    assert!(again.code == 1, "a token is good once: {again:?}");
    process.signal("TERM");
    process.wait();
    let log = std::fs::read_to_string(m.path("log")).unwrap();
    assert!(log.contains("TRACE"), "the finest level is on");
    let secret = token.trim().trim_start_matches("hawser-gateway-token:");
    assert!(!log.contains(secret) && !again.err.contains(secret));
    for file in [
        "gateway/node.key",
        "gateway/issuer.key",
        "hub/hub.key",
        "second/node.key",
    ] {
        let key = std::fs::read_to_string(m.path(file)).unwrap();
        assert!(!log.contains(key.lines().nth(1).unwrap()), "{file} is in the log");
    }
}

#[allow(clippy::unwrap_used)]
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
