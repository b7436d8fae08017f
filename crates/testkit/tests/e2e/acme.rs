//! Certificates of published names by ACME, with a real authority and a real DNS server, both in the domain, whose firewall lets nothing out but to the
//! hub.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hawser_testkit::{
    authority::Authority,
    ca::{CUSTOMER, Dns, KEY, KEY_NAME, Pebble},
    curl::Curl,
    gate,
    office::{CONTROL, Office},
    origin::HttpOrigin,
    publishing::Publishing,
    wait,
};
use serde_json::Value;

const OK: &str = r#"outcome="ok""#;
const FAILED: &str = r#"outcome="failed""#;
const ORDERS: &str = "hawser_gateway_acme_orders_total";
/// An order on a busy machine, with a failed attempt or two before it, since the authority rejects good nonces.
const ORDER: Duration = Duration::from_secs(120);

struct Ground {
    // Ends first: it speaks to the others.
    office: Office,
    pebble: Pebble,
    dns: Dns,
    key_file: PathBuf,
}

/// `[gateway.acme]`, up to the lines that say how records are set.
fn table(pebble: &Pebble, dns: &Dns, authority: &Authority) -> String {
    format!(
        "[gateway.acme]\ndirectory = \"{}\"\nterms_agreed = true\ncontact = [\"mailto:ops@acme.example\"]\nca = \"{}\"\n\
         resolvers = [\"{}\"]\n\n[gateway.acme.dns]\n",
        pebble.directory(),
        authority.certificate().display(),
        dns.at(),
    )
}

fn by_update(dns: &Dns, key_file: &Path) -> String {
    format!(
        "method = \"update\"\nserver = \"{}\"\nkey_name = \"{KEY_NAME}\"\nkey_file = \"{}\"\n",
        dns.at(),
        key_file.display()
    )
}

fn write_key(file: &Path, key: &str) {
    fs::write(file, key).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn possible() -> bool {
    let what = "certificates by ACME";
    gate::networks(what) && gate::programs(what, &["pebble", "knotd", "knotc"])
}

impl Ground {
    /// The gateway has a certificate from files at first.
    fn new(seconds: u64, records: &str) -> Self {
        let office = Office::start().unwrap();
        let dns = Dns::start(&office.site().app, records, office.dir()).unwrap();
        let pebble =
            Pebble::start(&office.site().app, &dns, &office.authority, seconds, office.dir()).unwrap();
        let key_file = office.path("tsig.key");
        let ground = Self {
            office,
            pebble,
            dns,
            key_file,
        };
        ground.set_key(KEY);
        ground
    }

    fn set_key(&self, key: &str) {
        write_key(&self.key_file, key);
    }

    /// Has the gateway take its certificate from the authority.
    fn switch(&mut self, method: &str) {
        let before = fs::read_to_string(self.office.path("acme.toml")).unwrap();
        let files = |l: &&str| !l.starts_with("certificate =") && !l.starts_with("key =");
        let kept: Vec<_> = before.lines().filter(files).collect();
        let config = format!(
            "{}\n",
            kept.join("\n")
                .replace("[gateway.broker]", "[gateway.broker]\nacme = true")
        );
        let config = format!(
            "{config}\n{}{method}",
            table(&self.pebble, &self.dns, &self.office.authority)
        );
        self.office.gateway().unwrap().reload(&config).unwrap();
    }

    fn reload(&mut self) {
        let config = fs::read_to_string(self.office.path("acme.toml")).unwrap();
        self.office.gateway().unwrap().reload(&config).unwrap();
    }

    /// Whether a browser that trusts the authority's root would take the page.
    fn serves(&self) -> bool {
        let hub = self.office.sites.hub_at();
        let page = Curl::new(
            self.office.outside(),
            format!("https://{CONTROL}:{}/", hub.port()),
        );
        let roots = self.pebble.roots().display().to_string();
        page.args(["--cacert", &roots])
            .expect(200)
            .is_ok_and(|page| page.text().contains("<html"))
    }

    /// What the gateway's status says of the certificate.
    fn certificate(&mut self) -> Value {
        let status = self.office.gateway().unwrap().ask("/status").unwrap();
        status["certificates"][0].clone()
    }

    fn orders(&mut self, outcome: &str) -> f64 {
        let metrics = self.office.gateway().unwrap().metrics().unwrap();
        metrics.sum(ORDERS, &[outcome])
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&mut Self) -> bool) {
        let waited = wait::for_condition(ORDER, what, || holds(self));
        if let Err(error) = waited {
            panic!("{error:#}\n{}\n{}", self.office.logs(), self.pebble.log());
        }
    }

    fn state(&self, file: &str) -> PathBuf {
        self.office.path("gw1").join("acme").join(file)
    }
}

#[test]
fn a_certificate_is_got_and_renewed_by_dynamic_update_and_the_old_one_serves_while_that_fails() {
    if !possible() {
        return;
    }
    let mut ground = Ground::new(120, "");
    let by_update = by_update(&ground.dns, &ground.key_file);
    ground.switch(&by_update);
    ground.wait("the page under the authority's certificate", |g| g.serves());
    let first = ground.certificate();
    assert_eq!(first["source"], "acme", "{first}");
    let account = fs::read(ground.state("account.json")).unwrap();
    assert!(!ground.dns.zone().unwrap().contains("TXT"), "the record is away");

    // A restart needs neither an account nor an order.
    ground.office.start_gateway().unwrap();
    ground.wait("the page after a restart", |g| g.serves());
    assert_eq!(ground.certificate()["ends"], first["ends"]);
    assert_eq!(account, fs::read(ground.state("account.json")).unwrap());
    assert_eq!(ground.orders(OK) + ground.orders(FAILED), 0.0);

    // A key that the server does not know: the renewal fails, is tried again, and the page stays.
    ground.set_key("bm90IHRoaXMgb25lLCBidXQgc29tZXRoaW5nIGVsc2U=");
    ground.wait("the wrong key to be told of", |g| {
        g.certificate()["error"]
            .as_str()
            .is_some_and(|e| e.contains("BADSIG") && e.contains("key_file"))
    });
    assert!(ground.serves(), "{}", ground.office.logs());
    ground.wait("another attempt", |g| g.orders(FAILED) >= 2.0);
    assert_eq!(ground.orders(OK), 0.0);

    // It is put right. A record of an earlier attempt, in a zone that is out of reach now, keeps nothing up.
    ground.set_key(KEY);
    let gone = r#"{"name":"_acme-challenge.gone.example.","value":"x"}"#;
    write_key(&ground.state("record.json"), gone);
    ground.reload();
    ground.wait("the renewed certificate", |g| {
        let now = g.certificate();
        now["ends"].as_u64() > first["ends"].as_u64() && now["error"].is_null()
    });
    ground.wait("the page under the renewed certificate", |g| g.serves());
    assert_eq!(account, fs::read(ground.state("account.json")).unwrap());
    assert!(ground.office.logs().contains("stays in the DNS"));
    let expiry = "hawser_gateway_public_certificate_expiry_seconds";
    ground.wait("the metric", |g| {
        let metrics = g.office.gateway().unwrap().metrics().unwrap();
        metrics.sum(expiry, &[CONTROL]) > first["ends"].as_f64().unwrap_or(f64::MAX)
    });
}

#[test]
fn a_program_sets_the_record_where_an_alias_leads_and_a_sudden_end_does_no_harm() {
    if !possible() {
        return;
    }
    let alias = "_acme-challenge.devices CNAME devices.proofs";
    let mut ground = Ground::new(7 * 86_400, alias);
    let (hold, called) = (ground.office.path("hold"), ground.office.path("called"));
    fs::write(&hold, "").unwrap();
    let program = ground.office.path("hook");
    let script = format!(
        "{}echo \"$@\" >> {}\nwhile [ -e {} ]; do sleep 0.1; done\n",
        ground.dns.script(),
        called.display(),
        hold.display()
    );
    write_script(&program, &script);
    ground.switch(&format!(
        "method = \"command\"\nprogram = \"{}\"\n",
        program.display()
    ));
    ground.wait("the program to be called", |_| called.exists());
    assert!(ground.state("record.json").exists());
    assert!(ground.dns.zone().unwrap().contains("TXT"));
    ground.office.gateway().unwrap().process.kill().unwrap();
    fs::remove_file(&hold).unwrap();
    let said = fs::read_to_string(&called).unwrap();
    assert!(said.starts_with("add devices.proofs.acme.example "), "{said}");

    ground.office.start_gateway().unwrap();
    ground.wait("the page under the authority's certificate", |g| g.serves());
    assert!(!ground.dns.zone().unwrap().contains("TXT"), "nothing is left");
    assert!(!ground.state("record.json").exists());
    for file in fs::read_dir(ground.state("")).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}

/// A name in the DNS server's zone.
const SHOP: &str = "shop.acme.example";
const ORIGIN: u16 = 8080;

#[test]
fn a_published_service_gets_its_certificate_and_doctor_says_who_else_could() {
    if !possible() {
        return;
    }
    let mut servers = None;
    let public = Publishing::start(&[SHOP], |sites, authority, dir| {
        let dns = Dns::start(&sites.domains[0].app, "", dir)?;
        let pebble = Pebble::start_for(&sites.domains[0].app, &dns, authority, 7 * 86_400, dir, true)?;
        let (key_file, customer) = (dir.join("tsig.key"), dir.join("customer.key"));
        write_key(&key_file, KEY);
        write_key(&customer, CUSTOMER.1);
        let tables = format!(
            "[[gateway.export]]\nname = \"shop\"\nhttp = \"http://{}\"\n\n[[gateway.publish]]\nname = \"{SHOP}\"\nexport = \"shop\"\n\
             acme = true\nport = {}\nallow = [{{}}]\nlogin = {{ kind = \"none\" }}\n\n{}{}\n[gateway.acme.external_account]\nid = \"{}\"\nkey_file = \"{}\"\n",
            sites.domains[0].app.at(ORIGIN),
            sites.hub_at().port(),
            table(&pebble, &dns, authority),
            by_update(&dns, &key_file),
            CUSTOMER.0,
            customer.display(),
        );
        servers = Some((dns, pebble));
        Ok(tables)
    })
    .unwrap();
    let (dns, pebble) = servers.unwrap();
    let _origin = HttpOrigin::start(&public.site().app, ORIGIN).unwrap();
    let hub = public.sites.hub_at();
    let page = || {
        Curl::new(&public.sites.net, public.url(SHOP, "/echo"))
            .trusting(pebble.roots())
            .resolve(SHOP, hub)
            .expect(200)
    };
    let waited = wait::for_condition(ORDER, "the page under the authority's certificate", || {
        page().is_ok()
    });
    if let Err(error) = waited {
        let log = fs::read_to_string(public.path("acme.log")).unwrap_or_default();
        panic!("{error:#}\n{log}\n{}", pebble.log());
    }
    assert!(!dns.zone().unwrap().contains("TXT"), "the record is away");

    let doctor = |check: &str| {
        let row = public.gateway.doctor(check).unwrap();
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        (text("verdict"), text("found"), text("advice"))
    };
    assert_eq!(doctor(&format!("certificate {SHOP}")).0, "ok");
    let (verdict, account, _) = doctor("acme");
    assert_eq!(verdict, "ok", "{account}");
    let (_, account) = account.split_once(" account ").unwrap();

    let leads = || doctor(&format!("dns {SHOP}"));
    let (verdict, _, advice) = leads();
    assert_eq!(verdict, "fail");
    assert!(advice.contains(&hub.ip().to_string()), "{advice}");
    dns.set(SHOP, "A", &["192.0.2.7"]).unwrap();
    assert_eq!(leads().0, "warn");
    dns.set(SHOP, "A", &[&hub.ip().to_string()]).unwrap();
    assert_eq!(leads().0, "ok");

    let caa = |values: &[&str], at: &str| {
        dns.set(at, "CAA", values).unwrap();
        doctor(&format!("caa {SHOP}"))
    };
    let (verdict, found, advice) = caa(&[], SHOP);
    assert_eq!(verdict, "warn", "{found}");
    assert!(advice.contains(account), "the record to set: {advice}");
    let bound =
        |account: &str| format!("0 issue \"ca.example; accounturi={account}; validationmethods=dns-01\"");
    let any_method = format!("0 issue \"ca.example; accounturi={account}\"");
    for (value, expected, part) in [
        (&bound(account)[..], "ok", "only this domain"),
        (&any_method, "warn", "validationmethods=dns-01"),
        (&bound("https://ca.example/another"), "fail", "lets"),
        ("0 issue \";\"", "fail", "lets"),
    ] {
        let (verdict, found, _) = caa(&[value], SHOP);
        assert_eq!(verdict, expected, "{value}: {found}");
        assert!(found.contains(part), "{value}: {found}");
    }
    // What stands above applies where the name itself has none.
    caa(&[], SHOP);
    let (verdict, found, _) = caa(&[&bound(account)], "acme.example");
    assert_eq!(verdict, "ok", "{found}");
}

fn write_script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}
