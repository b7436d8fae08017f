//! What a hub's mailbox keeps: devices, a queue of sealed envelopes for each, and reports for their domains.
//!
//! The words are those of `proto::broker::mailbox`, in types of this crate's own. [`open`] is the embedded engine; another one
//! stands behind the same [`Backend`] once it passes the suite `conformance` (feature `testing`).

mod books;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod queue;
mod sqlite;

use std::{path::Path, sync::Arc};

use crate::StoreError;
pub use crate::{BoxFuture, Reply};

/// By which a device is known: random, and unique over all domains.
pub type Handle = [u8; 16];
/// Contents of an envelope or a skip record.
pub type Body = Arc<[u8]>;

/// Largest number of an envelope that can be kept.
pub const MAX_SEQUENCE: u64 = i64::MAX as u64;
/// Skip records kept for one device; a further one takes the place of the oldest.
pub const MAX_SKIPS: u32 = 256;
/// Acknowledgements of one device that wait for the domain; further ones are refused until it has taken some.
pub const MAX_WAITING: u32 = 4096;
/// Connections that an envelope is written to without an acknowledgement, before it is given up.
pub const MAX_TRIES: u32 = 50;
/// Revoked devices that are remembered for each one that a domain may have: the oldest are forgotten beyond that.
pub const REVOKED_FOR_EACH: usize = 2;

/// Opens the database `mailbox.db` in `dir`, which is made (mode 0700) if it is missing. Blocks.
pub fn open(dir: &Path, limits: Limits) -> Result<Arc<dyn Backend>, StoreError> {
    Ok(Arc::new(sqlite::Sqlite::open(dir, limits)?))
}

/// Bounds on what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Devices of all domains, revoked ones not counted.
    pub devices: usize,
    /// Devices of one domain, revoked ones not counted.
    pub devices_per_domain: usize,
    /// Envelopes in one device's queue.
    pub envelopes_per_device: usize,
    /// Bytes in one device's queue.
    pub bytes_per_device: u64,
    /// Bytes in all queues of one domain.
    pub bytes_per_domain: u64,
    /// Acknowledgements that wait for one domain.
    pub reports: usize,
}

/// A device that a domain has admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its handle.
    pub handle: Handle,
    /// Whose it is.
    pub domain: Arc<str>,
    /// SHA-256 of its key.
    pub thumbprint: [u8; 32],
    /// Raised by each new key.
    pub epoch: u32,
    /// It is out, and nothing is kept of it but this.
    pub revoked: bool,
}

/// What became of [`Backend::admit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is in, with this key and epoch.
    Admitted,
    /// It was in, just so.
    Unchanged,
    /// It is revoked.
    Revoked,
    /// Another domain has this handle.
    Foreign,
    /// The epoch is over: a higher one is known.
    Older(u32),
    /// A new key needs a higher epoch.
    SameEpoch,
    /// No more devices.
    Full,
}

/// An envelope to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deposit {
    /// Who deposits.
    pub domain: Arc<str>,
    /// For which device.
    pub device: Handle,
    /// Its number: 1 to [`MAX_SEQUENCE`].
    pub sequence: u64,
    /// Kept until then, in seconds since 1970.
    pub expires: u64,
    /// Earlier envelopes with the same, and not sent yet, are given up for it.
    pub collapse: Option<[u8; 32]>,
    /// The envelope.
    pub body: Body,
}

/// What became of [`Backend::deposit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deposited {
    /// It is in the queue.
    Kept {
        /// Where: ascending over all queues.
        position: u64,
        /// The numbers that were given up for it, and are reported.
        collapsed: Vec<u64>,
    },
    /// It, or a skip record over its number, was in the queue.
    Already,
    /// The domain has no such device.
    UnknownDevice,
    /// The device is revoked.
    Revoked,
    /// The device's queue, or what the domain may have, is full. Higher numbers are refused from then on, room or not, until this one
    /// comes again or is skipped, or the queue is empty: so none that was refused has to be given up for one behind it.
    Full,
}

/// Numbers that will not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Who says so.
    pub domain: Arc<str>,
    /// To which device.
    pub device: Handle,
    /// First number, from 1.
    pub from: u64,
    /// Last number, to [`MAX_SEQUENCE`].
    pub to: u64,
    /// The signed record.
    pub body: Body,
}

/// What became of [`Backend::skip`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// It is in the queue, in the place of whatever was.
    Kept {
        /// Where: ascending over all queues.
        position: u64,
    },
    /// A record over more numbers was in the queue.
    Already,
    /// The domain has no such device.
    UnknownDevice,
    /// The device is revoked.
    Revoked,
}

/// What became of [`Backend::revoke`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// It is out, and its queue is gone, from the files as well.
    Revoked,
    /// The domain has no such device.
    UnknownDevice,
}

/// Something in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Ascending over all queues, by when it came.
    pub position: u64,
    /// Its number; of a skip record, the last.
    pub sequence: u64,
    /// Until when it is good, in seconds since 1970; 0 for a skip record.
    pub expires: u64,
    /// Whether it is a skip record.
    pub skip: bool,
    /// Envelope or record.
    pub body: Body,
}

/// Which items of a queue to read, in order of their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Those behind this position.
    pub after: u64,
    /// Those over this number.
    pub above: u64,
    /// Those that are good at this time, in seconds since 1970.
    pub now: u64,
    /// How many at most.
    pub items: usize,
    /// No further one once there are as many bytes.
    pub bytes: usize,
}

/// What a device acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Which envelope.
    pub sequence: u64,
    /// What it has signed.
    pub record: Vec<u8>,
}

/// What became of [`Backend::acknowledge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// All are kept, and the envelopes are out of the queue.
    Kept,
    /// None is: as many as may be wait for the domain.
    Full,
    /// There is no such device, or it is revoked.
    Gone,
}

/// Why an envelope was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A newer one took its place.
    Collapsed,
    /// Its time was over.
    Expired,
    /// It was sent [`MAX_TRIES`] times.
    Dropped,
}

/// Something that a domain has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What the device has signed.
    Acknowledged(Vec<u8>),
    /// An envelope was written to a connection of the device for the first time.
    Sent(u64),
    /// An envelope was given up.
    GivenUp(u64, Reason),
}

/// An event with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Ascending over all reports of the domain; never used again.
    pub number: u64,
    /// Whose queue.
    pub device: Handle,
    /// What happened.
    pub event: Event,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Devices, revoked ones not counted.
    pub devices: usize,
    /// Envelopes queued.
    pub envelopes: usize,
    /// Bytes queued.
    pub bytes: u64,
    /// Reports that wait.
    pub reports: usize,
}

/// An engine. Calls but [`Backend::read`] take effect in the order in which they were made, each as a whole or not at all; an answer comes when the
/// effect is on disk, and everything that it rests on. An engine that has too much to do answers [`StoreError::Busy`].
pub trait Backend: Send + Sync + 'static {
    /// Other bounds from now on; what is there stays.
    fn limit(&self, limits: Limits) -> Reply<()>;

    /// All devices, revoked ones included.
    fn devices(&self) -> Reply<Vec<Device>>;

    /// Lets a device in, or gives it a new key with a higher epoch. [`Device::revoked`] is ignored.
    fn admit(&self, device: Device) -> Reply<Admission>;

    /// Takes a device out. When the answer is there, no byte of its queue is in any file.
    fn revoke(&self, domain: Arc<str>, device: Handle) -> Reply<Revocation>;

    /// Keeps an envelope.
    fn deposit(&self, deposit: Deposit) -> Reply<Deposited>;

    /// Puts a skip record in the place of whatever is queued for its numbers.
    fn skip(&self, skip: Skip) -> Reply<Skipped>;

    /// Reads a queue. Nothing of a device that is unknown or revoked. It sees at least what was answered before it was called; of
    /// calls under way it waits for none.
    fn read(&self, device: Handle, page: Page) -> Reply<Vec<Item>>;

    /// The device has everything up to this number, or an explanation: skip records up to there are forgotten.
    fn explained(&self, device: Handle, sequence: u64) -> Reply<()>;

    /// Takes acknowledged envelopes out of a queue, and reports all acknowledgements, whether or not there was an envelope.
    fn acknowledge(&self, device: Handle, acks: Vec<Ack>) -> Reply<Acked>;

    /// These envelopes were written to a connection: the first time of each is reported, and the last one's giving up. The
    /// domains that have new reports.
    fn sent(&self, envelopes: Vec<(Handle, u64)>) -> Reply<Vec<Arc<str>>>;

    /// Gives up envelopes whose time is over, `most` at a time: what was given up.
    fn expire(&self, now: u64, most: usize) -> Reply<Vec<Expired>>;

    /// Reports of a domain with a number over `after`, in order, `most` at a time.
    fn reports(&self, domain: Arc<str>, after: u64, most: usize) -> Reply<Vec<Report>>;

    /// The domain has all reports up to this number: they are forgotten.
    fn taken(&self, domain: Arc<str>, number: u64) -> Reply<()>;

    /// Forgets everything of all domains but these, from the files as well. How many domains are forgotten.
    fn retain(&self, domains: Vec<Arc<str>>) -> Reply<usize>;

    /// How much there is.
    fn totals(&self) -> Reply<Totals>;
}

/// An envelope whose time was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Who has to know.
    pub domain: Arc<str>,
    /// Whose queue it was in.
    pub device: Handle,
    /// Its number.
    pub sequence: u64,
}

#[cfg(test)]
mod tests;
