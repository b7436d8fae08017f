//! Follows the directory: what an administrator changed beside the running broker, or a device by itself, reaches the mailbox and
//! the deliveries.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::StreamExt;
use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, UserName},
};
use tokio::time::{Duration, sleep};
use tracing::{debug, info, warn};

use crate::{
    core::Core,
    delivery::{Effects, Machine},
    directory::{DirectoryError, Snapshot},
    link::{MailboxLink, Request},
    outbox::OutboxError,
};

/// Commits that come within this time are one change.
const TOGETHER: Duration = Duration::from_millis(20);
/// Wait before a change is tried again that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Devices told of to the mailbox at the same time.
const INTRODUCING: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    let mut commits = core.directory.watch();
    loop {
        commits.mark_unchanged();
        if let Err(e) = once(&core).await {
            warn!(error = %e, "the directory could not be followed; trying again");
            sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            changed = commits.changed() => if changed.is_err() { return },
            () = core.again.notified() => {}
        }
        sleep(TOGETHER).await;
    }
}

/// Reads the directory, and does what follows.
pub(crate) async fn once(core: &Arc<Core>) -> Result<(), ReconcileError> {
    let new = core.directory.snapshot().await?;
    let old = core.snapshot.load_full();
    let good = |s: &Snapshot, h: &DeviceHandle| s.good(h).is_some();
    let came: Vec<_> = new
        .devices()
        .filter(|d| good(&new, &d.handle) && !good(&old, &d.handle))
        .cloned()
        .collect();
    let went: Vec<_> = new
        .devices()
        .filter(|d| !good(&new, &d.handle) && good(&old, &d.handle))
        .cloned()
        .collect();
    // Before anything else: a revoked device is cut within a second.
    if let Some(link) = core.link() {
        for device in &went {
            revoke(core, &link, device.handle);
        }
    }
    let now = UnixTime::now();
    // What follows may be sealed at once, to devices that came.
    let new = Arc::new(new);
    core.snapshot.store(new.clone());
    core.change(|machine| ((), follow(machine, &new, now))).await?;
    for device in &went {
        core.sealer.rekey(&device.handle);
        core.metrics.revocations.inc();
        info!(device = %device.handle, user = %device.user, "a device is out");
    }
    let (users, devices) = new.size();
    core.metrics.devices.set(devices as i64);
    debug!(users, devices, "the directory was read");
    if let Some(link) = core.link() {
        for device in came {
            admit(&link, &device).await;
        }
    }
    core.reconciled.send_modify(|n| *n = n.wrapping_add(1));
    core.work.notify_one();
    Ok(())
}

/// What a directory means for deliveries: also after a start, when nobody knows what changed meanwhile.
fn follow(machine: &mut Machine, directory: &Snapshot, now: UnixTime) -> Effects {
    let mut effects = Effects::default();
    let pending: Vec<DeviceHandle> = machine.devices().collect();
    for handle in pending {
        if directory.good(&handle).is_some() {
            continue;
        }
        let user = directory
            .device(&handle)
            .map(|d| &d.user)
            .filter(|u| directory.has_user(u));
        let others: Option<Vec<DeviceHandle>> =
            user.map(|user| directory.devices_of(user).map(|d| d.handle).collect());
        effects.append(machine.gone(handle, others.as_deref(), now));
    }
    let holding: BTreeSet<UserName> = machine.holding().cloned().collect();
    for user in holding {
        if !directory.has_user(&user) {
            effects.append(machine.user_gone(&user, now));
        } else if let Some(device) = directory.devices_of(&user).next() {
            effects.append(machine.arrived(&user, device.handle, now));
        }
    }
    effects
}

/// Tells a mailbox that has just been connected of every device: those that may collect, and those that may not any more.
pub(crate) async fn introduce(core: Arc<Core>, link: Arc<dyn MailboxLink>) {
    let snapshot = core.snapshot.load_full();
    let all: Vec<_> = snapshot.devices().cloned().collect();
    // Those who are out come first.
    let (good, out): (Vec<_>, Vec<_>) = all.into_iter().partition(|d| snapshot.good(&d.handle).is_some());
    let link = &link;
    futures_util::stream::iter(out)
        .for_each_concurrent(INTRODUCING, |device| async move {
            // One that is not answered is asked again on the next connection.
            let _ = link
                .request(Request::Revoke {
                    device: device.handle,
                })
                .await;
        })
        .await;
    futures_util::stream::iter(good)
        .for_each_concurrent(INTRODUCING, |device| async move { admit(link, &device).await })
        .await;
    core.work.notify_one();
}

async fn admit(link: &Arc<dyn MailboxLink>, device: &crate::directory::Device) {
    let request = Request::Admit {
        device: device.handle,
        thumbprint: device.thumbprint,
        epoch: device.epoch,
    };
    if let Err(e) = link.request(request).await {
        debug!(error = %e, device = %device.handle, "a device was not admitted yet");
    }
}

fn revoke(core: &Arc<Core>, link: &Arc<dyn MailboxLink>, device: DeviceHandle) {
    let (core, link) = (core.clone(), link.clone());
    tokio::spawn(async move {
        // Repeated on this connection, and by `introduce` on the next.
        for _ in 0..10 {
            match link.request(Request::Revoke { device }).await {
                Ok(hawser_proto::broker::mailbox::Outcome::Busy)
                | Err(crate::link::Unanswered::Silent(_)) => {
                    sleep(PAUSE).await;
                }
                Ok(_) => return,
                Err(_) => break,
            }
        }
        if core.link().is_some_and(|l| Arc::ptr_eq(&l, &link)) {
            warn!(%device, "the mailbox has not confirmed that a device is out; told again on the next connection");
        }
    });
}
