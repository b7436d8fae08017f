//! The whole path with two agents in this process, each in a namespace of its own: a machine that runs is protected, its host
//! dies, and it goes on at the standby. The real program and the hub's register are in the testkit's end-to-end tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hawser_identity::{Credentials, Issuer, LEAF_LIFE, NodeKey, RootAuthority, Trust};
use hawser_protect::{
    arbiter::Memory,
    host::{
        Agent, HostConfig, Identity, Request,
        status::{MachineStatus, Role},
    },
};
use hawser_proto::{DomainName, NodeId};
use hawser_testkit::{
    kv::{self, Clients, Kv, Plan, check},
    net::{Hypervisor, Hypervisors},
    vm::{Aio, Drive, Machine, Nic, Spec, Version},
    wait,
};
use tokio::runtime::Runtime;

struct Host {
    runtime: Runtime,
    agent: Arc<Agent>,
    images: PathBuf,
}

impl Host {
    fn start(
        hypervisor: &Hypervisor,
        identity: Identity,
        register: &Memory,
        directory: &std::path::Path,
    ) -> Self {
        let name = identity.name();
        let mut config = HostConfig {
            images: directory.join(name.as_str()).join("images"),
            run: PathBuf::from("/run").join(format!("hawser-test-{}-{name}", std::process::id())),
            listen: format!("{}:8444", hypervisor.host.address()),
            // Nobody falls silent here: these are only for what a busy machine does by itself.
            detect: Duration::from_secs(2),
            qmp_timeout: Duration::from_secs(10),
            ..HostConfig::default()
        };
        for (peer, address) in [("host-a", "10.78.0.1:8444"), ("host-b", "10.78.0.2:8444")] {
            config.peers.insert(peer.parse().unwrap(), address.into());
        }
        let runtime = hypervisor.host.runtime().unwrap();
        let images = config.images.clone();
        let arbiter = Arc::new(register.of(name));
        let agent = runtime.block_on(async { tokio::spawn(Agent::start(config, identity, arbiter)).await });
        Self {
            agent: Arc::new(agent.unwrap().unwrap()),
            runtime,
            images,
        }
    }

    fn machine(&self) -> Option<MachineStatus> {
        self.agent.status().machines.into_iter().next()
    }

    fn wait(&self, what: &str, holds: impl Fn(&MachineStatus) -> bool) -> MachineStatus {
        let mut last = None;
        let found = wait::until(Duration::from_secs(90), what, || {
            last = self.machine();
            Ok(last.clone().filter(&holds))
        });
        found.unwrap_or_else(|e| panic!("{e}: {last:#?}"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for machine in self.agent.status().machines {
            eprintln!("{machine:#?}");
        }
    }
}

fn identities() -> [Identity; 2] {
    let domain: DomainName = "dc".parse().unwrap();
    let root = RootAuthority::create(&domain).unwrap();
    let issuer = Issuer::create(&root, &domain, &"gw1".parse().unwrap()).unwrap();
    let mut trust = Trust::new();
    trust.add_root(&domain, root.certificate().clone()).unwrap();
    let trust = Arc::new(ArcSwap::from_pointee(trust));
    ["host-a", "host-b"].map(|name| {
        let key = NodeKey::create().unwrap();
        let id: NodeId = format!("spiffe://dc/host/{name}").parse().unwrap();
        let chain = issuer.issue(&id, &key.csr().unwrap(), LEAF_LIFE).unwrap();
        Identity {
            credentials: Arc::new(ArcSwap::from_pointee(Credentials::new(chain, &key).unwrap())),
            trust: trust.clone(),
        }
    })
}

#[test]
fn a_machine_goes_on_when_its_host_dies() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        return eprintln!("skipped: needs root for namespaces");
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .init();
    let directory = tempfile::tempdir().unwrap();
    for version in Version::all().unwrap() {
        let network = Hypervisors::build().unwrap();
        let register = Memory::new();
        let [id_a, id_b] = identities();
        let place = directory.path().join(version.number());
        let a = Host::start(&network.a, id_a, &register, &place);
        let b = Host::start(&network.b, id_b, &register, &place);

        let disk = directory.path().join(format!("{}.raw", version.number()));
        let mut spec = Spec::new(&version).with_drive(Drive::create(&disk, 64, Aio::Threads).unwrap());
        spec.nics.push(Nic::Tap {
            tap: "tap0".into(),
            bridge: hawser_testkit::net::BRIDGE.into(),
            mac: "52:54:00:12:34:56".into(),
        });
        spec.ip = Some(Hypervisors::guest_ip());
        let mut machine = Machine::start(&network.a.host, &spec).unwrap();
        machine.wait_up().unwrap();
        let clients = Clients::start(&network.client, Hypervisors::guest_kv(), Plan::default()).unwrap();
        clients.wait_acknowledged(20, Duration::from_secs(60)).unwrap();

        let request = Request {
            machine: "vm1".into(),
            qmp: Some(machine.qmp()),
            to: "host-b".parse().unwrap(),
            address: None,
        };
        // On the runtime's own threads: this one is not in the host's namespace.
        let agent = a.agent.clone();
        let planning = a.runtime.spawn(async move { agent.plan(&request).await });
        let planned = a.runtime.block_on(planning).unwrap().unwrap();
        assert!(
            planned.changes.iter().any(|c| c.to.contains("-disk0.raw")),
            "{planned:#?}"
        );
        let agent = a.agent.clone();
        let beginning = a.runtime.spawn(async move { agent.begin(planned.uuid).await });
        a.runtime.block_on(beginning).unwrap().unwrap();
        a.wait("protection", |m| {
            assert_eq!(m.role, Role::Active, "{m:#?}");
            m.phase == "protected"
        });
        clients.wait_acknowledged(100, Duration::from_secs(60)).unwrap();

        machine.kill().unwrap();
        let there = b.wait("the take-over", |m| m.role == Role::Alone);
        eprintln!("outage: {:?}", there.outage);
        clients.wait_acknowledged(100, Duration::from_secs(60)).unwrap();
        let history = clients.stop();
        assert!(history.broken.is_empty(), "{:?}", history.broken);
        eprintln!("longest gap {:?}", history.longest_gap());
        check::linearizable(&history).unwrap();
        let mut kv = Kv::connect(&network.client, Hypervisors::guest_kv()).unwrap();
        check::in_memory(&history, &kv.dump().unwrap()).unwrap();
        let replica = std::fs::read_dir(&b.images)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        check::in_log(&history, &kv::Log::read(&replica).unwrap()).unwrap();
        network.b.signal_all(rustix::process::Signal::KILL).unwrap();
    }
}
