//! The agent of a hypervisor host, wired to its identity, to the hub's register and to the administration socket.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use hawser_gateway::{Node, NodeSettings};
use hawser_protect::host::{Agent, HostConfig, Identity, Request};
use hawser_proto::arbiter::VmId;
use hawser_session::carrier::{Direct, Ways};
use prometheus_client::registry::Registry;
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
        let agent = Agent::start(config.clone(), identity, arbiter).await?;
        Ok(Self {
            node: Arc::new(node),
            agent: Arc::new(agent),
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
