//! The broker: an event of an application behind a firewall on the right user's right devices, and on nobody else's.

use anyhow::{Context, Result, ensure};
use hawser_testkit::{
    memory,
    office::{CONTROL, Device, Listening, Office},
};

use crate::{claims::Claims, need};

const HTML: &str =
    "<h1>Minutes</h1><p>The <b>budget</b> is settled: MIN-4711-KQ.</p><script>alert('not here')</script>";
const EVENT: [(&str, &str); 5] = [
    ("id", "minutes-1"),
    ("source", "/minutes"),
    ("type", "example.minutes"),
    ("subject", "Minutes of Monday"),
    ("recipient", "user:alice"),
];

/// What runs while the visitor tries it.
pub(crate) struct Delivery {
    office: Office,
    _listening: [Listening; 2],
}

/// Builds it and proves its claims; nothing without root.
pub(crate) fn show(claims: &mut Claims) -> Result<Option<Delivery>> {
    claims
        .section("The broker: an event reaches the right person's right device, and nobody else opens it")?;
    if !rustix::process::geteuid().is_root() {
        claims.note("devices on a network of their own need root (namespaces): sudo make demo");
        return Ok(None);
    }
    need(&["ip", "curl"])?;
    let mut office = Office::start().context("the setup")?;
    office.user("alice")?;
    office.user("bob")?;
    let token = office.application("minutes")?;
    let rich = office.new_device("laptop");
    rich.enrol(
        &office.link("alice")?,
        &["--accept", "text/html, text/plain;q=0.5"],
    )?;
    let old = office.device("alice", "pager")?;
    let bobs = office.device("bob", "bobs")?;
    let mut listening = [&rich, &old].map(|device| device.listen(&[]));
    let [Ok(laptop), Ok(pager)] = &mut listening else {
        anyhow::bail!("a device does not listen")
    };
    println!(
        "  acme   applications publish at its gateway {}; alice's laptop shows HTML, her pager plain text",
        office.site().gateways[0].address()
    );

    let mut delivery = String::new();
    claims.claim("an application publishes one event to alice", || {
        let answer = office.publish(&token, &EVENT, "text/html", HTML.as_bytes())?;
        ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
        delivery = answer.json()?["delivery"].as_str().unwrap_or_default().to_owned();
        Ok(vec![format!(
            "curl -H 'ce-recipient: user:alice' -H 'Content-Type: text/html' -d '{HTML}' .../v1/events: 202"
        )])
    })?;
    claims.claim(
        "it arrives at her laptop as rich text, without the script",
        || {
            let shown = laptop.event("minutes-1")?;
            let body = shown["body"].as_str().unwrap_or_default().to_owned();
            ensure!(shown["variant"] == "html" && !body.contains("script"), "{shown}");
            Ok(vec![body])
        },
    )?;
    claims.claim(
        "and at her pager as plain text, which the application need not know",
        || {
            let shown = pager.event("minutes-1")?;
            let body = shown["body"].as_str().unwrap_or_default().to_owned();
            ensure!(body.contains("budget") && !body.contains('<'), "{shown}");
            Ok(vec![body])
        },
    )?;
    claims.claim(
        "the application reads that both devices opened it, by their signatures",
        || {
            let told = office.delivered(&token, &delivery, &["acked", "opened"])?;
            let rows = told["recipients"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            ensure!(
                rows.len() == 2 && rows.iter().all(|r| r["receipt"].is_string()),
                "{told}"
            );
            let line = |r: &serde_json::Value| format!("{} {}: {}", r["user"], r["name"], r["state"]);
            Ok(rows.iter().map(line).collect())
        },
    )?;
    refusals(&mut office, claims, &token, &rich, &bobs)?;
    let [Ok(laptop), Ok(pager)] = listening else {
        anyhow::bail!("a device does not listen")
    };
    Ok(Some(Delivery {
        office,
        _listening: [laptop, pager],
    }))
}

fn refusals(
    office: &mut Office,
    claims: &mut Claims,
    token: &str,
    rich: &Device,
    bobs: &Device,
) -> Result<()> {
    claims.claim(
        "confidential content is fetched by alice's device, and refused to bob's",
        || {
            let event = [
                ("id", "offer-1"),
                ("source", "/offers"),
                ("type", "example.offer"),
                ("recipient", "user:alice"),
                ("delivery", "fetch"),
            ];
            let fetcher = office.device("alice", "phone")?;
            let mut listening = fetcher.listen(&[])?;
            let answer = office.publish(token, &event, "text/plain", b"the offer is seven million")?;
            ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
            let notice = listening.event("offer-1")?;
            let item = notice["item"].as_str().context("no item in the notice")?;
            let (out, error, ok) = bobs.try_run(&["fetch", item], "")?;
            ensure!(!ok && !out.contains("million"), "bob got it: {out}");
            let mut said = vec![
                format!("bob$ hawser device fetch {item}"),
                error.trim().to_owned(),
            ];
            let fetched = fetcher.run(&["fetch", item], "")?;
            ensure!(fetched.contains("seven million"), "{fetched}");
            said.push(format!("alice$ hawser device fetch {item}"));
            said.push(fetched);
            Ok(said)
        },
    )?;
    let marker = "MIN-4711-KQ";
    let hub = office.hub()?.process.id();
    claims.claim("none of it is in the hub's memory", || {
        let seen = memory::search(hub, marker.as_bytes())?;
        ensure!(seen.hits == 0 && seen.read > 1 << 20, "{seen:?}");
        Ok(vec![format!("{} MiB searched for {marker:?}", seen.read >> 20)])
    })?;
    claims.claim(
        "a copy of her laptop's keys opens nothing without its passphrase",
        || {
            let mut copy = rich.clone();
            copy.passphrase = office.path("guess");
            std::fs::write(&copy.passphrase, "a guess")?;
            let (_, error, ok) = copy.try_run(&["listen", "--count", "1"], "")?;
            ensure!(!ok, "it opened");
            Ok(vec![error.trim().to_owned()])
        },
    )
}

impl Delivery {
    /// What to try.
    pub(crate) fn invite(&self) -> Result<()> {
        let office = &self.office;
        let namespace = office.outside().namespace().unwrap_or_default();
        println!(
            "\nTry the broker: the device page is at this link, for a browser in the namespace {namespace}"
        );
        println!(
            "that trusts {} ({CONTROL}):",
            office.authority.certificate().display()
        );
        println!("  {}", office.link("bob")?);
        Ok(())
    }
}
