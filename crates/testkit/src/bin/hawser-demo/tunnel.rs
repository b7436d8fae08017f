//! The tunnel: two firewalled domains call each other through a hub that cannot read what they say.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hawser_testkit::{
    Daemon, Host,
    capture::Capture,
    hawser, memory,
    origin::{HttpOrigin, RawOrigin, raw::Manner},
    parties::orders::{self, Stack},
    world::{DOMAINS, PROXY_PORT, Service, Spec, Way, World},
};

use crate::{claims::Claims, need};

/// How long a connection is waited for that should not succeed, and for one that should.
const FOR_NOTHING: Duration = Duration::from_millis(500);
const FOR_CERTAIN: Duration = Duration::from_secs(20);

const WEB: &str = "hello";
const WEB_PORT: u16 = 8080;
const WEB_IMPORT: u16 = 9001;
const TCP_PORT: u16 = 8081;
const TCP_IMPORT: u16 = 9002;
const ORDERS: &str = "orders";
const ORDERS_PORT: u16 = 8082;
const ORDERS_IMPORT: u16 = 9003;
/// Where the client of the orders listens for their answers.
const LISTENER: u16 = 9100;

/// What runs while the visitor tries it.
pub(crate) struct Tunnel {
    world: World,
    _web: Vec<HttpOrigin>,
    _tcp: Vec<RawOrigin>,
}

/// Builds it and proves its claims.
pub(crate) fn show(claims: &mut Claims) -> Result<Tunnel> {
    need(&["ip", "curl", "setpriv", "soapcpp2", "gcc"])?;
    claims.section("The tunnel: two firewalled domains, a hub between them that is blind")?;
    let services = [
        Service::http(WEB, WEB_PORT).imported(WEB_IMPORT),
        Service::tcp("echo", TCP_PORT).imported(TCP_IMPORT),
        Service::http(ORDERS, ORDERS_PORT).imported(ORDERS_IMPORT),
    ];
    let world = Spec::new(services).start().context("the setup")?;
    let apps = || world.sites.domains.iter().map(|d| &d.app);
    let web = apps()
        .map(|h| HttpOrigin::start(h, WEB_PORT))
        .collect::<Result<_>>()?;
    let tcp = apps()
        .map(|h| RawOrigin::start(h, TCP_PORT, Manner::Echo))
        .collect::<Result<_>>()?;
    map(&world, claims);
    calls(&world, claims)?;
    calls_back(&world, claims)?;
    if world.sites.are_namespaces() {
        firewalls(&world, claims)?;
    } else {
        claims.note("firewalls and captures need root (network namespaces): sudo make demo");
    }
    blindness(&world, claims)?;
    keys(&world, claims)?;
    Ok(Tunnel {
        world,
        _web: web,
        _tcp: tcp,
    })
}

fn map(world: &World, claims: &Claims) {
    let hub = world.sites.hub_at();
    if world.sites.are_namespaces() {
        println!("  net    public network; the hub is at {hub}");
    } else {
        claims.note("not root: hub, domains and firewalls are only addresses of the loopback range here");
        println!("  net    the hub is at {hub}");
    }
    for site in &world.sites.domains {
        let guarded = if site.firewall.is_some() {
            "; may go out to the hub only, nobody comes in"
        } else {
            ""
        };
        println!(
            "  {}   {}  gateway {}, applications {}{guarded}",
            site.name,
            site.network,
            site.gateways[0].address(),
            site.app.address()
        );
    }
}

fn calls(world: &World, claims: &mut Claims) -> Result<()> {
    for way in world.ways() {
        let (from, to) = (DOMAINS[way.from], DOMAINS[way.to]);
        claims.claim(&format!("{from} calls a web service of {to}"), || {
            let answer = way.curl(WEB, "/").expect(200)?.text();
            ensure!(
                answer.contains(&format!("{to}-app")),
                "somebody else answered: {answer}"
            );
            let command = format!("curl --proxy http://{} {}", way.proxy(), way.url(WEB, "/"));
            Ok(vec![format!("{from}$ {command}"), answer])
        })?;
    }
    for way in world.ways() {
        let (from, to) = (DOMAINS[way.from], DOMAINS[way.to]);
        claims.claim(
            &format!("{from} uses a TCP service of {to}, at a plain local port"),
            || {
                let said = way.client().enter(|| echo(way.import(TCP_IMPORT)))??;
                Ok(vec![format!(
                    "connected to {}; it sent back: {said}",
                    way.import(TCP_IMPORT)
                )])
            },
        )?;
    }
    Ok(())
}

/// A SOAP client and a SOAP service as gSOAP generates them, unmodified: the answer comes later, to the client's own address.
fn calls_back(world: &World, claims: &mut Claims) -> Result<()> {
    let way = world.ways()[0];
    let (from, to) = (DOMAINS[way.from], DOMAINS[way.to]);
    let claim = format!("a service of {to} answers a client in {from} later, at the client's own address");
    claims.claim(&claim, || {
        let (origin, listener) = (way.server().at(ORDERS_PORT), way.client().at(LISTENER));
        let mut server = orders::server(Stack::Gsoap, way.server(), origin, None, world.dir())?;
        let service = format!("http://{}", way.import(ORDERS_IMPORT));
        let mut client = orders::client(Stack::Gsoap, way.client(), &service, listener, None, world.dir())?;
        client.tell("place soap11 bolt 40")?;
        let target = orders::answers_to("soap11", "bolt");
        let answer = client.wait_for("answer", |h| h.text("target") == target)?;
        let request = server.wait_for("request", |h| h.text("message_id") == answer.text("relates_to"))?;
        let own = format!("http://{listener}{target}");
        ensure!(
            answer.text("to") == own,
            "the client was called {}",
            answer.text("to")
        );
        let (seen, base) = (request.text("reply_to"), "/.hawser/cb/");
        ensure!(
            seen.contains(base) && !seen.contains(&listener.to_string()),
            "the service saw {seen}"
        );
        client.stop()?;
        server.stop()?;
        Ok(vec![
            format!("the client (gSOAP, WS-Addressing) names {own}"),
            format!(
                "the service is told      {}…",
                seen.chars().take(80).collect::<String>()
            ),
            format!(
                "it answers there; the client hears {:?}, which relates to its {}",
                answer.text("said"),
                answer.text("relates_to")
            ),
        ])
    })
}

fn echo(at: SocketAddr) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"a hawser is a thick rope")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = String::new();
    stream.read_to_string(&mut back)?;
    ensure!(back == "a hawser is a thick rope", "it sent back {back:?}");
    Ok(back)
}

fn firewalls(world: &World, claims: &mut Claims) -> Result<()> {
    for (i, site) in world.sites.domains.iter().enumerate() {
        let firewall = site.firewall.as_ref().context("no firewall")?;
        let doors = [site.gateways[0].at(PROXY_PORT), site.app.at(WEB_PORT)];
        let others = [
            &world.sites.net,
            &world.sites.hub,
            &world.sites.domains[1 - i].app,
        ];
        let tries = || {
            others
                .iter()
                .flat_map(|from| doors.iter().map(move |door| (from, *door)))
        };
        claims.claim(&format!("nobody connects into {}", site.name), || {
            let before = firewall.inbound_dropped()?;
            ensure!(
                before == 0,
                "{before} packets of inbound connections were dropped while the calls above were made"
            );
            for (from, door) in tries() {
                ensure!(
                    !from.connects(door, FOR_NOTHING)?,
                    "{} connected to {door}",
                    from.name()
                );
            }
            let dropped = firewall.inbound_dropped()?;
            // What comes from the other domain is already stopped there: it has no such way out.
            let reached = tries()
                .filter(|(from, _)| from.name() != others[2].name())
                .count();
            ensure!(
                dropped >= reached as u64,
                "the firewall dropped only {dropped} of {reached}"
            );
            firewall.off()?;
            let other = world.sites.domains[1 - i]
                .firewall
                .as_ref()
                .context("no firewall")?;
            other.off()?;
            let open = tries()
                .map(|(from, door)| from.connects(door, FOR_CERTAIN))
                .collect::<Result<Vec<_>>>();
            firewall.on()?;
            other.on()?;
            ensure!(
                open?.iter().all(|c| *c),
                "control: without the rules they should connect"
            );
            Ok(vec![
                format!(
                    "{} connections tried, none came in; the firewall dropped {dropped} packets",
                    tries().count()
                ),
                "control: with the rules off, each of them succeeds".to_owned(),
                "control: the calls above caused no inbound connection at all".to_owned(),
            ])
        })?;
    }
    Ok(())
}

fn blindness(world: &World, claims: &mut Claims) -> Result<()> {
    let marker = format!("secret-{}-{}", std::process::id(), "kittiwake");
    if world.sites.are_namespaces() {
        need(&["tcpdump"])?;
        claims.claim("the hub's interfaces carry no plaintext", || {
            let hub = Capture::start(&world.sites.hub, "any", world.dir())?;
            let client = Capture::start(&world.sites.domains[0].app, "any", world.dir())?;
            let bytes: usize = world
                .ways()
                .iter()
                .map(|way| say(way, &marker))
                .sum::<Result<usize>>()?;
            let (hub, client) = (hub.stop()?, client.stop()?);
            let (at_hub, at_client) = (hub.hits(marker.as_bytes()), client.hits(marker.as_bytes()));
            ensure!(
                at_client > 0,
                "control: the marker is not even on the client's own link"
            );
            ensure!(
                hub.tcp_bytes() > bytes,
                "control: only {} bytes crossed the hub",
                hub.tcp_bytes()
            );
            ensure!(at_hub == 0, "the marker crossed the hub {at_hub} times");
            Ok(vec![
                format!("{bytes} bytes with the marker {marker:?} in them were called, both ways"),
                format!(
                    "hub: {} packets, {} bytes, the marker 0 times",
                    hub.count,
                    hub.tcp_bytes()
                ),
                format!("control: on the client's own link the marker is there {at_client} times"),
            ])
        })?;
    }
    claims.claim("the hub's memory holds no plaintext", || {
        let way = world.ways()[0];
        // Nobody reads on, so the gateways hold what came.
        let mut stream = way
            .curl_import(WEB_IMPORT, &format!("/say/{marker}/100000000"))
            .stream()?;
        std::io::Read::read_exact(&mut stream.out, &mut [0; 100_000])?;
        let hub = world.hub.as_ref().context("the hub is down")?;
        let seen = memory::search(hub.process.id(), marker.as_bytes())?;
        let gateway = gateway(world, 0)?;
        let control = memory::search(gateway.process.id(), marker.as_bytes())?;
        ensure!(
            control.hits > 0,
            "control: it is not even in the gateway's memory"
        );
        ensure!(seen.hits == 0, "the marker is there {} times", seen.hits);
        Ok(vec![
            format!(
                "a download is under way; hub: {} KiB searched, the marker 0 times",
                seen.read / 1024
            ),
            format!(
                "control: in the gateway's memory it is there {} times",
                control.hits
            ),
        ])
    })
}

fn say(way: &Way, marker: &str) -> Result<usize> {
    let down = way
        .curl(WEB, &format!("/say/{marker}/2000"))
        .expect(200)?
        .body
        .len();
    let up = way
        .curl(WEB, "/mirror")
        .header(&format!("X-Marker: {marker}"))
        .post(marker)
        .expect(200)?
        .body
        .len();
    Ok(down + up)
}

fn keys(world: &World, claims: &mut Claims) -> Result<()> {
    claims.claim(
        "the gateways agree on their keys with each other, by a hybrid post-quantum exchange",
        || {
            let mut lines = Vec::new();
            for (i, domain) in DOMAINS.iter().enumerate() {
                let metrics = gateway(world, i)?.metrics()?;
                let all = metrics.sum("hawser_gateway_key_exchanges_total", &[]);
                let hybrid = metrics.sum(
                    "hawser_gateway_key_exchanges_total",
                    &["group=\"X25519MLKEM768\""],
                );
                ensure!(
                    all >= 1.0 && hybrid >= all,
                    "{domain}: {hybrid} of {all} sessions"
                );
                lines.push(format!(
                    "{domain}: {all} end-to-end sessions made, all with X25519MLKEM768"
                ));
            }
            Ok(lines)
        },
    )?;
    claims.claim(
        "the hub decrypts nothing: the kernel moves the bytes between its sockets (splice)",
        || {
            let metrics = world.hub.as_ref().context("the hub is down")?.metrics()?;
            let moved = metrics.sum("hawser_hub_relayed_bytes_total", &[]);
            let spliced = metrics.sum("hawser_hub_relayed_bytes_total", &["spliced"]);
            ensure!(moved > 0.0 && spliced >= moved, "{spliced} of {moved} bytes");
            Ok(vec![format!("{moved} bytes moved, {spliced} of them spliced")])
        },
    )
}

fn gateway(world: &World, domain: usize) -> Result<&Daemon> {
    world.gateways[domain]
        .first()
        .and_then(|g| g.daemon.as_ref())
        .context("a gateway is down")
}

impl Tunnel {
    /// Prints what to try.
    pub(crate) fn invite(&self) -> Result<()> {
        let dir = self.world.dir();
        println!("\nTry it:");
        for way in self.world.ways() {
            let shell = enter(dir, way.client(), DOMAINS[way.from])?;
            println!(
                "  {shell}curl --proxy http://{} {}",
                way.proxy(),
                way.url(WEB, "/")
            );
            println!(
                "  {shell}curl http://{}/echo -d 'some text'",
                way.import(WEB_IMPORT)
            );
        }
        let hawser = hawser::binary()?.display().to_string();
        let config = |name: &str| dir.join(format!("{name}.toml"));
        let gateway = config(self.world.gateways[0][0].host.name());
        println!("  {hawser} services -c {}", gateway.display());
        println!("  {hawser} status -c {}", config("hub").display());
        println!("  {hawser} domain show -c {}", gateway.display());
        if self.world.sites.are_namespaces() {
            let shell = enter(dir, &self.world.sites.hub, "hub")?;
            let way = self.world.ways()[0];
            println!("  {shell}tcpdump -A -i any tcp port 8443        what the hub sees");
            println!(
                "  {shell}curl --max-time 3 http://{}/     refused",
                way.server().at(WEB_PORT)
            );
        }
        println!("Configurations, states and logs: {}", dir.display());
        Ok(())
    }
}

/// A script that runs a command on a host, to keep what is to be typed short.
pub(crate) fn enter(dir: &Path, host: &Host, name: &str) -> Result<String> {
    let Some(namespace) = host.namespace() else {
        return Ok(String::new());
    };
    let script = dir.join(format!("in-{name}"));
    fs::write(
        &script,
        format!("#!/bin/sh\nexec ip netns exec {namespace} \"$@\"\n"),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(format!("{} ", script.display()))
}
