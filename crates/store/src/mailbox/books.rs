//! What the engine knows by heart, so that a deposit need not count: devices, and how much each has.

use std::{collections::HashMap, ops::RangeInclusive, sync::Arc};

use rusqlite::{Connection, params};

use super::{Device, Handle, Limits, Totals};
use crate::{StoreError, sqlite::engine};

/// Devices and domains. Changed only after the database was: what is here is what the transaction has.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) devices: HashMap<Handle, DeviceBook>,
    pub(super) domains: HashMap<Arc<str>, DomainBook>,
    by_id: HashMap<i64, Handle>,
    /// Position of the next item.
    pub(super) position: u64,
}

/// A device, and what it has.
#[derive(Debug, Clone)]
pub(super) struct DeviceBook {
    pub(super) id: i64,
    pub(super) device: Device,
    pub(super) queue: Amount,
    pub(super) skips: u32,
    /// Acknowledgements that wait.
    pub(super) waiting: u32,
    /// The lowest number for which there was no room, and that has not come again.
    pub(super) refused: Option<u64>,
}

/// Envelopes and their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) envelopes: usize,
    pub(super) bytes: u64,
}

/// A domain, and what it has.
#[derive(Debug, Clone, Default)]
pub(super) struct DomainBook {
    pub(super) id: i64,
    /// Revoked ones not counted.
    pub(super) devices: usize,
    pub(super) queue: Amount,
    /// Acknowledgements that wait.
    pub(super) waiting: usize,
    pub(super) reports: usize,
    /// Of the last report.
    pub(super) number: u64,
}

impl DeviceBook {
    /// Whether a number must wait for a lower one that was refused: a number that is kept makes all below it useless, since a device
    /// takes them for replays. A queue that is empty waits for nobody.
    pub(super) fn waits(&self, sequence: u64) -> bool {
        self.queue.envelopes > 0 && self.refused.is_some_and(|first| first < sequence)
    }
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.envelopes += 1;
        self.bytes += bytes;
    }

    pub(super) fn take(&mut self, other: Amount) {
        self.envelopes = self.envelopes.saturating_sub(other.envelopes);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

impl Books {
    /// Reads them from the database.
    pub(super) fn read(connection: &Connection) -> Result<Self, StoreError> {
        let mut books = Self {
            position: 1 + number(connection, "SELECT coalesce(max(position), 0) FROM queue")?,
            ..Self::default()
        };
        let names = books.read_domains(connection)?;
        books.read_devices(connection, &names)?;
        books.count_queues(connection)?;
        books.count_reports(connection, &names)?;
        Ok(books)
    }

    fn read_domains(&mut self, connection: &Connection) -> Result<HashMap<i64, Arc<str>>, StoreError> {
        let mut names = HashMap::new();
        each(connection, "SELECT id, name, number FROM domains", |row| {
            let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let name: Arc<str> = name.into();
            let book = DomainBook {
                id,
                number: row.get::<_, i64>(2)?.cast_unsigned(),
                ..DomainBook::default()
            };
            self.domains.insert(name.clone(), book);
            names.insert(id, name);
            Ok(())
        })?;
        Ok(names)
    }

    fn read_devices(
        &mut self,
        connection: &Connection,
        names: &HashMap<i64, Arc<str>>,
    ) -> Result<(), StoreError> {
        let query = "SELECT id, handle, domain, thumbprint, epoch, revoked FROM devices";
        each(connection, query, |row| {
            let Some(domain) = names.get(&row.get::<_, i64>(2)?) else {
                return Ok(());
            };
            let device = Device {
                handle: row.get(1)?,
                domain: domain.clone(),
                thumbprint: row.get(3)?,
                epoch: row.get(4)?,
                revoked: row.get::<_, i64>(5)? != 0,
            };
            self.insert(row.get(0)?, device);
            Ok(())
        })
    }

    fn count_queues(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let query = "SELECT device, kind, count(*), sum(length(body)) FROM queue GROUP BY device, kind";
        each(connection, query, |row| {
            let (id, skip, count): (i64, bool, usize) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let bytes = row.get::<_, i64>(3)?.cast_unsigned();
            let Some(book) = self.by_id.get(&id).and_then(|h| self.devices.get_mut(h)) else {
                return Ok(());
            };
            if skip {
                book.skips = count as u32;
                return Ok(());
            }
            book.queue = Amount {
                envelopes: count,
                bytes,
            };
            if let Some(domain) = self.domains.get_mut(&book.device.domain) {
                domain.queue.envelopes += count;
                domain.queue.bytes += bytes;
            }
            Ok(())
        })
    }

    fn count_reports(
        &mut self,
        connection: &Connection,
        names: &HashMap<i64, Arc<str>>,
    ) -> Result<(), StoreError> {
        let query = "SELECT domain, device, kind, count(*) FROM reports GROUP BY domain, device, kind";
        each(connection, query, |row| {
            let (handle, acknowledged): (Handle, bool) = (row.get(1)?, row.get::<_, i64>(2)? == 0);
            let count: usize = row.get(3)?;
            if let Some(domain) = names
                .get(&row.get::<_, i64>(0)?)
                .and_then(|n| self.domains.get_mut(n))
            {
                domain.reports += count;
                domain.waiting += if acknowledged { count } else { 0 };
            }
            if acknowledged && let Some(book) = self.devices.get_mut(&handle) {
                book.waiting += count as u32;
            }
            Ok(())
        })
    }

    /// A device is known from now on, or known otherwise.
    pub(super) fn insert(&mut self, id: i64, device: Device) {
        let Some(domain) = self.domains.get_mut(&device.domain) else {
            return;
        };
        let old = self.devices.get(&device.handle);
        let was_in = old.is_some_and(|b| !b.device.revoked);
        match (was_in, device.revoked) {
            (false, false) => domain.devices += 1,
            (true, true) => domain.devices -= 1,
            _ => {}
        }
        self.by_id.insert(id, device.handle);
        let book = match old.cloned() {
            Some(book) => DeviceBook { device, ..book },
            None => DeviceBook {
                id,
                device,
                queue: Amount::default(),
                skips: 0,
                waiting: 0,
                refused: None,
            },
        };
        self.devices.insert(book.device.handle, book);
    }

    /// A device is forgotten.
    pub(super) fn forget(&mut self, handle: &Handle) {
        if let Some(book) = self.devices.remove(handle) {
            self.by_id.remove(&book.id);
        }
    }

    /// The device that has this row.
    pub(super) fn of_row(&self, id: i64) -> Option<&DeviceBook> {
        self.by_id.get(&id).and_then(|h| self.devices.get(h))
    }

    /// The device, if it is the domain's.
    pub(super) fn of_domain(&self, domain: &str, handle: &Handle) -> Option<&DeviceBook> {
        self.devices.get(handle).filter(|b| &*b.device.domain == domain)
    }

    /// There was no room for a number.
    pub(super) fn refused(&mut self, handle: &Handle, sequence: u64) {
        if let Some(book) = self.devices.get_mut(handle) {
            book.refused = Some(book.refused.map_or(sequence, |first| first.min(sequence)));
        }
    }

    /// Numbers came that may have been refused before.
    pub(super) fn came_again(&mut self, handle: &Handle, numbers: RangeInclusive<u64>) {
        if let Some(book) = self.devices.get_mut(handle)
            && book.refused.is_some_and(|first| numbers.contains(&first))
        {
            book.refused = None;
        }
    }

    /// Envelopes came.
    pub(super) fn came(&mut self, handle: &Handle, bytes: u64) {
        self.both(handle, |amount| amount.add(bytes));
    }

    /// Envelopes went.
    pub(super) fn went(&mut self, handle: &Handle, gone: Amount) {
        self.both(handle, |amount| amount.take(gone));
    }

    fn both(&mut self, handle: &Handle, change: impl Fn(&mut Amount)) {
        if let Some(book) = self.devices.get_mut(handle) {
            change(&mut book.queue);
            if let Some(domain) = self.domains.get_mut(&book.device.domain) {
                change(&mut domain.queue);
            }
        }
    }

    /// Whether an envelope of so many bytes fits once `freed` has gone.
    pub(super) fn fits(&self, book: &DeviceBook, bytes: u64, freed: Amount, limits: &Limits) -> bool {
        let mut own = book.queue;
        own.take(freed);
        own.add(bytes);
        let mut all = self
            .domains
            .get(&book.device.domain)
            .map_or_else(Amount::default, |d| d.queue);
        all.take(freed);
        all.add(bytes);
        own.envelopes <= limits.envelopes_per_device
            && own.bytes <= limits.bytes_per_device
            && all.bytes <= limits.bytes_per_domain
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for domain in self.domains.values() {
            totals.devices += domain.devices;
            totals.envelopes += domain.queue.envelopes;
            totals.bytes += domain.queue.bytes;
            totals.reports += domain.reports;
        }
        totals
    }
}

fn number(connection: &Connection, query: &str) -> Result<u64, StoreError> {
    connection
        .query_row(query, params![], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
        .map_err(engine)
}

fn each(
    connection: &Connection,
    query: &str,
    mut row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare(query).map_err(engine)?;
    let mut rows = statement.query([]).map_err(engine)?;
    while let Some(found) = rows.next().map_err(engine)? {
        row(found).map_err(engine)?;
    }
    Ok(())
}
