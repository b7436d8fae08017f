#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Allow;
use hawser_proto::control::Protocol;
use std::time::Duration;

const LIMITS: RegistryLimits = RegistryLimits {
    gateways: 4,
    per_domain: 2,
};

fn id(domain: &str, name: &str) -> Arc<NodeId> {
    Arc::new(format!("spiffe://{domain}/gateway/{name}").parse().unwrap())
}

fn d(s: &str) -> DomainName {
    s.parse().unwrap()
}

fn service(name: &str) -> Registration {
    Registration {
        name: name.parse().unwrap(),
        protocol: Protocol::Http,
        healthy: true,
        description: String::new(),
    }
}

fn exports(names: &[&str]) -> Registered {
    Registered {
        services: names.iter().map(|n| service(n)).collect(),
        ..Registered::default()
    }
}

fn policy(rules: &[(&str, &str, &str)]) -> Policy {
    let rules: Vec<_> = rules
        .iter()
        .map(|(from, to, service)| Allow {
            from: from.to_string(),
            to: to.to_string(),
            services: vec![service.to_string()],
            callbacks: false,
        })
        .collect();
    Policy::new(&rules).unwrap()
}

fn names(s: &Snapshot) -> Vec<String> {
    s.routes.iter().map(|r| r.service.to_string()).collect()
}

fn connect(r: &mut Registry<()>, id: &Arc<NodeId>, what: Registered) -> ConnectionId {
    let (connection, _) = r.connect(id, ()).unwrap();
    r.register(id, connection, what).unwrap();
    connection
}

#[test]
fn a_domain_sees_what_rules_let_it_see() {
    let mut r = Registry::new(LIMITS);
    connect(&mut r, &id("acme", "a1"), exports(&["crm"]));
    connect(&mut r, &id("beta", "b1"), exports(&["orders", "ledger"]));
    connect(&mut r, &id("beta", "b2"), exports(&["orders"]));
    let p = policy(&[("acme", "beta", "orders"), ("beta", "acme", "*")]);

    let seen = r.snapshot(&d("acme"), &p);
    assert_eq!(names(&seen), ["orders.beta"]);
    assert_eq!(seen.domains, [d("beta")]);
    let gateways: Vec<_> = seen.routes[0].gateways.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(gateways, ["b1", "b2"]);
    assert_eq!(names(&r.snapshot(&d("beta"), &p)), ["crm.acme"]);
    assert!(names(&r.snapshot(&d("gamma"), &p)).is_empty());
    assert!(r.snapshot(&d("acme"), &p).routes == seen.routes);
}

#[test]
fn what_changes_nothing_does_not_raise_the_generation() {
    let mut r = Registry::new(LIMITS);
    let b1 = id("beta", "b1");
    let (first, old) = r.connect(&b1, ()).unwrap();
    assert!(old.is_none());
    assert_eq!(r.generation(), 0, "unregistered gateways are not seen");
    r.register(&b1, first, exports(&["orders"])).unwrap();
    assert_eq!(r.generation(), 1);
    r.register(&b1, first, exports(&["orders"])).unwrap();
    assert_eq!(r.generation(), 1);

    // A newer connection of the same gateway takes over without a gap.
    let (second, old) = r.connect(&b1, ()).unwrap();
    assert!(old.is_some());
    assert_eq!(r.register(&b1, first, exports(&[])), Err(RegistryError::Replaced));
    assert!(!r.disconnect(&b1, first));
    r.register(&b1, second, exports(&["orders"])).unwrap();
    assert_eq!(r.generation(), 1);
    assert!(r.disconnect(&b1, second));
    assert_eq!((r.generation(), r.len()), (2, 0));
}

#[test]
fn draining_and_dead_gateways_have_no_routes_and_sick_services_say_so() {
    let p = policy(&[("acme", "beta", "*")]);
    let mut r = Registry::new(LIMITS);
    let (b1, b2) = (id("beta", "b1"), id("beta", "b2"));
    let c1 = connect(&mut r, &b1, exports(&["orders"]));
    let mut sick = exports(&["orders"]);
    sick.services[0].healthy = false;
    let c2 = connect(&mut r, &b2, sick);
    let seen = r.snapshot(&d("acme"), &p);
    let health: Vec<_> = seen.routes[0].gateways.iter().map(|g| g.healthy).collect();
    assert_eq!(health, [true, false]);

    let mut draining = exports(&["orders"]);
    draining.draining = true;
    r.register(&b1, c1, draining).unwrap();
    assert!(!r.gateway(&b1).unwrap().is_open());
    assert_eq!(r.snapshot(&d("acme"), &p).routes[0].gateways.len(), 1);
    r.disconnect(&b2, c2);
    assert!(r.snapshot(&d("acme"), &p).routes.is_empty());
}

#[test]
fn issuers_take_turns_and_offers_end() {
    let mut r = Registry::new(LIMITS);
    let now = UnixTime(1000);
    let offer = JoinOffer {
        hash: [7; 32],
        expires: now.plus(Duration::from_secs(60)),
    };
    for (name, joins) in [("b1", vec![]), ("b2", vec![offer])] {
        let what = Registered {
            issuer: true,
            joins,
            ..Registered::default()
        };
        connect(&mut r, &id("beta", name), what);
    }
    connect(&mut r, &id("acme", "a1"), exports(&[]));
    let chosen = |but: Option<&NodeId>, turn| r.issuer(&d("beta"), but, turn).map(|g| g.id.name.to_string());
    assert_eq!(
        (chosen(None, 0), chosen(None, 1)),
        (Some("b1".into()), Some("b2".into()))
    );
    assert_eq!(chosen(Some(&id("beta", "b1")), 0), Some("b2".into()));
    assert!(r.issuer(&d("acme"), None, 0).is_none());

    let joinable =
        |domain: &str, hash, now| r.joinable(&d(domain), &hash, now).map(|g| g.id.name.to_string());
    assert_eq!(joinable("beta", [7; 32], now), Some("b2".into()));
    assert_eq!(joinable("beta", [8; 32], now), None);
    assert_eq!(joinable("acme", [7; 32], now), None);
    assert_eq!(joinable("beta", [7; 32], UnixTime(1060)), None);
}

#[test]
fn everything_is_bounded() {
    let mut r = Registry::new(LIMITS);
    let a1 = id("acme", "a1");
    let c = connect(&mut r, &a1, exports(&[]));
    connect(&mut r, &id("acme", "a2"), exports(&[]));
    assert_eq!(
        r.connect(&id("acme", "a3"), ()).unwrap_err(),
        RegistryError::DomainFull(2)
    );
    for n in ["beta", "gamma"] {
        r.connect(&id(n, "g"), ()).unwrap();
    }
    assert_eq!(
        r.connect(&id("delta", "g"), ()).unwrap_err(),
        RegistryError::Full(4)
    );
    assert_eq!(r.len(), 4);
    assert!(!r.domains.contains_key(&d("delta")));

    let many: Vec<String> = (0..=MAX_SERVICES).map(|i| format!("s{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        r.register(&a1, c, exports(&many)),
        Err(RegistryError::Services(1025))
    );
    assert!(matches!(
        r.register(&a1, c, exports(&["x", "x"])),
        Err(RegistryError::Twice(_))
    ));
    let mut long = exports(&["x"]);
    long.services[0].description = "d".repeat(MAX_DESCRIPTION + 1);
    assert!(matches!(
        r.register(&a1, c, long),
        Err(RegistryError::Description(_))
    ));
    let offer = JoinOffer {
        hash: [0; 32],
        expires: UnixTime(0),
    };
    let joins = Registered {
        joins: vec![offer; MAX_JOINS + 1],
        ..Registered::default()
    };
    assert!(matches!(r.register(&a1, c, joins), Err(RegistryError::Joins(_))));
}

#[test]
fn routes_fit_one_message() {
    let mut r = Registry::new(RegistryLimits {
        gateways: 64,
        per_domain: 8,
    });
    let mut rules = Vec::new();
    let domains: Vec<String> = (0..8).map(|i| format!("{}{i}", "d".repeat(60))).collect();
    for domain in &domains {
        for g in 0..8 {
            let mut what = Registered::default();
            for i in 0..MAX_SERVICES {
                let mut s = service(&format!("{}{i:04}", "s".repeat(56)));
                s.description = "x".repeat(MAX_DESCRIPTION);
                what.services.push(s);
            }
            connect(&mut r, &id(domain, &format!("{}{g}", "g".repeat(60))), what);
        }
        rules.push(("acme", domain.as_str(), "*"));
    }
    let seen = r.snapshot(&d("acme"), &policy(&rules));
    assert_eq!(seen.routes.len() + seen.left_out, 8 * MAX_SERVICES);
    assert!(seen.left_out > 0);
    let message = hawser_proto::control::ToGateway::Routes {
        routes: seen.routes.clone(),
        domains: seen.domains.clone(),
        number: 1,
    };
    assert!(hawser_proto::frame::encode(&message).is_ok());
}

#[test]
fn one_name_is_one_protocol() {
    let mut r = Registry::new(LIMITS);
    connect(&mut r, &id("beta", "b1"), exports(&["db"]));
    let b2 = id("beta", "b2");
    let (c, _) = r.connect(&b2, ()).unwrap();
    let mut tcp = exports(&["db"]);
    tcp.services[0].protocol = Protocol::Tcp;
    let conflicts = r.register(&b2, c, tcp).unwrap();
    assert_eq!(conflicts, ["db".parse().unwrap()]);
    let seen = r.snapshot(&d("acme"), &policy(&[("acme", "beta", "*")]));
    assert_eq!(seen.routes[0].gateways.len(), 1);
}
