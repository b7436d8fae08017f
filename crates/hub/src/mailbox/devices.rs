//! The devices that may come to the mailbox, by heart: who they are, and their streams. What the store says is put here by
//! the conversation with their gateway; a revocation is put here first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hawser_proto::broker::DeviceHandle;
use hawser_store::mailbox::{Device, Item};

use super::feed::{End, Feed};

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    devices: HashMap<DeviceHandle, Known>,
    /// Domains that may be here.
    admitted: BTreeSet<Arc<str>>,
    streams: usize,
}

#[derive(Debug)]
struct Known {
    domain: Arc<str>,
    thumbprint: [u8; 32],
    revoked: bool,
    feeds: Vec<Arc<Feed>>,
    /// What it has asked its domain for, and has not got.
    asked: usize,
}

/// Why a device is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotIn {
    /// There is none with this handle and key.
    Unknown,
    /// It is revoked.
    Revoked,
    /// Its domain may not be here any more.
    Domain,
}

/// Why a stream does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoStream {
    /// The device is not in any more.
    NotIn(NotIn),
    /// As many streams as there may be, of all devices or of this one.
    Full,
}

impl Devices {
    /// A device as the store has it. Streams of another key end.
    pub(super) fn put(&mut self, device: &Device) {
        let handle = DeviceHandle(device.handle);
        let known = self.devices.entry(handle).or_insert_with(|| Known {
            domain: device.domain.clone(),
            thumbprint: device.thumbprint,
            revoked: false,
            feeds: Vec::new(),
            asked: 0,
        });
        known.revoked |= device.revoked;
        let end = match known.revoked {
            true => Some(End::Revoked),
            false => (known.thumbprint != device.thumbprint).then_some(End::NotAllowed),
        };
        known.thumbprint = device.thumbprint;
        if let Some(end) = end {
            known.feeds.iter().for_each(|feed| feed.end(end));
        }
    }

    /// A device is out, if it is the domain's. Its streams end now. Its key, if it was in.
    pub(super) fn revoke(&mut self, domain: &str, handle: &DeviceHandle) -> Option<[u8; 32]> {
        let known = self.devices.get_mut(handle).filter(|d| &*d.domain == domain)?;
        known.revoked = true;
        known.feeds.iter().for_each(|feed| feed.end(End::Revoked));
        Some(known.thumbprint)
    }

    /// Only these domains may be here from now on.
    pub(super) fn admit_domains(&mut self, domains: BTreeSet<Arc<str>>) {
        for known in self.devices.values().filter(|d| !domains.contains(&d.domain)) {
            known.feeds.iter().for_each(|feed| feed.end(End::NotAllowed));
        }
        self.admitted = domains;
    }

    /// Forgets the devices of all domains but these. Whether there were any.
    pub(super) fn retain(&mut self, domains: &[Arc<str>]) -> bool {
        let before = self.devices.len();
        self.devices.retain(|_, known| {
            let keep = domains.contains(&known.domain);
            if !keep {
                known.feeds.iter().for_each(|feed| feed.end(End::NotAllowed));
            }
            keep
        });
        self.devices.len() < before
    }

    /// Every stream ends.
    pub(super) fn end(&self, why: End) {
        let feeds = self.devices.values().flat_map(|known| &known.feeds);
        feeds.for_each(|feed| feed.end(why));
    }

    /// Whether there may be a device with this handle, before it has proved anything.
    pub(super) fn knows(&self, handle: &DeviceHandle) -> bool {
        self.devices.contains_key(handle)
    }

    /// The domain of the device that has this handle and proved this key.
    pub(super) fn let_in(&self, handle: &DeviceHandle, thumbprint: &[u8; 32]) -> Result<Arc<str>, NotIn> {
        let known = self.devices.get(handle).filter(|d| d.thumbprint == *thumbprint);
        match known {
            None => Err(NotIn::Unknown),
            Some(known) if known.revoked => Err(NotIn::Revoked),
            Some(known) if !self.admitted.contains(&known.domain) => Err(NotIn::Domain),
            Some(known) => Ok(known.domain.clone()),
        }
    }

    /// A stream begins. Whether it is the device's first.
    pub(super) fn begin(
        &mut self,
        handle: &DeviceHandle,
        thumbprint: &[u8; 32],
        feed: &Arc<Feed>,
        limits: (usize, usize),
    ) -> Result<bool, NoStream> {
        // Looked at again, since a revocation may have come after the proof was.
        self.let_in(handle, thumbprint).map_err(NoStream::NotIn)?;
        let (all, own) = limits;
        let Some(known) = self.devices.get_mut(handle) else {
            return Err(NoStream::NotIn(NotIn::Unknown));
        };
        if self.streams >= all || known.feeds.len() >= own {
            return Err(NoStream::Full);
        }
        self.streams += 1;
        if known.feeds.is_empty() {
            known.feeds = Vec::with_capacity(1);
        }
        known.feeds.push(feed.clone());
        Ok(known.feeds.len() == 1)
    }

    /// A stream has ended. Whether it was the device's last.
    pub(super) fn leave(&mut self, handle: &DeviceHandle, feed: &Arc<Feed>) -> bool {
        self.streams -= 1;
        let Some(known) = self.devices.get_mut(handle) else {
            return false;
        };
        known.feeds.retain(|f| !Arc::ptr_eq(f, feed));
        known.feeds.is_empty()
    }

    /// An item came into a queue.
    pub(super) fn came(&self, handle: &DeviceHandle, item: Item) {
        if let Some(known) = self.devices.get(handle).filter(|d| !d.feeds.is_empty()) {
            let item = Arc::new(item);
            known.feeds.iter().for_each(|feed| feed.push(&item));
        }
    }

    /// Envelopes with these numbers have gone from a queue.
    pub(super) fn withdrawn(&self, handle: &DeviceHandle, from: u64, to: u64) {
        if let Some(known) = self.devices.get(handle) {
            known.feeds.iter().for_each(|feed| feed.withdraw(from, to));
        }
    }

    /// The device asks its domain for something; false if it has asked for too much at once.
    pub(super) fn ask(&mut self, handle: &DeviceHandle, most: usize) -> bool {
        let known = self.devices.get_mut(handle).filter(|d| d.asked < most);
        known.map(|d| d.asked += 1).is_some()
    }

    /// It got what it asked for, or did not.
    pub(super) fn asked(&mut self, handle: &DeviceHandle) {
        if let Some(known) = self.devices.get_mut(handle) {
            known.asked = known.asked.saturating_sub(1);
        }
    }

    /// How many streams there are.
    pub(super) fn streams(&self) -> usize {
        self.streams
    }

    /// The devices of a domain that have a stream.
    pub(super) fn connected(&self, domain: &str) -> Vec<DeviceHandle> {
        let of = self.devices.iter().filter(|(_, d)| &*d.domain == domain);
        of.filter(|(_, d)| !d.feeds.is_empty()).map(|(h, _)| *h).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u8, key: u8) -> Device {
        Device {
            handle: [n; 16],
            domain: "acme".into(),
            thumbprint: [key; 32],
            epoch: 1,
            revoked: false,
        }
    }

    fn devices() -> Devices {
        let mut devices = Devices::default();
        devices.admit_domains([Arc::from("acme")].into());
        devices.put(&device(1, 1));
        devices
    }

    const HANDLE: DeviceHandle = DeviceHandle([1; 16]);

    #[test]
    fn only_the_registered_key_is_let_in() {
        let mut d = devices();
        assert_eq!(d.let_in(&HANDLE, &[1; 32]).as_deref(), Ok("acme"));
        assert_eq!(d.let_in(&HANDLE, &[2; 32]), Err(NotIn::Unknown));
        assert_eq!(d.let_in(&DeviceHandle([2; 16]), &[1; 32]), Err(NotIn::Unknown));
        d.put(&device(1, 2));
        assert_eq!(d.let_in(&HANDLE, &[1; 32]), Err(NotIn::Unknown));
        assert!(
            d.revoke("beta", &HANDLE).is_none(),
            "another domain's word counts nothing"
        );
        assert!(d.let_in(&HANDLE, &[2; 32]).is_ok());
        assert_eq!(d.revoke("acme", &HANDLE), Some([2; 32]));
        d.put(&device(1, 2));
        assert_eq!(d.let_in(&HANDLE, &[2; 32]), Err(NotIn::Revoked), "for good");
        d.put(&device(3, 3));
        d.admit_domains(BTreeSet::new());
        assert_eq!(d.let_in(&DeviceHandle([3; 16]), &[3; 32]), Err(NotIn::Domain));
    }

    #[test]
    fn streams_are_bounded_and_end_with_what_they_rest_on() {
        let mut d = devices();
        let feeds: Vec<_> = (0..3).map(|_| Arc::new(Feed::default())).collect();
        assert_eq!(d.begin(&HANDLE, &[1; 32], &feeds[0], (9, 2)), Ok(true));
        assert_eq!(d.begin(&HANDLE, &[1; 32], &feeds[1], (9, 2)), Ok(false));
        assert_eq!(d.begin(&HANDLE, &[1; 32], &feeds[2], (9, 2)), Err(NoStream::Full));
        assert!(!d.leave(&HANDLE, &feeds[0]));
        d.put(&device(1, 2));
        assert_eq!(feeds[1].ended(), Some(End::NotAllowed), "its key is no more");
        assert!(d.leave(&HANDLE, &feeds[1]));
        assert_eq!(d.begin(&HANDLE, &[2; 32], &feeds[2], (1, 2)), Ok(true));
        d.revoke("acme", &HANDLE);
        assert_eq!(feeds[2].ended(), Some(End::Revoked));
        assert!(d.leave(&HANDLE, &feeds[2]));
        assert_eq!(
            d.begin(&HANDLE, &[2; 32], &feeds[2], (9, 9)),
            Err(NoStream::NotIn(NotIn::Revoked))
        );
        assert_eq!(d.streams(), 0);
    }
}
