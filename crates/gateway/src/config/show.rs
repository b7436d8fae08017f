//! What a plan would run, for people: `hawser check` prints it.

use std::{fmt, time::Duration};

use ipnet::IpNet;

use super::{
    certificate::CertificatePlan,
    plan::{CarrierPlan, GatewayPlan, OriginPlan},
    publish::LoginPlan,
    traces::TracesPlan,
};

impl GatewayPlan {
    /// What is allowed but probably not meant.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        for e in self.exports.iter().filter(|e| e.policy.rules().is_empty()) {
            all.push(format!(
                "export {}: no `allow` rule, so nobody may call it",
                e.name
            ));
        }
        for p in &self.publish {
            if p.policy.rules().is_empty() {
                all.push(format!(
                    "publish {}: no `allow` rule, so visitors may do nothing",
                    p.name
                ));
            }
        }
        if self.certificate_life < Duration::from_secs(600) {
            all.push(format!(
                "certificate_life: {:?} leaves little time to renew when an issuer is away; 10m or more is usual",
                self.certificate_life
            ));
        }
        let only_loopback = |clients: &[IpNet]| clients.iter().all(|n| n.addr().is_loopback());
        for i in &self.front.imports {
            if !i.listen.ip().is_loopback() && only_loopback(&i.clients) {
                all.push(format!(
                    "import {}: {} is reachable by other hosts, but `clients` lets in this one only",
                    i.service, i.listen
                ));
            }
        }
        if let Some(b) = &self.broker
            && b.listen.iter().any(|a| !a.ip().is_loopback())
            && only_loopback(&b.clients)
        {
            all.push("broker: it listens for other hosts, but `clients` lets in this one only".into());
        }
        if self.front.proxy.iter().any(|a| !a.ip().is_loopback()) && only_loopback(&self.front.proxy_clients)
        {
            all.push("proxy: it listens for other hosts, but `clients` lets in this one only".into());
        }
        if self.traces.as_ref().is_some_and(TracesPlan::tells_secrets) {
            all.push(
                "traces: the headers of headers_file go to the collector in clear; https keeps them secret"
                    .into(),
            );
        }
        all
    }
}

impl GatewayPlan {
    fn issuer(&self, f: &mut fmt::Formatter<'_>, of: &CertificatePlan) -> fmt::Result {
        match (of, &self.acme) {
            (CertificatePlan::Acme, Some(acme)) => writeln!(f, "    certificate from {}", acme.directory),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for GatewayPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "gateway, state in {}", self.state.display())?;
        if let Some(beside) = &self.beside {
            writeln!(
                f,
                "  reaches the hub {} in this process, at {}",
                beside.hub, beside.at
            )?;
        }
        for c in &self.carriers {
            match c {
                CarrierPlan::Direct => writeln!(f, "  way out: direct")?,
                CarrierPlan::Connect {
                    host,
                    port,
                    credentials,
                } => {
                    let user = credentials
                        .as_ref()
                        .map(|(u, _)| format!(" as {u}"))
                        .unwrap_or_default();
                    writeln!(f, "  way out: through the proxy {host}:{port}{user}")?;
                }
            }
        }
        if let Some(traces) = &self.traces {
            let (to, path, part) = (&traces.collector, traces.path.path(), traces.sample.0);
            writeln!(f, "  traces to {to}{path}, {part} of those that begin here")?;
        }
        for a in &self.front.proxy {
            let clients = list(&self.front.proxy_clients);
            writeln!(
                f,
                "  proxy on {a} for http://SERVICE.DOMAIN.{}/, clients {clients}",
                self.front.suffix
            )?;
        }
        for i in &self.front.imports {
            writeln!(
                f,
                "  import {} on {}, clients {}",
                i.service,
                i.listen,
                list(&i.clients)
            )?;
        }
        for e in &self.exports {
            writeln!(f, "  export {} at {}", e.name, e.origin)?;
            for rule in e.policy.rules() {
                writeln!(f, "    allow {rule}")?;
            }
            if let Some(queue) = &e.queue {
                writeln!(f, "    queue {queue}")?;
            }
            if let Some(inspect) = &e.inspect {
                writeln!(
                    f,
                    "    recorded in memory, {} bytes of each body",
                    inspect.body_bytes
                )?;
            }
        }
        if let Some(queue) = &self.callbacks.queue {
            writeln!(f, "  calls back: queue {queue}")?;
        }
        for p in &self.publish {
            writeln!(
                f,
                "  publish https://{}/ for the export {}, {}",
                p.authority, p.export, p.login
            )?;
            self.issuer(f, &p.certificate)?;
            for rule in p.policy.rules() {
                writeln!(f, "    allow {}", rule.what())?;
            }
        }
        if let Some(b) = &self.broker {
            let shown = match b.certificate {
                CertificatePlan::None => "command-line devices",
                _ => "browsers and command-line devices",
            };
            writeln!(f, "  broker published as {}, for {shown}", b.name)?;
            self.issuer(f, &b.certificate)?;
            for a in &b.listen {
                let tls = if b.tls.is_some() { ", with TLS" } else { "" };
                writeln!(f, "    events on {a}{tls}, clients {}", list(&b.clients))?;
            }
        }
        for w in self.warnings() {
            writeln!(f, "  note: {w}")?;
        }
        Ok(())
    }
}

impl fmt::Display for OriginPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginPlan::Http { url, .. } => write!(f, "{url}"),
            OriginPlan::Clients => f.write_str("clients' interface for calls back"),
            OriginPlan::Tcp { host, port } if host.contains(':') => write!(f, "tcp [{host}]:{port}"),
            OriginPlan::Tcp { host, port } => write!(f, "tcp {host}:{port}"),
        }
    }
}

impl fmt::Display for LoginPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoginPlan::None => f.write_str("without a login"),
            LoginPlan::Basic { users: None, .. } => f.write_str("login by password"),
            LoginPlan::Basic {
                users: Some(users), ..
            } => {
                let users: Vec<_> = users.iter().map(String::as_str).collect();
                write!(f, "login by password for {}", users.join(", "))
            }
            LoginPlan::Oidc(oidc) => write!(f, "login at {} as its client {}", oidc.issuer, oidc.client_id),
        }
    }
}

fn list(nets: &[IpNet]) -> String {
    nets.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
