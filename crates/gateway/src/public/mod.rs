//! Exported web services under public host names: visitors come by [`crate::ingress`], are asked who they are ([`login`]), and
//! their requests go to [`crate::export`] under rules of the name's own. Strangers speak here, so everything they can take is
//! bounded: heads, silence, streams, logins.

mod call;
pub mod login;
mod serve;
mod stall;

use std::{collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hawser_proto::{HostName, ServiceName};
use hawser_store::Store;
use http::uri::Authority;

use self::login::{Keys, Login, Passwords};
use crate::{
    calls::CallMetrics,
    config::{GatewayPlan, LimitsConfig, PublishPlan},
    export::{Exporter, policy::Policy},
    ingress::{Handler, Visit},
};

/// Most concurrent requests on one HTTP/2 connection of a visitor, whatever `limits.streams` says.
const MAX_STREAMS: u32 = 128;

/// Serves published names. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Public(Arc<Inner>);

struct Inner {
    exporter: Exporter,
    metrics: CallMetrics,
    passwords: Passwords,
    keys: Keys,
    table: ArcSwap<Table>,
}

/// What is published, and what one visitor may take.
struct Table {
    sites: BTreeMap<HostName, Arc<Site>>,
    limits: LimitsConfig,
}

/// One published name.
struct Site {
    plan: PublishPlan,
    authority: Authority,
    export: ServiceName,
    policy: Arc<Policy>,
    login: Login,
}

/// Why a name cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("publish {name}: {why}")]
pub struct PublishError {
    /// The name.
    pub name: HostName,
    /// What is wrong.
    pub why: String,
}

impl Public {
    /// Serves what the plan publishes. `store` is the gateway's own, where its users are.
    pub(crate) fn new(
        exporter: Exporter,
        metrics: CallMetrics,
        store: &Store,
        plan: &GatewayPlan,
    ) -> Result<Self, PublishError> {
        let (passwords, keys) = (Passwords::new(store), Keys::new(store));
        let table = Table::new(plan, &BTreeMap::new(), &passwords, &keys)?;
        Ok(Self(Arc::new(Inner {
            exporter,
            metrics,
            passwords,
            keys,
            table: ArcSwap::from_pointee(table),
        })))
    }

    /// What another plan publishes: made before anything changes.
    pub(crate) fn prepare(&self, plan: &GatewayPlan) -> Result<Prepared, PublishError> {
        let before = self.0.table.load();
        Table::new(plan, &before.sites, &self.0.passwords, &self.0.keys).map(Prepared)
    }

    /// Puts it into force, for visitors who are there, too.
    pub(crate) fn apply(&self, prepared: Prepared) {
        self.0.table.store(Arc::new(prepared.0));
    }
}

/// A table that can be put into force.
pub(crate) struct Prepared(Table);

impl Table {
    fn new(
        plan: &GatewayPlan,
        before: &BTreeMap<HostName, Arc<Site>>,
        passwords: &Passwords,
        keys: &Keys,
    ) -> Result<Self, PublishError> {
        let mut sites = BTreeMap::new();
        for p in &plan.publish {
            let site = match before.get(&p.name) {
                Some(same) if same.plan == *p => same.clone(),
                _ => Arc::new(Site::new(p, passwords, keys)?),
            };
            sites.insert(p.name.clone(), site);
        }
        Ok(Self {
            sites,
            limits: plan.front.limits.clone(),
        })
    }
}

impl Site {
    fn new(plan: &PublishPlan, passwords: &Passwords, keys: &Keys) -> Result<Self, PublishError> {
        let login = Login::new(plan, passwords, keys).map_err(|why| PublishError {
            name: plan.name.clone(),
            why,
        })?;
        Ok(Self {
            authority: plan.authority.clone(),
            export: plan.export.clone(),
            policy: Arc::new(plan.policy.clone()),
            login,
            plan: plan.clone(),
        })
    }
}

impl Handler for Public {
    fn visit(&self, visit: Visit) -> BoxFuture<'static, ()> {
        Box::pin(serve::connection(self.clone(), visit))
    }
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Public")
    }
}
