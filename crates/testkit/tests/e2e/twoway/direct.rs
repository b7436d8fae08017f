//! The control: on a plain network, without rules and without Hawser, the parties get on.

use hawser_testkit::{
    gate,
    net::{Plan, Sites},
    parties::{
        self,
        alarms::{ALARMS_TO, ENDS_TO},
        orders::Stack,
        parcels::MOVES_TO,
        webhooks::hooks_to,
    },
};
use tempfile::TempDir;

use super::{
    Stage,
    alarms::alarms,
    orders::{generated, orders},
    parcels::parcels,
    webhooks::webhooks,
};

const LISTENER: u16 = 9100;

/// Two domains whose firewalls are off.
struct Open {
    sites: Sites,
    dir: TempDir,
}

impl Open {
    fn build() -> Self {
        let sites = Sites::build(&Plan {
            domains: &["acme", "beta"],
            gateways: 1,
            proxy_only: false,
        })
        .unwrap();
        for site in &sites.domains {
            site.firewall.as_ref().unwrap().off().unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        Self { sites, dir }
    }

    /// The server in the first one, at a port, the client in the second.
    fn stage(&self, port: u16) -> Stage<'_> {
        let [server, client] = [0, 1].map(|n| &self.sites.domains[n].app);
        let origin = server.at(port);
        Stage {
            server,
            origin,
            service: format!("http://{origin}"),
            client,
            listener: client.at(LISTENER),
            server_proxy: None,
            client_proxy: None,
            dir: self.dir.path(),
        }
    }
}

fn answers(stack: Stack) {
    let what = format!("asynchronous answers by {stack:?}");
    if !(gate::networks(&what) && parties::are_installed(&what)) {
        return;
    }
    let open = Open::build();
    let stage = open.stage(8200);
    let mut done = orders(&stage, stack, stack);
    assert_eq!(done.exchanges.len(), 2 * stack.variants().len());
    for e in &done.exchanges {
        let seen = [e.request.text("reply_to"), e.request.text("fault_to")];
        assert!(
            seen.contains(&e.wanted.as_str()),
            "{}: {:?}",
            e.variant,
            e.request
        );
        assert_eq!(e.request.text("to"), format!("{}/{}", stage.service, e.variant));
        assert_eq!(e.request.text("host"), stage.origin.to_string());
    }
    if stack == Stack::Metro {
        generated(&stage);
    }
    done.client.stop().unwrap();
    done.server.stop().unwrap();
}

#[test]
fn metro_answers_elsewhere() {
    answers(Stack::Metro);
}

#[test]
fn gsoap_answers_elsewhere() {
    answers(Stack::Gsoap);
}

#[test]
fn spyne_answers_zeep_elsewhere() {
    answers(Stack::Python);
}

#[test]
fn subscribers_hear_alarms() {
    let what = "WS-Eventing";
    if !(gate::networks(what) && parties::are_installed(what)) {
        return;
    }
    let open = Open::build();
    let stage = open.stage(8201);
    let mut done = alarms(&stage);
    let listener = format!("http://{}", stage.listener);
    assert_eq!(done.subscribe.text("notify_to"), format!("{listener}{ALARMS_TO}"));
    assert_eq!(done.subscribe.text("end_to"), format!("{listener}{ENDS_TO}"));
    let manager = format!("http://{}/manager", stage.origin);
    assert_eq!(done.manager, manager);
    assert_eq!(done.ended.text("manager"), manager);
    done.subscriber.stop().unwrap();
    done.source.stop().unwrap();
}

#[test]
fn a_generated_openapi_client_is_called_back() {
    let what = "OpenAPI callbacks";
    if !(gate::networks(what) && parties::are_installed(what)) {
        return;
    }
    let open = Open::build();
    let stage = open.stage(8202);
    let mut done = parcels(&stage);
    assert_eq!(
        done.subscribe.text("callback_url"),
        format!("http://{}{MOVES_TO}", stage.listener)
    );
    assert_eq!(done.used, format!("{}/v1", stage.service));
    done.client.stop().unwrap();
    done.service.stop().unwrap();
}

#[test]
fn signed_webhooks_arrive() {
    if !gate::networks("webhooks") {
        return;
    }
    let open = Open::build();
    let stage = open.stage(8203);
    let mut done = webhooks(&stage);
    for (hook, kind) in done.hooks.iter().zip(["json", "form"]) {
        assert_eq!(
            hook.text("url"),
            format!("http://{}{}", stage.listener, hooks_to(kind))
        );
    }
    done.receiver.stop().unwrap();
    done.forge.stop().unwrap();
}
