//! What is being sealed: each device's envelopes one after the other, different devices' beside each other, so that content that
//! takes long to adapt holds up nobody but the devices that it goes to.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use hawser_proto::{UnixTime, broker::DeviceHandle};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    core::Core,
    delivery::{Hash, Work},
    sealing::SealingError,
};

/// Most envelopes that are being sealed, or wait behind one of the same device.
const MAX: usize = 256;

/// An envelope and what is kept of it.
pub(super) struct Sealed {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: Hash,
    pub(super) variant: String,
    pub(super) fetchable: bool,
}

/// What became of a work; nothing is sealed for one that was before.
pub(super) type Made = (Work, Result<Option<Sealed>, SealingError>);

/// See the module page.
pub(super) struct Chains {
    core: Arc<Core>,
    /// Aborted when they are dropped.
    tasks: JoinSet<()>,
    made: (mpsc::Sender<Made>, mpsc::Receiver<Made>),
    devices: HashMap<DeviceHandle, Chain>,
    length: usize,
}

/// Of one device.
#[derive(Default)]
struct Chain {
    /// In its task, and not back.
    running: usize,
    /// What comes after that, and whether it was sealed before.
    behind: VecDeque<(Work, bool)>,
}

impl Chains {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            tasks: JoinSet::new(),
            made: mpsc::channel(MAX),
            devices: HashMap::new(),
            length: 0,
        }
    }

    /// How many works are here.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// How many more may come.
    pub(super) fn room(&self) -> usize {
        MAX.saturating_sub(self.length)
    }

    /// Ends all; nothing of it comes back.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.core.clone());
    }

    /// To be sealed after what was pushed for its device before, with the next [`Chains::start`]. `held`: it was sealed before.
    pub(super) fn push(&mut self, work: Work, held: bool) {
        self.length += 1;
        let chain = self.devices.entry(work.device).or_default();
        chain.behind.push_back((work, held));
    }

    /// Lets all devices go on of which nothing is being sealed.
    pub(super) fn start(&mut self) {
        // Those that have ended are of no more use.
        while self.tasks.try_join_next().is_some() {}
        for chain in self.devices.values_mut() {
            if chain.running == 0 && !chain.behind.is_empty() {
                let works = std::mem::take(&mut chain.behind);
                chain.running = works.len();
                self.tasks
                    .spawn(run(self.core.clone(), works, self.made.0.clone()));
            }
        }
    }

    /// What is made, one at least and `most` at most; in order for each device. Waits for ever while nothing is. Cancel safe.
    pub(super) async fn next(&mut self, most: usize) -> Vec<Made> {
        let mut made = Vec::new();
        self.made.1.recv_many(&mut made, most).await;
        self.length = self.length.saturating_sub(made.len());
        for (work, _) in &made {
            if let Some(chain) = self.devices.get_mut(&work.device) {
                chain.running = chain.running.saturating_sub(1);
                if chain.running == 0 && chain.behind.is_empty() {
                    self.devices.remove(&work.device);
                }
            }
        }
        self.start();
        made
    }
}

async fn run(core: Arc<Core>, works: VecDeque<(Work, bool)>, made: mpsc::Sender<Made>) {
    for (work, held) in works {
        let result = match held {
            true => Ok(None),
            false => seal(&core, &work).await.map(Some),
        };
        if made.send((work, result)).await.is_err() {
            return;
        }
    }
}

async fn seal(core: &Core, work: &Work) -> Result<Sealed, SealingError> {
    let snapshot = core.snapshot.load_full();
    let device = snapshot.device(&work.device).ok_or(SealingError::Gone)?;
    let variant = core.sealer.variant(&core.outbox, &work.event, device).await?;
    let bytes = core
        .sealer
        .envelope(&core.outbox, work, device, &variant, UnixTime::now())?;
    core.metrics.sealed.inc();
    Ok(Sealed {
        hash: Hash(hawser_seal::sha256(&bytes)),
        bytes,
        variant: variant.name.clone(),
        fetchable: variant.fetchable,
    })
}
