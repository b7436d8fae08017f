//! The agent of a hypervisor host, wired to its identity, to the hub's register and to the administration socket.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use hawser_gateway::{Node, NodeSettings};
use hawser_protect::host::{
    Agent, HostConfig, Identity, Request, Spread,
    status::{MachineStatus, Role},
};
use hawser_proto::arbiter::VmId;
use hawser_session::carrier::{Direct, Ways};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{admin::Source, daemon::SOFTWARE, register::HubRegister};

/// How long the end of protection may take when the agent ends.
const DRAIN: Duration = Duration::from_secs(30);

/// A running agent, with the node that holds its identity.
pub(crate) struct Host {
    node: Arc<Node>,
    agent: Arc<Agent>,
}

/// The same, to be asked and told.
pub(crate) struct HostSource {
    node: Arc<Node>,
    agent: Arc<Agent>,
}

impl Host {
    pub(crate) async fn start(config: &HostConfig, registry: &mut Registry) -> anyhow::Result<Self> {
        let settings = NodeSettings {
            dir: config.state.clone(),
            ways: Ways::new(vec![Arc::new(Direct)]),
            software: SOFTWARE.into(),
            register: config.register.as_deref().map(str::parse).transpose()?,
        };
        let node = Node::start(settings, registry).await.with_context(|| {
            format!(
                "{} holds no usable identity of a host; `hawser join` with a token of `hawser token host` makes it",
                config.state.display()
            )
        })?;
        let identity = Identity {
            credentials: node.credentials(),
            trust: node.trust(),
        };
        let arbiter = Arc::new(HubRegister(node.register()));
        let agent = Arc::new(Agent::start(config.clone(), identity, arbiter).await?);
        registry.register_collector(Box::new(Figures(agent.clone())));
        Ok(Self {
            node: Arc::new(node),
            agent,
        })
    }

    pub(crate) fn source(&self) -> HostSource {
        HostSource {
            node: self.node.clone(),
            agent: self.agent.clone(),
        }
    }

    pub(crate) async fn drain(&self) {
        self.agent.drain(DRAIN).await;
    }
}

/// The machine that a command is about.
#[derive(Deserialize)]
struct Which {
    machine: String,
}

#[derive(Deserialize)]
struct Begin {
    machine: VmId,
}

impl Source for HostSource {
    fn name(&self) -> &'static str {
        "host"
    }

    fn status(&self) -> Value {
        let mut status = serde_json::to_value(self.agent.status()).unwrap_or_default();
        status["node"] = serde_json::to_value(self.node.status()).unwrap_or_default();
        status
    }

    fn services(&self) -> Value {
        Value::Array(Vec::new())
    }

    fn ready(&self) -> Result<(), String> {
        if self.node.is_ready() {
            Ok(())
        } else {
            Err("not connected to the hub that holds the register".into())
        }
    }

    fn act(&self, path: &str, body: Value) -> Option<BoxFuture<'static, Result<Value, String>>> {
        let act = match path {
            "/protect/plan" => Act::Plan,
            "/protect/begin" => Act::Begin,
            "/protect/stop" => Act::Stop,
            "/protect/fail" => Act::Fail,
            "/protect/recover" => Act::Recover,
            _ => return None,
        };
        let agent = self.agent.clone();
        Some(Box::pin(act.carry_out(agent, body)))
    }
}

enum Act {
    Plan,
    Begin,
    Stop,
    Fail,
    Recover,
}

impl Act {
    async fn carry_out(self, agent: Arc<Agent>, body: Value) -> Result<Value, String> {
        let done = |()| json!({});
        let said = |e: hawser_protect::host::HostError| e.to_string();
        match self {
            Act::Plan => {
                let planned = agent.plan(&read::<Request>(body)?).await.map_err(said)?;
                serde_json::to_value(planned).map_err(|e| e.to_string())
            }
            Act::Begin => agent
                .begin(read::<Begin>(body)?.machine)
                .await
                .map(done)
                .map_err(said),
            Act::Stop => agent.stop(&read::<Which>(body)?.machine).map(done).map_err(said),
            Act::Fail => agent.fail(&read::<Which>(body)?.machine).map(done).map_err(said),
            Act::Recover => Ok(json!(agent.recover().await)),
        }
    }
}

fn read<T: for<'a> Deserialize<'a>>(body: Value) -> Result<T, String> {
    serde_json::from_value(body).map_err(|e| format!("what was asked for is not understood: {e}"))
}

/// The agent's machines as metrics, read when they are asked for.
struct Figures(Arc<Agent>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let machines = self.0.status().machines;
        let seconds = |us: u64| us as f64 / 1e6;
        let spread = |s: &Option<Spread>| s.map_or(0.0, |s| seconds(s.p99));
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&MachineStatus) -> f64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for machine in &machines {
                let labels = [("machine", machine.name.as_str())];
                ConstGauge::new(value(machine)).encode(family.encode_family(&labels)?)?;
            }
            fmt::Result::Ok(())
        };
        let is = |held: bool| f64::from(u8::from(held));
        gauge(
            "host_machine_protected",
            "Whether the machine runs here, protected",
            &|m| is(m.role == Role::Active && m.phase == "protected"),
        )?;
        gauge(
            "host_machine_standing_by",
            "Whether the machine waits here with a whole epoch",
            &|m| is(m.role == Role::Standby && m.committed > 0),
        )?;
        gauge(
            "host_pause_p99_seconds",
            "Time that the machine stands still for an epoch",
            &|m| spread(&m.pause),
        )?;
        gauge(
            "host_commit_p99_seconds",
            "Time until the standby holds an epoch",
            &|m| spread(&m.commit_latency),
        )?;
        gauge(
            "host_lag_seconds",
            "Age of the last epoch that the standby holds",
            &|m| seconds(m.lag.unwrap_or_default()),
        )?;
        gauge(
            "host_output_held_bytes",
            "Network output that waits for its epoch",
            &|m| m.held.bytes as f64,
        )?;
        gauge(
            "host_disk_buffer_bytes",
            "Disk writes that wait on the standby",
            &|m| m.disk_buffer as f64,
        )?;
        let mut counter = |name: &str, help: &str, value: &dyn Fn(&MachineStatus) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for machine in &machines {
                let labels = [("machine", machine.name.as_str())];
                ConstCounter::new(value(machine)).encode(family.encode_family(&labels)?)?;
            }
            fmt::Result::Ok(())
        };
        counter("host_epochs_committed", "Epochs that both hosts held", &|m| {
            m.committed
        })?;
        counter(
            "host_output_dropped_frames",
            "Frames dropped because too many waited",
            &|m| m.dropped,
        )?;
        counter("host_ring_waits", "Waits of copying for room in the ring", &|m| {
            m.ring_waits.count
        })
    }
}
