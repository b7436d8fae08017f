use super::*;

fn check(text: &str) -> Result<GatewayPlan, String> {
    toml::from_str::<GatewayConfig>(text)
        .map_err(|e| e.to_string())?
        .check()
        .map_err(|e| e.to_string())
}

#[test]
fn an_empty_table_is_a_gateway_that_does_nothing() {
    let plan = check("").unwrap();
    assert_eq!(plan.carriers, [CarrierPlan::Direct]);
    assert_eq!(plan.front.suffix.to_string(), "hawser");
    assert!(plan.front.proxy.is_empty() && plan.exports.is_empty());
    assert_eq!(plan.certificate_life, Duration::from_secs(86_400));
}

#[test]
fn a_full_one_says_what_would_run() {
    let plan = check(
        r#"
        state = "/tmp/gw"
        forwarded = "address"
        [[carrier]]
        kind = "connect"
        proxy = "proxy.acme.example:3128"
        user = "gw"
        password_file = "/etc/hawser/proxy-password"
        [[carrier]]
        kind = "direct"
        [proxy]
        listen = ["127.0.0.1:3128", "[::1]:3128"]
        [[import]]
        service = "db.beta"
        listen = "0.0.0.0:5433"
        [[export]]
        name = "orders"
        http = "http://127.0.0.1:8080"
        version = "2"
        host = "origin"
        health = { path = "/healthz", interval = "1s" }
        allow = [{ domains = ["beta"], methods = ["GET"], paths = ["/v1/**"] }]
        [[export]]
        name = "db"
        tcp = "db.internal:5432"
        "#,
    )
    .unwrap();
    let text = plan.to_string();
    for part in [
        "through the proxy proxy.acme.example:3128 as gw",
        "proxy on [::1]:3128 for http://SERVICE.DOMAIN.hawser/, clients 127.0.0.0/8, ::1/128",
        "import db.beta on 0.0.0.0:5433",
        "export orders at http://127.0.0.1:8080",
        "allow beta: GET on /v1/**",
        "export db at tcp db.internal:5432",
        "note: export db: no `allow` rule",
        "note: import db.beta: 0.0.0.0:5433 is reachable by other hosts",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert_eq!(plan.exports[0].health.as_ref().unwrap().fall, 2);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_keys() {
    let e = check(
        r#"
        suffix = "Hawser"
        certificate_life = "1s"
        [proxy]
        listen = ["localhost:3128"]
        [[import]]
        service = "db"
        listen = "127.0.0.1:5433"
        [[export]]
        name = "orders"
        http = "http://127.0.0.1:8080/base"
        allow = [{ domains = ["*"], paths = ["v1"] }]
        [[export]]
        name = "db"
        tcp = "127.0.0.1"
        health = { path = "/" }
        [[export]]
        name = "both"
        tcp = "a:1"
        http = "http://a"
        "#,
    )
    .unwrap_err();
    for part in [
        "gateway.suffix: ",
        "gateway.certificate_life: 1s is out of range",
        "gateway.proxy.listen: \"localhost:3128\"",
        "gateway.import[0].service: ",
        "gateway.export[0].http: ",
        "gateway.export[0].allow: ",
        "gateway.export[1].tcp: ",
        "gateway.export[1].health: ",
        "gateway.export[2]: expected one of",
    ] {
        assert!(e.contains(part), "{part:?} is missing in:\n{e}");
    }
}

#[test]
fn unknown_keys_are_refused() {
    for text in [
        "sufix = \"x\"",
        "[proxy]\nlisten=[]\nclient=[]",
        "[[carrier]]\nkind=\"direct\"\nproxy=\"a:1\"",
    ] {
        assert!(check(text).unwrap_err().contains("unknown field"), "{text}");
    }
}

#[test]
fn one_address_is_for_one_listener_and_one_name_for_one_export() {
    let twice = "[proxy]\nlisten=[\"127.0.0.1:1\"]\n[[import]]\nservice=\"a.b\"\nlisten=\"127.0.0.1:1\"";
    assert!(check(twice).unwrap_err().contains("used twice"));
    let twice = "[[export]]\nname=\"a\"\ntcp=\"a:1\"\n[[export]]\nname=\"a\"\ntcp=\"a:2\"";
    assert!(check(twice).unwrap_err().contains("exported twice"));
}

#[test]
fn every_key_is_documented() {
    let schema = serde_json::to_value(schemars::schema_for!(GatewayConfig)).unwrap();
    fn undocumented(at: &str, v: &serde_json::Value, found: &mut Vec<String>) {
        let Some(object) = v.as_object() else { return };
        for (name, p) in object
            .get("properties")
            .and_then(|p| p.as_object())
            .into_iter()
            .flatten()
        {
            if p.get("description").is_none() && p.get("const").is_none() {
                found.push(format!("{at}.{name}"));
            }
        }
        for (name, d) in object
            .get("$defs")
            .and_then(|d| d.as_object())
            .into_iter()
            .flatten()
        {
            undocumented(name, d, found);
        }
    }
    let mut found = Vec::new();
    undocumented("gateway", &schema, &mut found);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_is_published_names_an_export_its_visitors_rights_and_their_login() {
    let web = r#"
        [[export]]
        name = "wiki"
        http = "http://127.0.0.1:8080"
        [[export]]
        name = "db"
        tcp = "127.0.0.1:5432"
        "#;
    let publish = |name: &str, more: &str| {
        format!("[[publish]]\nname = {name:?}\ncertificate = \"c\"\nkey = \"k\"\n{more}\n")
    };
    let good = publish(
        "wiki.acme.example",
        "export = \"wiki\"\nport = 8443\nallow = [{ methods = [\"GET\"], paths = [\"/a/**\"] }]\n\
         login = { kind = \"basic\", users = [\"ada\"] }",
    ) + &publish(
        "open.acme.example",
        "export = \"wiki\"\nlogin = { kind = \"none\" }",
    );
    let plan = check(&format!("{web}{good}")).unwrap();
    let text = plan.to_string();
    for part in [
        "publish https://wiki.acme.example:8443/ for the export wiki, login by password for ada",
        "    allow GET on /a/**",
        "publish https://open.acme.example/ for the export wiki, without a login",
        "note: publish open.acme.example: no `allow` rule",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let none = "login = { kind = \"none\" }";
    for (table, said) in [
        (publish("wiki.acme.example", "export = \"wiki\""), "login"),
        (
            publish("wiki", &format!("export = \"wiki\"\n{none}")),
            "publish[0].name",
        ),
        (
            publish("a.example", &format!("export = \"other\"\n{none}")),
            "there is no [[gateway.export]] of the name other",
        ),
        (
            publish("a.example", &format!("export = \"db\"\n{none}")),
            "db is no web service",
        ),
        (
            publish(
                "a.example",
                &format!("export = \"wiki\"\nallow = [{{ paths = [\"a\"] }}]\n{none}"),
            ),
            "publish[0].allow",
        ),
        (
            publish(
                "a.example",
                "export = \"wiki\"\nlogin = { kind = \"basic\", realm = 'a\"b' }",
            ),
            "publish[0].login.realm",
        ),
        (
            publish("a.example", &format!("export = \"wiki\"\n{none}"))
                + &publish("a.example", &format!("export = \"wiki\"\n{none}")),
            "a.example is published twice",
        ),
    ] {
        let error = check(&format!("{web}{table}")).unwrap_err();
        assert!(error.contains(said), "{said:?} in {error}");
    }
}

#[test]
fn traces_go_to_a_collector_by_its_url() {
    let plan = |lines: &str| check(&format!("[traces]\n{lines}")).map(|p| p.traces.unwrap());
    let all =
        plan("endpoint = \"https://collector:4318\"\nca = \"/ca.pem\"\nheaders_file = \"/h\"\nsample = 0.25")
            .unwrap();
    assert_eq!(
        (all.path.as_str(), all.sample.0, all.queue),
        ("/v1/traces", 0.25, 4096)
    );
    let other = plan("endpoint = \"http://collector/otlp?tenant=1\"").unwrap();
    assert_eq!(other.path.as_str(), "/otlp?tenant=1");
    for (lines, part) in [
        ("", "missing field `endpoint`"),
        ("endpoint = \"collector:4318\"", "gateway.traces.endpoint: "),
        ("endpoint = \"ftp://collector\"", "gateway.traces.endpoint: "),
        ("endpoint = \"http://a:b@collector\"", "headers_file"),
        ("endpoint = \"http://c\"\nca = \"/ca.pem\"", "gateway.traces.ca: "),
        ("endpoint = \"http://c\"\nsample = 1.5", "gateway.traces.sample: "),
        ("endpoint = \"http://c\"\nsample = nan", "gateway.traces.sample: "),
        ("endpoint = \"http://c\"\nqueue = 0", "gateway.traces.queue: "),
        (
            "endpoint = \"http://c\"\ndelay = \"1h\"",
            "gateway.traces.delay: ",
        ),
        ("endpoint = \"http://c\"\ntoken = \"x\"", "unknown field"),
    ] {
        let complaint = plan(lines).unwrap_err();
        assert!(complaint.contains(part), "{lines}: {complaint}");
    }
    let warned = |lines: &str| {
        check(&format!("[traces]\nheaders_file = \"/h\"\n{lines}"))
            .unwrap()
            .warnings()
    };
    assert_eq!(warned("endpoint = \"http://collector\"").len(), 1);
    assert!(warned("endpoint = \"http://127.0.0.1:4318\"").is_empty());
}

#[test]
fn certificates_come_from_files_or_from_an_authority_that_is_named() {
    let name = |lines: &str| {
        format!(
            "[[export]]\nname = \"wiki\"\nhttp = \"http://a\"\n[[publish]]\nname = \"wiki.acme.example\"\nexport = \"wiki\"\n\
             allow = [{{}}]\nlogin = {{ kind = \"none\" }}\n{lines}\n"
        )
    };
    let acme = |lines: &str, dns: &str| {
        format!(
            "{}[acme]\ndirectory = \"https://ca.example/dir\"\nterms_agreed = true\n{lines}\n[acme.dns]\n{dns}",
            name("acme = true")
        )
    };
    let update = "method = \"update\"\nserver = \"192.0.2.53:53\"\nkey_name = \"hawser\"\nkey_file = \"/k\"";
    let plan = check(&acme("", update)).unwrap();
    assert_eq!(plan.publish[0].certificate, CertificatePlan::Acme);
    assert!(
        plan.to_string()
            .contains("certificate from https://ca.example/dir")
    );
    assert_eq!(plan.acme.unwrap().carriers, [CarrierPlan::Direct]);
    let files = check(&name("certificate = \"/c\"\nkey = \"/k\"")).unwrap();
    assert!(matches!(
        files.publish[0].certificate,
        CertificatePlan::Files { .. }
    ));
    for (text, part) in [
        (name(""), "gateway.publish[0]: has no certificate"),
        (name("key = \"/k\""), "certificate and key go together"),
        (
            name("acme = true"),
            "gateway.publish[0].acme: needs the table [gateway.acme]",
        ),
        (
            name("acme = true\nkey = \"/k\"\ncertificate = \"/c\""),
            "write the one or the others",
        ),
        (acme("contact = [\"ops@acme.example\"]", update), "mailto:"),
        (
            acme("resolvers = [\"dns.example\"]", update),
            "gateway.acme.resolvers: ",
        ),
        (acme("propagation = \"2h\"", update), "gateway.acme.propagation: "),
        (
            acme("", &update.replace("192.0.2.53:53", "192.0.2.53")),
            "gateway.acme.dns.server: ",
        ),
        (
            acme("", &update.replace("hawser", "a..b")),
            "gateway.acme.dns.key_name: ",
        ),
        (
            acme("", "method = \"command\"\nprogram = \"hook\""),
            "gateway.acme.dns.program: ",
        ),
        (acme("", "method = \"http\""), "unknown variant"),
        (
            acme("", update).replace("https://ca", "http://ca"),
            "gateway.acme.directory: ",
        ),
        (
            acme("", update).replace("= true\n\n[acme.dns]", "= false\n[acme.dns]"),
            "gateway.acme.terms_agreed: ",
        ),
    ] {
        let complaint = check(&text).unwrap_err();
        assert!(complaint.contains(part), "{text}: {complaint}");
    }
}
