//! Clients that know no HTTP proxy, browsers that are told of it by a file, and what is written down of each call.

use std::time::Duration;

use hawser_testkit::{
    Host, Process,
    curl::Curl,
    gate,
    origin::HttpOrigin,
    wait,
    world::{Service, Spec},
};
use serde_json::Value;

const WEB: u16 = 8080;
const RAW: u16 = 8081;
/// curl could not be connected by its proxy.
const PROXY_FAILED: i32 = 97;

fn spec() -> Spec {
    Spec::new([Service::http("web", WEB), Service::tcp("raw", RAW)])
}

#[test]
fn socks_clients_reach_services_by_name() {
    if !gate::networks("SOCKS at the web proxy") {
        return;
    }
    let world = spec().start().unwrap();
    let _origins =
        [WEB, RAW].map(|port| [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, port).unwrap()));
    for way in world.ways() {
        let by_socks = |url: &str| {
            let proxy = way.proxy().to_string();
            Curl::new(way.client(), url).args(["--socks5-hostname".to_owned(), proxy])
        };
        let greeting = format!("hello from {}", way.server().name());
        // HTTP: the gateway reads along, as it would without SOCKS; bytes: it does not.
        let web = by_socks(&way.url("web", "/")).expect(200).unwrap();
        assert!(web.text().starts_with(&greeting), "{}", web.text());
        let raw = by_socks(&way.url("raw", "/")).expect(200).unwrap();
        assert!(raw.text().starts_with(&greeting), "{}", raw.text());
        for refused in [
            format!("http://{}/", way.server().at(WEB)),
            "http://example.org/".into(),
            way.url("nothing", "/"),
        ] {
            let answer = by_socks(&refused).call().unwrap();
            assert_eq!(answer.exit, PROXY_FAILED, "{refused}: {}", answer.error);
        }
    }
}

#[test]
fn a_browser_is_told_what_the_proxy_is_for() {
    let what = "a browser behind /proxy.pac";
    if !(gate::networks(what) && gate::programs(what, &["chromium"])) {
        return;
    }
    let world = spec().start().unwrap();
    let way = &world.ways()[0];
    let _origin = HttpOrigin::start(way.server(), WEB).unwrap();
    // A page of the client's own network: to it the browser goes by itself.
    let near = HttpOrigin::start(way.client(), WEB).unwrap();
    let file = format!("http://{}/proxy.pac", way.proxy());
    let answer = Curl::new(way.client(), &file).expect(200).unwrap();
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-ns-proxy-autoconfig")
    );
    assert!(
        answer.text().contains(&format!("PROXY {}", way.proxy())),
        "{}",
        answer.text()
    );

    let shown = |name: &str, more: &[&str], url: &str| browse(way.client(), world.dir(), name, more, url);
    let pac = format!("--proxy-pac-url={file}");
    let far = shown("far", &[&pac], &way.url("web", "/"));
    assert!(
        far.contains(&format!("hello from {}", way.server().name())),
        "{far}"
    );
    let own = shown("near", &[&pac], &format!("http://{}/", near.address()));
    assert!(
        own.contains(&format!("hello from {}", way.client().name())),
        "{own}"
    );
    let without = shown("without", &[], &way.url("web", "/"));
    assert!(!without.contains("hello from"), "control: {without}");
}

/// What a browser on a host shows of a page.
pub(crate) fn browse(host: &Host, dir: &std::path::Path, name: &str, more: &[&str], url: &str) -> String {
    let profile = format!("--user-data-dir={}", dir.join(name).display());
    let fixed = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--dump-dom",
        &profile,
    ];
    let words: Vec<&str> = fixed.iter().chain(more).copied().chain([url]).collect();
    let log = dir.join(format!("{name}.log"));
    let mut browser = Process::start(host, "chromium", &words, &log).unwrap();
    browser.wait_end(Duration::from_secs(180)).unwrap();
    browser.log()
}

#[test]
fn both_gateways_write_down_the_same_call() {
    if !gate::networks("access logs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let line = format!("access_log = \"{}\"\n", log.display());
    let world = spec().gateway_lines(&line).start().unwrap();
    let way = &world.ways()[0];
    let _origin = HttpOrigin::start(way.server(), WEB).unwrap();
    way.curl("web", "/bytes/1000?token=geheim").expect(200).unwrap();
    way.curl("web", "/status/404").expect(404).unwrap();
    let of = |calls: &[Value], target: &str| -> Vec<Value> {
        let of_target = calls
            .iter()
            .filter(|c| c["target"].as_str().unwrap().ends_with(target));
        of_target.cloned().collect()
    };
    let calls = wait::until(wait::SOON, "two views of each call", || {
        let text = std::fs::read_to_string(&log)?;
        // The last line may be on its way still.
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let calls: Vec<Value> = whole
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let all = ["/bytes/1000", "/status/404"]
            .iter()
            .all(|t| of(&calls, t).len() == 2);
        Ok(all.then_some(calls))
    })
    .unwrap();
    for (target, status, bytes) in [("/bytes/1000", 200, 1000), ("/status/404", 404, 0)] {
        let mut both = of(&calls, target);
        both.sort_by_key(|c| c["side"].as_str().unwrap().to_owned());
        let [client, export] = &both[..] else {
            panic!("{both:?}")
        };
        assert_eq!(
            (&client["side"], &export["side"]),
            (&"client".into(), &"export".into())
        );
        assert_eq!(client["request"], export["request"], "the same call");
        assert!(
            client["from"]
                .as_str()
                .unwrap()
                .starts_with(&way.client().address().to_string()),
            "{client}"
        );
        assert_eq!(export["from"], "spiffe://acme/gateway/gw1");
        for view in [client, export] {
            assert_eq!(view["status"], status, "{view}");
            assert!(view["bytes"].as_u64().unwrap() >= bytes, "{view}");
            assert_eq!(view["outcome"], "complete");
        }
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("geheim"), "no queries");
}
