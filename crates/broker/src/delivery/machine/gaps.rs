//! Numbers that a device will not get: each is explained by a skip record, told until the mailbox confirms.

use hawser_proto::broker::{DeviceHandle, mailbox::Outcome, statement::SkipReason};

use super::{Effects, GapStage, Machine};
use crate::outbox::{Changes, Gap};

impl Machine {
    /// These changes are on disk: their gaps may be told.
    pub fn written(&mut self, changes: &Changes) {
        for gap in &changes.gaps {
            if let Some((_, stage)) = self.gaps.get_mut(&(gap.device, gap.from))
                && *stage == GapStage::New
            {
                *stage = GapStage::Todo;
            }
        }
    }

    /// Up to `limit` gaps that need a skip record now.
    pub fn take_gaps(&mut self, limit: usize) -> Vec<Gap> {
        let todo = self
            .gaps
            .values_mut()
            .filter(|(_, stage)| *stage == GapStage::Todo);
        let take = |(gap, stage): &mut (Gap, GapStage)| {
            *stage = GapStage::Moving;
            *gap
        };
        todo.take(limit).map(take).collect()
    }

    /// What became of a skip record.
    pub fn skipped(&mut self, device: DeviceHandle, from: u64, outcome: &Outcome) -> Effects {
        let mut effects = Effects::default();
        match outcome {
            Outcome::Busy | Outcome::Full | Outcome::UnknownDevice => {
                if let Some((_, stage)) = self.gaps.get_mut(&(device, from)) {
                    *stage = GapStage::Todo;
                }
                if *outcome == Outcome::UnknownDevice {
                    effects.admit.push(device);
                }
            }
            Outcome::Kept | Outcome::Revoked | Outcome::Refused(_) => {
                self.gaps.remove(&(device, from));
                effects.changes.filled.push((device, from));
            }
        }
        effects
    }

    /// Takes a number out of a lane, and has the gap explained.
    pub(super) fn drop_number(
        &mut self,
        device: DeviceHandle,
        number: u64,
        reason: SkipReason,
        effects: &mut Effects,
    ) {
        if let Some(lane) = self.lanes.get_mut(&device) {
            lane.give_up(number);
        }
        self.numbers.remove(&(device, number));
        effects.forget.push((device, number));
        self.gap(device, number, reason, effects);
    }

    pub(super) fn gap(
        &mut self,
        device: DeviceHandle,
        number: u64,
        reason: SkipReason,
        effects: &mut Effects,
    ) {
        let Some(lane) = self.lanes.get(&device) else {
            return;
        };
        let gap = Gap {
            device,
            from: number,
            to: number,
            reason,
        };
        self.gaps.insert((device, number), (gap, GapStage::New));
        effects.changes.gaps.push(gap);
        effects.changes.lanes.push((device, lane.next()));
    }
}
