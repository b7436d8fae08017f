//! A machine that is protected by the real program: it begins and ends without a trace, and outlives whatever befalls its host.
//!
//! Who dies or is cut off is known to the hosts from the network only.

mod again;
mod full;
mod register;
mod silence;
mod survives;
mod whole;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawser_testkit::{
    hosts::{Hosts, Side, Spec},
    kv::{Clients, Log, Plan, check},
    net::Watch,
    vm::Version,
    wait,
};
use serde_json::Value;

/// Slack for what takes a moment, on a machine that emulates guests.
const SLOW: Duration = Duration::from_secs(60);
/// So many looks one after the other, about a second and a half, see nothing happen: nothing will. Looks are counted, as a machine
/// that stands still for a while lets nobody do anything.
const LOOKS: u32 = 100;

/// A guest at work, its clients, and a watch on the switch.
struct Scene {
    clients: Clients,
    watch: Watch,
    hosts: Hosts,
    _turn: MutexGuard<'static, ()>,
}

/// One at a time: emulated guests take all that a small machine has.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    /// The guest writes memory and disk, and serves clients.
    fn busy(spec: Spec) -> Self {
        let turn = turn();
        let hosts = spec.start().unwrap();
        let watch = hosts.watch().unwrap();
        let mut kv = hosts.kv().unwrap();
        kv.load_memory(500, 256).unwrap();
        kv.load_disk(10).unwrap();
        let clients = hosts.clients(Plan::default()).unwrap();
        clients.wait_acknowledged(20, SLOW).unwrap();
        Self {
            clients,
            watch,
            hosts,
            _turn: turn,
        }
    }

    /// The same, protected, and at work under protection.
    fn protected(spec: Spec) -> Self {
        let scene = Self::busy(spec);
        scene.hosts.protect().unwrap();
        scene.clients.wait_acknowledged(50, SLOW).unwrap();
        scene
    }

    /// The machine goes on at `side`, and the other host ends what it has of it: connections live, nothing acknowledged is
    /// missing anywhere, and at no time two machines spoke.
    fn goes_on_at(self, side: Side) {
        self.hosts.wait_role(side, "alone", SLOW).unwrap();
        self.lives_at(side);
    }

    /// The same where both hosts ask for the machine, and the register gives it to one of them.
    fn one_goes_on(self) {
        let (winner, loser) = wait::until(SLOW, "one of the two hosts to run it", || {
            let runs = [Side::A, Side::B].map(|side| award(&self.hosts) == alone(side));
            Ok(match runs {
                [true, _] => Some((Side::A, Side::B)),
                [_, true] => Some((Side::B, Side::A)),
                _ => None,
            })
        })
        .unwrap();
        eprintln!("{} goes on", winner.name());
        wait_no_qemu(&self.hosts, loser);
        self.hosts.wait_role(loser, "gone", SLOW).unwrap();
        self.goes_on_at(winner);
    }

    /// The same where the agent does not know the machine, or knows it no longer.
    fn lives_at(self, side: Side) {
        self.moved(&[Side::A, side][..if side == Side::A { 1 } else { 2 }]);
    }

    /// The same after it lived at these hosts, one after the other; it is at the last one now.
    fn moved(self, sides: &[Side]) {
        let side = *sides.last().unwrap();
        let Self {
            clients,
            watch,
            hosts,
            _turn,
        } = self;
        clients.wait_acknowledged(50, SLOW).unwrap();
        let history = clients.stop();
        assert_eq!(history.broken, [""; 0]);
        check::linearizable(&history).unwrap();
        let mut kv = hosts.kv().unwrap();
        kv.check().unwrap();
        check::in_memory(&history, &kv.dump().unwrap()).unwrap();
        check::in_log(&history, &Log::read(&hosts.disk(side).unwrap()).unwrap()).unwrap();
        let places: Vec<_> = sides.iter().map(|s| s.name()).collect();
        watch.moved(&places).unwrap();
        assert_eq!(award(&hosts), alone(side), "the register");
        assert_eq!(hosts.qemus(side).unwrap().len(), 1);
        let (gap, at) = history.longest_gap();
        let acknowledged = history.acknowledged().count();
        eprintln!(
            "{acknowledged} acknowledged writes, all found; longest gap for clients {gap:.1?}, at {at:.1?}"
        );
        report(&hosts, side);
    }

    /// Frames that came from the guest so far, by host.
    fn frames(&self) -> BTreeMap<String, usize> {
        self.watch.counts().unwrap()
    }

    /// Waits until the guest is silent everywhere.
    fn wait_silent(&self) -> BTreeMap<String, usize> {
        let (mut last, mut looks) = (self.frames(), 0);
        wait::for_condition(SLOW, "no frame of the guest", || {
            let now = self.frames();
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            looks > LOOKS
        })
        .unwrap();
        last
    }
}

/// Waits until no QEMU runs on a host.
fn wait_no_qemu(hosts: &Hosts, side: Side) {
    let what = format!("the end of every QEMU on {}", side.name());
    wait::until(SLOW, &what, || Ok(hosts.qemus(side)?.is_empty().then_some(()))).unwrap();
}

/// What the register says of the guest.
fn award(hosts: &Hosts) -> Value {
    hosts.register().unwrap()[0]["record"]["award"].clone()
}

fn alone(side: Side) -> Value {
    serde_json::json!({ "alone": { "host": side.name() } })
}

/// The figures of a host's status.
fn report(hosts: &Hosts, side: Side) {
    let Some(status) = hosts.status(side) else {
        return;
    };
    let keys = [
        "outage",
        "epoch",
        "pause",
        "dirty_pages",
        "commit_latency",
        "lag",
        "held",
        "clock_loss",
        "message",
    ];
    let told: Vec<String> = keys
        .iter()
        .filter(|k| !status[**k].is_null())
        .map(|k| format!("{k} {}", status[*k]))
        .collect();
    eprintln!("{}: {}", side.name(), told.join(", "));
}

/// Each version of QEMU.
fn versions() -> Vec<Version> {
    Version::all().unwrap()
}

/// One version is enough where what is shown is the agents' own doing.
fn newest() -> Spec {
    Spec::new(&Version::newest().unwrap())
}

/// The oldest version, so that both have their turn.
fn oldest() -> Spec {
    Spec::new(&Version::oldest().unwrap())
}
