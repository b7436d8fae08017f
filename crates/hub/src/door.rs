//! Counts connections that have not proved yet who they are, so that strangers can fill neither the hub nor, from one
//! source, its door.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The door. Clones are the same door.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    limits: DoorLimits,
    total: usize,
    sources: HashMap<IpAddr, usize>,
}

/// How many may stand in the door.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DoorLimits {
    /// Of all sources.
    pub(crate) total: usize,
    /// Of one source.
    pub(crate) per_source: usize,
}

/// Which bound a newcomer ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// That of all sources together.
    #[error("too many connections have not proved who they are")]
    Total,
    /// That of its source.
    #[error("too many connections of this source have not proved who they are")]
    Source,
}

/// A place in the door, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    door: Door,
    source: IpAddr,
}

impl Door {
    /// A door with nobody in it.
    pub(crate) fn new(limits: DoorLimits) -> Self {
        let door = Self::default();
        door.limit(limits);
        door
    }

    /// Other limits from now on; who stands in the door stays.
    pub(crate) fn limit(&self, limits: DoorLimits) {
        self.counts().limits = limits;
    }

    /// A connection from this address arrives.
    pub(crate) fn enter(&self, from: IpAddr) -> Result<Place, Full> {
        let source = source(from);
        let mut counts = self.counts();
        if counts.total >= counts.limits.total {
            return Err(Full::Total);
        }
        let per_source = counts.limits.per_source;
        let here = counts.sources.entry(source).or_default();
        if *here >= per_source {
            return Err(Full::Source);
        }
        *here += 1;
        counts.total += 1;
        Ok(Place {
            door: self.clone(),
            source,
        })
    }

    /// How many stand in the door.
    pub(crate) fn len(&self) -> usize {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.door.counts();
        counts.total -= 1;
        if let Some(n) = counts.sources.get_mut(&self.source) {
            *n -= 1;
            if *n == 0 {
                counts.sources.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, which one host can have all to itself.
pub(crate) fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn one_source_cannot_take_every_place_and_places_come_back() {
        let door = Door::new(DoorLimits {
            total: 3,
            per_source: 2,
        });
        let a = door.enter(ip("192.0.2.1")).unwrap();
        let _b = door.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(door.enter(ip("192.0.2.1")).unwrap_err(), Full::Source);
        let _c = door.enter(ip("2001:db8::1")).unwrap();
        assert_eq!(door.enter(ip("192.0.2.9")).unwrap_err(), Full::Total);
        drop(a);
        let d = door.enter(ip("2001:db8::ffff")).unwrap();
        assert_eq!(door.len(), 3);
        drop((d, _b, _c));
        assert!(door.len() == 0 && door.counts().sources.is_empty());
    }

    #[test]
    fn a_whole_ipv6_64_is_one_source() {
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:1")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
    }
}
