//! What an idle session costs a hub. A process of its own, since other tests' memory and descriptors would count.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// The rig is made for more than this.
#[allow(dead_code)]
#[path = "../hub/rig.rs"]
mod rig;

use std::time::Duration;

use rig::{Rig, pair, until};

#[tokio::test]
async fn an_idle_session_costs_two_descriptors_and_little_memory() {
    const PAIRS: usize = 200;
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(pair(&mut a, &mut b).await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = (resident(), descriptors());
    for _ in 0..PAIRS {
        open.push(pair(&mut a, &mut b).await);
    }
    until("all are open", || rig.hub.status().sessions == open.len()).await;
    let after = (resident(), descriptors());
    // Both gateways live in this process, too: theirs are two more descriptors each pair, and their memory counts as the hub's.
    assert!(
        after.1 - before.1 <= 4 * PAIRS,
        "{} descriptors",
        after.1 - before.1
    );
    let each = after.0.saturating_sub(before.0) / PAIRS;
    println!("{each} bytes for each idle session, both gateways' ends included");
    assert!(each < 16 * 1024, "{each} bytes for each idle session");
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<usize>()
        .unwrap()
        * 1024
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
