//! Certificates renew themselves under load, and nobody notices.

use std::time::Duration;

use hawser_testkit::{gate, load::Load, wait, world::World};

use crate::calls;

/// Life of the certificates in this test. They renew at half of it.
const LIFE: &str = "20s";
const RENEWALS: usize = 3;

#[test]
fn certificates_renew_without_a_lost_call() {
    if !gate::networks("renewal under load") {
        return;
    }
    let lines = format!("certificate_life = \"{LIFE}\"");
    let (world, _origins) = calls::web_world(|s| s.gateway_lines(&lines).gateways(2));
    let loads = world
        .ways()
        .map(|way| Load::start(way.client(), way.import(calls::WEB_IMPORT), "/echo", "web", 2));
    let mut seen = ends(&world);
    for round in 1..=RENEWALS {
        wait::for_condition(Duration::from_secs(40), "every gateway to renew", || {
            ends(&world).iter().zip(&seen).all(|(now, before)| now > before)
        })
        .unwrap_or_else(|e| panic!("round {round}: {e:#}; {:?}", loads.each_ref().map(Load::so_far)));
        seen = ends(&world);
    }
    for load in &loads {
        load.wait_for(50).unwrap();
    }
    for load in loads {
        let tally = load.stop();
        eprintln!("{} calls, the slowest {:?}", tally.good, tally.slowest);
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
    }
}

/// When the certificate of each gateway ends.
fn ends(world: &World) -> Vec<f64> {
    let gateways = world.gateways.iter().flatten().filter_map(|g| g.daemon.as_ref());
    gateways
        .map(|d| {
            d.metrics()
                .unwrap()
                .sum("hawser_gateway_certificate_expiry_seconds", &[])
        })
        .collect()
}
