//! What the mailbox says, and what is answered: reports become states and receipts, questions for content become grants.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        api::State,
        mailbox::{Happening, Report},
        statement::{AckCode, Acknowledgement, Signed},
    },
};
use hawser_seal::{PublicKey, receipt};
use tokio::sync::Mutex;
use tracing::{debug, info, warn};

use crate::{
    core::Core,
    delivery::{self, Ack, Effects, Event, Key, Machine, Row},
    directory::{Device, Home},
    fetching::Fetching,
    link::{Heard, MailboxLink, Reply, Said},
    metrics::count,
    outbox::{Changes, OutboxError},
};

/// Wait before reports are tried again that the outbox did not take.
const PAUSE: Duration = Duration::from_secs(1);
/// Most devices whose coming and going waits to be written down.
const MAX_CONTACTS: usize = 100_000;

/// One broker's side of the conversation with its mailbox.
pub(crate) struct Conversation {
    core: Arc<Core>,
    fetching: Arc<Fetching>,
    contacts: std::sync::Mutex<BTreeMap<DeviceHandle, (UnixTime, bool)>>,
    /// The mailbox that the domain's devices have; another hub's is not used.
    home: Mutex<Option<Home>>,
}

impl Conversation {
    pub(crate) fn new(core: Arc<Core>, fetching: Arc<Fetching>, home: Option<Home>) -> Self {
        core.mailbox
            .store(Arc::new(home.as_ref().and_then(|h| h.url.clone())));
        Self {
            core,
            fetching,
            contacts: std::sync::Mutex::default(),
            home: Mutex::new(home),
        }
    }

    /// Takes what a mailbox said, in its order.
    pub(crate) async fn heard(&self, heard: Heard) {
        let Heard { link, said } = heard;
        if !self.is_home(&link).await {
            return;
        }
        match said {
            Said::Up => {
                self.core.link.send_replace(Some(link.clone()));
                self.core.metrics.mailbox.set(1);
                tokio::spawn(crate::reconcile::introduce(self.core.clone(), link));
            }
            Said::Down(why) => {
                let ours =
                    |l: &Option<Arc<dyn MailboxLink>>| l.as_ref().is_some_and(|l| Arc::ptr_eq(l, &link));
                let ended = self.core.link.send_if_modified(|current| {
                    let ours = ours(current);
                    if ours {
                        *current = None;
                    }
                    ours
                });
                if ended {
                    debug!(reason = %why, "without a mailbox for now");
                    self.core.metrics.mailbox.set(0);
                    self.fetching.clear();
                }
            }
            Said::Reports(reports) => self.reports(&link, reports).await,
            Said::Fetch { id, device, request } => self.fetching.asked(link, id, device, request),
            Said::Pull { id, offset } => self.fetching.pull(&link, id, offset).await,
            Said::Over(id) => self.fetching.over(id),
            Said::Contact {
                device,
                connected,
                at,
            } => {
                let mut contacts = self
                    .contacts
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                if contacts.len() < MAX_CONTACTS {
                    contacts.insert(device, (at, connected));
                }
            }
        }
    }

    /// The first mailbox that answers is the domain's for good: its address is told to devices.
    async fn is_home(&self, link: &Arc<dyn MailboxLink>) -> bool {
        let mut known = self.home.lock().await;
        let new = Home {
            pin: link.pin(),
            url: Some(link.url().into()),
        };
        match &*known {
            Some(home) if home.pin != new.pin => return false,
            Some(home) if *home == new => return true,
            _ => {}
        }
        if let Err(e) = self.core.directory.set_home(&new).await {
            warn!(error = %e, "the mailbox cannot be written down");
            return known.is_some();
        }
        info!(url = link.url(), "this mailbox is the domain's");
        self.core.mailbox.store(Arc::new(new.url.clone()));
        *known = Some(new);
        true
    }

    /// Writes down which devices came and went.
    pub(crate) async fn write_contacts(&self) {
        let seen = std::mem::take(
            &mut *self
                .contacts
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        if seen.is_empty() {
            return;
        }
        let seen: Vec<_> = seen
            .into_iter()
            .map(|(d, (at, connected))| (d, at, connected))
            .collect();
        if let Err(e) = self.core.directory.note_contacts(&seen).await {
            warn!(error = %e, "when devices were connected could not be written down");
        }
    }

    /// Takes reports, and confirms them once they are on disk. Repeats until that is so: the mailbox keeps them until then.
    async fn reports(&self, link: &Arc<dyn MailboxLink>, reports: Vec<Report>) {
        let Some(last) = reports.last().map(|r| r.number) else {
            return;
        };
        while let Err(e) = self.take(&reports).await {
            debug!(error = %e, "reports wait for the outbox");
            tokio::time::sleep(PAUSE).await;
        }
        // On a connection that has ended they come again.
        let _ = link.reply(Reply::Taken(last)).await;
    }

    async fn take(&self, reports: &[Report]) -> Result<(), OutboxError> {
        let mut checked = Vec::with_capacity(reports.len());
        for report in reports {
            if let Some(happened) = self.check(report).await? {
                checked.push(happened);
            }
        }
        let now = UnixTime::now();
        let change = |machine: &mut Machine| {
            let mut effects = Effects::default();
            for happened in checked {
                effects.append(happened.apply(machine, now));
            }
            ((), effects)
        };
        self.core.change(change).await.map(drop)
    }

    /// Believes nothing that the device has not signed, but what only the mailbox can know.
    async fn check(&self, report: &Report) -> Result<Option<Happened>, OutboxError> {
        let device = report.device;
        Ok(match &report.what {
            Happening::Sent { sequence } => Some(Happened::Sent(device, *sequence)),
            Happening::GivenUp { sequence, reason } => Some(Happened::GivenUp(device, *sequence, *reason)),
            Happening::Acknowledged(signed) => self.acknowledged(device, signed).await?,
        })
    }

    async fn acknowledged(
        &self,
        handle: DeviceHandle,
        signed: &[u8],
    ) -> Result<Option<Happened>, OutboxError> {
        let refused = |why: &'static str| {
            warn!(device = %handle, reason = why, "an acknowledgement is not believed");
            count(&self.core.metrics.acks, "refused");
            Ok(None)
        };
        let snapshot = self.core.snapshot.load_full();
        let Some(device) = snapshot.device(&handle) else {
            return refused("no such device");
        };
        let Ok(signed) = Signed::<Acknowledgement>::parse(signed) else {
            return refused("it is malformed");
        };
        let Ok(key) = PublicKey::from_bytes(&device.signing_key) else {
            return refused("the device's key is damaged");
        };
        let Ok(ack) = hawser_seal::verify(&signed, &key) else {
            return refused("the signature is not the device's");
        };
        if ack.device != handle {
            return refused("it names another device");
        }
        let Some((place, event, row)) = self.find(handle, ack.sequence).await? else {
            debug!(device = %handle, sequence = ack.sequence, "an acknowledgement of what is long over");
            return Ok(None);
        };
        if !row.hashes.iter().any(|hash| hash.0 == ack.envelope) {
            return refused("it names another envelope");
        }
        let Some(receipt) = self.receipt(&event, device, &signed, &key) else {
            return refused("the receipt could not be signed");
        };
        count(&self.core.metrics.acks, word(ack.code));
        let ack_ = Ack {
            code: ack.code,
            receipt,
        };
        Ok(Some(match place {
            Place::Live => Happened::Acknowledged(handle, ack.sequence, ack_),
            Place::Done(key) => Happened::Late(key, Box::new(row), ack_),
        }))
    }

    fn receipt(
        &self,
        event: &Event,
        device: &Device,
        signed: &Signed<Acknowledgement>,
        key: &PublicKey,
    ) -> Option<String> {
        let about = receipt::About {
            domain: self.core.domain.clone(),
            delivery: event.delivery,
            source: event.source.clone(),
            id: event.id.clone(),
            user: device.user.clone(),
        };
        receipt::issue(&self.core.sealer.sender, about, signed, key, UnixTime::now()).ok()
    }

    async fn find(
        &self,
        device: DeviceHandle,
        sequence: u64,
    ) -> Result<Option<(Place, Arc<Event>, Row)>, OutboxError> {
        let live = self.core.machine().by_number(device, sequence);
        if let Some((_, event, row)) = live {
            return Ok(Some((Place::Live, event, row)));
        }
        let Some(key) = self.core.outbox.by_sequence(device, sequence).await? else {
            return Ok(None);
        };
        let kept = self.core.outbox.kept(key.0).await?;
        Ok(kept.and_then(|mut kept| {
            let place = key.1 as usize;
            let row = (place < kept.rows.len()).then(|| kept.rows.swap_remove(place))?;
            Some((Place::Done(key), Arc::new(kept.event), row))
        }))
    }
}

/// Where a row is.
enum Place {
    Live,
    Done(Key),
}

/// A report that is believed.
enum Happened {
    Sent(DeviceHandle, u64),
    GivenUp(DeviceHandle, u64, hawser_proto::broker::statement::SkipReason),
    Acknowledged(DeviceHandle, u64, Ack),
    /// Of a row whose event is done.
    Late(Key, Box<Row>, Ack),
}

impl Happened {
    fn apply(self, machine: &mut Machine, now: UnixTime) -> Effects {
        match self {
            Self::Sent(device, sequence) => machine.sent(device, sequence, now),
            Self::GivenUp(device, sequence, reason) => machine.given_up(device, sequence, reason, now),
            Self::Acknowledged(device, sequence, ack) => machine.acknowledged(device, sequence, &ack, now),
            Self::Late(key, mut row, ack) => {
                let mut changes = Changes::default();
                if row.state != State::Opened && delivery::apply(&mut row, &ack, now) {
                    changes.rows.push((key.0, key.1, *row));
                }
                Effects {
                    changes,
                    ..Effects::default()
                }
            }
        }
    }
}

fn word(code: AckCode) -> &'static str {
    match code {
        AckCode::Delivered => "delivered",
        AckCode::CannotDecrypt => "cannot_decrypt",
        AckCode::NotDelivered => "not_delivered",
        AckCode::Opened => "opened",
    }
}
