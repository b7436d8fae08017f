//! Devices and users that come and go: where their pending content goes.

use hawser_proto::{
    UnixTime,
    broker::{DeliveryId, DeviceHandle, UserName, api::State},
};

use super::{Effects, Machine};
use crate::delivery::Row;

impl Machine {
    /// A device is out. What was pending for it goes to those of the user's `others` that do not have it, or waits for the next
    /// one; if the user is gone, too (`None`), it ends.
    pub fn gone(&mut self, device: DeviceHandle, others: Option<&[DeviceHandle]>, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        let Some(lane) = self.lanes.remove(&device) else {
            return effects;
        };
        effects.changes.gone.push(device);
        self.gaps.retain(|(d, _), _| *d != device);
        effects.changes.gaps.retain(|g| g.device != device);
        for key in lane.rows {
            let Some(row) = self.row(key) else {
                continue;
            };
            let (user, sequence) = (row.user.clone(), row.sequence);
            self.numbers.remove(&(device, sequence));
            effects.forget.push((device, sequence));
            // Rows come before the end of this one: the event is not done in between.
            if let Some(others) = others {
                self.requeue(key.0, &user, others, now, &mut effects);
            }
            self.end(key, State::Dropped, "the device was revoked", now, &mut effects);
        }
        self.numbers.retain(|(d, _), _| *d != device);
        effects
    }

    fn requeue(
        &mut self,
        id: DeliveryId,
        user: &UserName,
        others: &[DeviceHandle],
        now: UnixTime,
        effects: &mut Effects,
    ) {
        let Some(live) = self.events.get_mut(&id) else {
            return;
        };
        let has = |device: Option<DeviceHandle>| {
            let same = |row: &Row| row.user == *user && row.device == device;
            live.rows.iter().any(same)
        };
        let mut new: Vec<Option<DeviceHandle>> =
            others.iter().copied().map(Some).filter(|d| !has(*d)).collect();
        if others.is_empty() && !has(None) {
            new.push(None);
        }
        for device in new {
            let number = live.rows.len() as u32;
            let row = Row::new(user.clone(), device, now);
            effects.changes.rows.push((id, number, row.clone()));
            live.rows.push(row);
            match device {
                Some(device) => {
                    let lane = self.lanes.entry(device).or_default();
                    lane.rows.insert((id, number));
                    lane.push((id, number));
                    if !lane.listed {
                        lane.listed = true;
                        self.ready.push_back(device);
                    }
                }
                None => {
                    self.held.entry(user.clone()).or_default().insert((id, number));
                }
            }
        }
    }

    /// A user has a new device: it gets what was held for want of one.
    pub fn arrived(&mut self, user: &UserName, device: DeviceHandle, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        for key in self.held.remove(user).unwrap_or_default() {
            if self.row(key).is_none_or(|row| row.state != State::Held) {
                continue;
            }
            self.change(key, &mut effects, |row| {
                row.device = Some(device);
                row.set(State::Accepted, now, None);
            });
            let lane = self.lanes.entry(device).or_default();
            lane.rows.insert(key);
            lane.push(key);
        }
        self.list(device);
        effects
    }

    /// A user is gone: what was held ends.
    pub fn user_gone(&mut self, user: &UserName, now: UnixTime) -> Effects {
        let mut effects = Effects::default();
        for key in self.held.remove(user).unwrap_or_default() {
            self.end(key, State::Dropped, "the user was removed", now, &mut effects);
        }
        effects
    }

    /// Users with something held.
    pub fn holding(&self) -> impl Iterator<Item = &UserName> {
        self.held.keys()
    }

    /// Devices that ever had something here, and are not gone.
    pub fn devices(&self) -> impl Iterator<Item = DeviceHandle> {
        self.lanes.keys().copied()
    }
}
