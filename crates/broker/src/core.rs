//! What all parts of a running broker share, and the one way in which the delivery machine is changed: a change is computed and
//! put into the outbox's queue under one lock, so that the disk sees changes in the machine's order.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use hawser_proto::{DomainName, broker::DeviceHandle};
use tokio::sync::{Notify, watch};
use tracing::error;

use crate::{
    delivery::{Effects, Machine},
    directory::{Directory, Snapshot},
    link::MailboxLink,
    metrics::Metrics,
    outbox::{Outbox, OutboxError},
    sealing::Sealer,
};

/// What follows from a change besides what was written.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// Devices that the mailbox must be told of.
    pub(crate) admit: Vec<DeviceHandle>,
    /// Sealed bytes that are needed no more.
    pub(crate) forget: Vec<(DeviceHandle, u64)>,
}

/// See the module page.
pub(crate) struct Core {
    pub(crate) domain: DomainName,
    /// `https://NAME[:PORT]`: where devices reach control.
    pub(crate) control: String,
    pub(crate) directory: Directory,
    pub(crate) outbox: Outbox,
    pub(crate) sealer: Sealer,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    machine: Mutex<Machine>,
    /// The engine has something to do.
    pub(crate) work: Notify,
    /// The directory is to be compared with the deliveries again.
    pub(crate) again: Notify,
    /// The machine may be ahead of the disk: it is to be read anew.
    broken: AtomicBool,
    /// Where devices reached the mailbox last, whether it is connected or not.
    pub(crate) mailbox: ArcSwap<Option<String>>,
    pub(crate) link: watch::Sender<Option<Arc<dyn MailboxLink>>>,
    /// Changes when the directory was read anew, and all that follows from it is done.
    pub(crate) reconciled: watch::Sender<u64>,
    pub(crate) metrics: Metrics,
}

impl Core {
    #[allow(clippy::too_many_arguments, reason = "called once, by name")]
    pub(crate) fn new(
        domain: DomainName,
        control: String,
        directory: Directory,
        outbox: Outbox,
        sealer: Sealer,
        snapshot: Snapshot,
        machine: Machine,
        metrics: Metrics,
    ) -> Self {
        Self {
            domain,
            control,
            directory,
            outbox,
            sealer,
            snapshot: ArcSwap::from_pointee(snapshot),
            machine: Mutex::new(machine),
            work: Notify::new(),
            again: Notify::new(),
            broken: AtomicBool::new(false),
            mailbox: ArcSwap::from_pointee(None),
            link: watch::Sender::new(None),
            reconciled: watch::Sender::new(0),
            metrics,
        }
    }

    /// The machine, for reading.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mailbox's connection, while there is one.
    pub(crate) fn link(&self) -> Option<Arc<dyn MailboxLink>> {
        self.link.borrow().clone()
    }

    /// Changes the machine; what that changes is on disk when this returns well. Not cancel safe: the change is made.
    pub(crate) async fn change<T>(
        &self,
        change: impl FnOnce(&mut Machine) -> (T, Effects),
    ) -> Result<(T, Rest), OutboxError> {
        let place = self.outbox.place().await?;
        let (value, effects, written) = {
            let mut machine = self.machine();
            if self.is_broken() {
                return Err(OutboxError::Closed);
            }
            let (value, effects) = change(&mut machine);
            let written = match effects.changes.is_empty() {
                true => None,
                false => Some(self.outbox.write(place, effects.changes.clone())),
            };
            (value, effects, written)
        };
        effects.rekey.iter().for_each(|device| self.sealer.rekey(device));
        if let Some(written) = written {
            if let Err(e) = written.await {
                self.fail(&e);
                return Err(e);
            }
            self.machine().written(&effects.changes);
        }
        self.work.notify_one();
        let rest = Rest {
            admit: effects.admit,
            forget: effects.forget,
        };
        Ok((value, rest))
    }

    /// Whether the machine may be ahead of the disk.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Nothing is changed any more until [`Core::recover`].
    pub(crate) fn fail(&self, e: &OutboxError) {
        let _order = self.machine();
        if !self.broken.swap(true, Ordering::AcqRel) {
            error!(error = %e, "the outbox cannot be written; nothing is delivered until it can");
        }
        self.work.notify_one();
    }

    /// Goes on from what is on disk.
    pub(crate) async fn recover(&self) -> Result<(), OutboxError> {
        let restored = self.outbox.restore().await?;
        let mut machine = self.machine();
        *machine = Machine::restore(restored);
        self.broken.store(false, Ordering::Release);
        Ok(())
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({})", self.domain)
    }
}
