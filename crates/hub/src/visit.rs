//! Clients from outside that ask for a published name: who gets in, and how they wait for the gateway where their TLS ends.
//!
//! Such a client is the dialling side of a data session, without knowing of it: the gateway is told by a control message, dials in
//! with a ticket, and has the client's bytes from the first one on. The hub has read of them what it needs to find the gateway.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use hawser_proto::{HostName, control::ToGateway};
use hawser_session::{
    hello::Alert,
    hop::{Names, Site, Visitor},
};

use crate::{
    data::{self, Comer, End},
    door::{Place, source},
    pairing::Side,
    refusal::Refusal,
    shared::Shared,
};

impl Names for Shared {
    fn site(&self, name: &HostName) -> Option<Site> {
        let mailbox = self.front.load().as_ref().and_then(|front| front.site(name));
        mailbox.or_else(|| self.switch().is_published(name).then_some(Site::Published))
    }
}

/// Finds the gateway for a client, and leaves both to come together.
pub(crate) async fn run(shared: Arc<Shared>, from: SocketAddr, visitor: Visitor, place: Place) {
    let refusal = match invite(&shared, from.ip(), &visitor.name) {
        Ok((granted, stay)) => {
            let comer = Comer {
                end: End::Visitor(visitor, stay),
                party: None,
                place: Some(place),
            };
            let sessions = shared.sessions.clone();
            let (pair, expires) = (granted.pair, granted.expires);
            sessions.spawn(data::come(shared, pair, Side::Dialling, expires, comer));
            return;
        }
        Err(refusal) => refusal,
    };
    shared.metrics.refused(refusal.reason());
    tracing::debug!(name = %visitor.name, %from, reason = refusal.reason(), "refused a visitor");
    if let Err(error) = visitor.refuse(alert(&refusal)).await {
        tracing::debug!(%from, %error, "could not tell a visitor of a refusal");
    }
}

/// What TLS has for a refusal.
pub(crate) fn alert(refusal: &Refusal) -> Alert {
    match refusal {
        Refusal::NotPublished(_) => Alert::UnknownName,
        _ => Alert::Internal,
    }
}

type Granted = crate::switch::Granted<crate::shared::ControlHandle>;

fn invite(shared: &Arc<Shared>, from: IpAddr, name: &HostName) -> Result<(Granted, Stay), Refusal> {
    let stay = shared.visitors.enter(from, name)?;
    let granted = shared.switch().visit(Instant::now(), name)?;
    let visit = ToGateway::Visit {
        ticket: granted.accepting,
        name: name.clone(),
    };
    if granted.peer_handle.queue.try_send(visit).is_err() {
        shared.switch().tickets.void(granted.pair);
        return Err(Refusal::GatewayBusy((*granted.peer).clone()));
    }
    shared.metrics.granted.inc();
    tracing::debug!(%name, to = %granted.peer, pair = %granted.pair, "a visitor");
    Ok((granted, stay))
}

/// How many visitors there may be, those that wait for their gateway included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VisitorLimits {
    /// Of all names and sources.
    pub(crate) total: usize,
    /// Of one name.
    pub(crate) per_name: usize,
    /// Of one IPv4 address or IPv6 /64.
    pub(crate) per_source: usize,
}

/// Counts visitors. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visitors(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    limits: VisitorLimits,
    total: usize,
    names: HashMap<HostName, usize>,
    sources: HashMap<IpAddr, usize>,
}

/// One visitor, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Stay {
    visitors: Visitors,
    name: HostName,
    source: IpAddr,
}

impl Visitors {
    /// Nobody is there.
    pub(crate) fn new(limits: VisitorLimits) -> Self {
        let visitors = Self::default();
        visitors.limit(limits);
        visitors
    }

    /// Other limits from now on; who is there stays.
    pub(crate) fn limit(&self, limits: VisitorLimits) {
        self.counts().limits = limits;
    }

    /// A client comes.
    pub(crate) fn enter(&self, from: IpAddr, name: &HostName) -> Result<Stay, Refusal> {
        let source = source(from);
        let mut counts = self.counts();
        let limits = counts.limits;
        let of_name = counts.names.get(name).copied().unwrap_or_default();
        let of_source = counts.sources.get(&source).copied().unwrap_or_default();
        let full = [
            (counts.total, limits.total, "visitors"),
            (of_name, limits.per_name, "visitors_per_name"),
            (of_source, limits.per_source, "visitors_per_source"),
        ];
        if let Some((n, _, limit)) = full.into_iter().find(|(n, most, _)| n >= most) {
            return Err(Refusal::Visitors(n, limit));
        }
        counts.total += 1;
        *counts.names.entry(name.clone()).or_default() += 1;
        *counts.sources.entry(source).or_default() += 1;
        Ok(Stay {
            visitors: self.clone(),
            name: name.clone(),
            source,
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut counts = self.visitors.counts();
        counts.total -= 1;
        less(&mut counts.names, &self.name);
        less(&mut counts.sources, &self.source);
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_source_nor_a_name_takes_all_the_room() {
        let visitors = Visitors::new(VisitorLimits {
            total: 4,
            per_name: 3,
            per_source: 2,
        });
        let (a, b): (HostName, HostName) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let first = visitors.enter(ip(1), &a).unwrap();
        let _second = visitors.enter(ip(1), &a).unwrap();
        let why = |from, name: &HostName| visitors.enter(from, name).unwrap_err();
        assert_eq!(why(ip(1), &b), Refusal::Visitors(2, "visitors_per_source"));
        let _third = visitors.enter(ip(2), &a).unwrap();
        assert_eq!(why(ip(3), &a), Refusal::Visitors(3, "visitors_per_name"));
        let _fourth = visitors.enter(ip(3), &b).unwrap();
        assert_eq!(why(ip(4), &b), Refusal::Visitors(4, "visitors"));
        drop(first);
        drop(visitors.enter(ip(1), &a).unwrap());
        assert_eq!(visitors.len(), 3);
    }
}
