//! The same between two firewalled domains: neither party knows of the gateways, and neither can reach the other.

use hawser_testkit::{
    gate,
    parties::{
        self,
        alarms::{ALARMS_TO, ENDS_TO},
        orders::Stack,
    },
    world::{Service, Spec, Way, World},
};
use serde_json::Value;

use super::{
    Stage,
    alarms::alarms,
    orders::{generated, orders},
    parcels::parcels,
    webhooks::webhooks,
};

const LISTENER: u16 = 9100;
const IMPORT: u16 = 9001;

/// Where messages that are no SOAP name addresses.
const RULES: &str = "[[gateway.callbacks.rule]]\nservice = \"*\"\njson = [\"/callbackUrl\", \"/config/url\"]";

fn world(service: &str, port: u16) -> World {
    let spec = Spec::new([Service::http(service, port).imported(IMPORT)]);
    spec.gateway_tables(RULES).start().unwrap()
}

/// The client calls the import at its own gateway.
pub(crate) fn stage<'a>(world: &'a World, way: &'a Way<'a>, port: u16) -> Stage<'a> {
    Stage {
        server: way.server(),
        origin: way.server().at(port),
        service: format!("http://{}", way.import(IMPORT)),
        client: way.client(),
        listener: way.client().at(LISTENER),
        server_proxy: None,
        client_proxy: None,
        dir: world.dir(),
    }
}

fn answers(stack: Stack) {
    let what = format!("asynchronous answers by {stack:?} through the tunnel");
    if !(gate::networks(&what) && parties::are_installed(&what)) {
        return;
    }
    let mut world = world("orders", 8200);
    {
        let ways = world.ways();
        let stage = stage(&world, &ways[0], 8200);
        let mut done = orders(&stage, stack, stack);
        assert_eq!(done.exchanges.len(), 2 * stack.variants().len());
        for e in &done.exchanges {
            for seen in [e.request.text("reply_to"), e.request.text("fault_to")] {
                assert!(
                    !seen.contains(&stage.listener.to_string()),
                    "{}: {seen}",
                    e.variant
                );
                assert!(
                    seen.is_empty() || seen.contains("/.hawser/cb/acme/"),
                    "{}: {seen}",
                    e.variant
                );
            }
        }
        if stack == Stack::Metro {
            generated(&stage);
        }
        done.client.stop().unwrap();
        done.server.stop().unwrap();
    }
    assert_answers_are_found(&mut world);
}

/// The inspector of the clients' gateway knows which call each answer belongs to.
fn assert_answers_are_found(world: &mut World) {
    let exchanges = world.gateways[0][0].running().unwrap().ask("/exchanges").unwrap();
    let all = exchanges.as_array().unwrap();
    let answers: Vec<&Value> = all
        .iter()
        .filter(|e| e["service"] == "hawser-callbacks")
        .collect();
    assert!(!answers.is_empty(), "{exchanges}");
    for answer in answers {
        let request = answer["answers"][0]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"));
        let call = all.iter().find(|e| e["request"] == request).unwrap();
        assert_eq!(call["service"], "orders.beta");
        assert!(call["replaced"].to_string().contains("wsa:ReplyTo"), "{call}");
    }
}

#[test]
fn metro_answers_through_two_firewalls() {
    answers(Stack::Metro);
}

/// Nothing in the messages is touched: the server calls the client by its own address, through its gateway as HTTP proxy.
#[test]
fn metro_answers_through_its_gateway_as_proxy() {
    let what = "asynchronous answers through a proxy";
    if !(gate::networks(what) && parties::are_installed(what)) {
        return;
    }
    let tables = "[[gateway.callbacks.rule]]\nservice = \"*\"\nmode = \"keep\"\n\n\
                  [[gateway.callbacks.open]]\ndomains = [\"beta\"]\ntargets = [\"10.1.0.0/16:9100\"]\n\n\
                  [[gateway.proxy.through]]\nhosts = [\"10.1.0.0/16\"]\ndomain = \"acme\"";
    let spec = Spec::new([Service::http("orders", 8200).imported(IMPORT)]);
    let world = spec.gateway_tables(tables).start().unwrap();
    let ways = world.ways();
    let mut stage = stage(&world, &ways[0], 8200);
    let proxy = ways[1].proxy();
    stage.server_proxy = Some(proxy);
    let mut done = orders(&stage, Stack::Metro, Stack::Metro);
    for e in &done.exchanges {
        let seen = [e.request.text("reply_to"), e.request.text("fault_to")];
        assert!(
            seen.contains(&e.wanted.as_str()),
            "{}: {:?}",
            e.variant,
            e.request
        );
    }
    done.client.stop().unwrap();
    done.server.stop().unwrap();
}

#[test]
fn gsoap_answers_through_two_firewalls() {
    answers(Stack::Gsoap);
}

#[test]
fn spyne_answers_zeep_through_two_firewalls() {
    answers(Stack::Python);
}

#[test]
fn subscribers_hear_alarms_through_two_firewalls() {
    let what = "WS-Eventing through the tunnel";
    if !(gate::networks(what) && parties::are_installed(what)) {
        return;
    }
    let world = world("alarms", 8201);
    let ways = world.ways();
    let stage = stage(&world, &ways[1], 8201);
    let mut done = alarms(&stage);
    let listener = format!("http://{}", stage.listener);
    for (seen, own) in [
        (done.subscribe.text("notify_to"), ALARMS_TO),
        (done.subscribe.text("end_to"), ENDS_TO),
    ] {
        assert!(seen.contains("/.hawser/cb/beta/"), "{seen}");
        assert_ne!(seen, format!("{listener}{own}"));
    }
    assert_eq!(
        done.manager,
        format!("{}/manager", stage.service),
        "the manager is reached as the service is"
    );
    done.subscriber.stop().unwrap();
    done.source.stop().unwrap();
}

#[test]
fn a_generated_openapi_client_is_called_back_through_two_firewalls() {
    let what = "OpenAPI callbacks through the tunnel";
    if !(gate::networks(what) && parties::are_installed(what)) {
        return;
    }
    // The rule that the description itself leads to: see below.
    let rule = "[[gateway.callbacks.rule]]\nservice = \"parcels.beta\"\njson = [\"/callbackUrl\"]";
    let service = Service::http("parcels", 8202).imported(IMPORT);
    let service = service.more("interface = { path = \"/openapi.json\" }");
    let world = Spec::new([service]).gateway_tables(rule).start().unwrap();
    let ways = world.ways();
    let stage = stage(&world, &ways[0], 8202);
    let mut done = parcels(&stage);
    let seen = done.subscribe.text("callback_url");
    assert!(seen.contains("/.hawser/cb/acme/"), "{seen}");
    assert_eq!(
        done.used,
        format!("{}/v1", stage.service),
        "the description says where the service is from here"
    );
    // What a developer in the clients' domain sees.
    let look = |words: &[&str]| world.gateways[0][0].command(words, "").unwrap();
    assert!(look(&["services", "parcel"]).contains("parcels.beta"));
    assert!(look(&["services", "nothing"]).is_empty());
    let shown = look(&["services", "show", "parcels.beta"]);
    assert!(shown.contains(rule), "{shown}");
    assert!(shown.contains("calls its client"), "{shown}");
    let described = look(&["services", "describe", "parcels.beta"]);
    assert!(
        described.contains("http://parcels.beta.hawser/v1") && !described.contains(&stage.origin.to_string()),
        "{described}"
    );
    let inspected = look(&["inspect", "parcels.beta"]);
    assert!(inspected.contains("/callbackUrl"), "{inspected}");
    done.client.stop().unwrap();
    done.service.stop().unwrap();
}

#[test]
fn signed_webhooks_stay_valid_through_two_firewalls() {
    let what = "webhooks through the tunnel";
    if !gate::networks(what) {
        return;
    }
    let world = world("forge", 8203);
    let ways = world.ways();
    let stage = stage(&world, &ways[1], 8203);
    let mut done = webhooks(&stage);
    assert!(!done.hooks.is_empty());
    for hook in &done.hooks {
        assert!(hook.text("url").contains("/.hawser/cb/beta/"), "{hook:?}");
    }
    done.receiver.stop().unwrap();
    done.forge.stop().unwrap();
}
