//! The embedded engine: one SQLite file in WAL mode with `synchronous=FULL`, which one thread writes, by group commit
//! ([`crate::owner`]). Queues are read by another one, on a connection of its own.

use std::{path::Path, sync::Arc};

use rusqlite::Connection;

use super::{
    Ack, Acked, Admission, Backend, Deposit, Deposited, Device, Expired, Handle, Item, Limits, Page, Reply,
    Report, Revocation, Skip, Skipped, Totals,
    books::Books,
    queue::{self, SCHEMA, Tables},
};
use crate::{
    StoreError,
    group::Grouped,
    owner::{Owned, Owner, Places, Reader},
    sqlite::{Kind, connect, engine, prepare},
};

/// Pages of the write-ahead log after which they are moved into the database.
const CHECKPOINT: i64 = 4096;

const KIND: Kind = Kind {
    file: "mailbox.db",
    // "HWMB"
    application: 0x4857_4d42,
    format: 1,
};

pub(super) struct Sqlite {
    owner: Owner<Tables>,
    reader: Reader,
}

impl Sqlite {
    pub(super) fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let path = prepare(dir, KIND.file)?;
        let connection = connect(&path, &KIND, SCHEMA)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", CHECKPOINT)
            .and_then(|()| connection.pragma_update(None, "temp_store", "MEMORY"))
            .map_err(engine)?;
        connection.set_prepared_statement_cache_capacity(64);
        let reading = connect(&path, &KIND, SCHEMA)?;
        reading.pragma_update(None, "query_only", "ON").map_err(engine)?;
        let tables = Tables {
            books: Books::read(&connection)?,
            connection,
            limits,
            // What an earlier process could not wipe any more.
            deleted: true,
            wipe: false,
        };
        let owner = Owner::start("hawser-mailbox", &path, tables, Places::new())?;
        let reader = Reader::start("hawser-reader", &path, reading, &owner)?;
        Ok(Self { owner, reader })
    }

    fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Tables) -> Result<R, StoreError> + Send + 'static,
    ) -> Reply<R> {
        self.owner.call(call)
    }
}

impl Backend for Sqlite {
    fn limit(&self, limits: Limits) -> Reply<()> {
        self.call(move |t| {
            t.limits = limits;
            Ok(())
        })
    }

    fn devices(&self) -> Reply<Vec<Device>> {
        self.call(|t| Ok(t.books.devices.values().map(|b| b.device.clone()).collect()))
    }

    fn admit(&self, device: Device) -> Reply<Admission> {
        self.call(move |t| t.admit(device))
    }

    fn revoke(&self, domain: Arc<str>, device: Handle) -> Reply<Revocation> {
        self.call(move |t| t.revoke(&domain, &device))
    }

    fn deposit(&self, deposit: Deposit) -> Reply<Deposited> {
        self.call(move |t| t.deposit(&deposit))
    }

    fn skip(&self, skip: Skip) -> Reply<Skipped> {
        self.call(move |t| t.skip(&skip))
    }

    fn read(&self, device: Handle, page: Page) -> Reply<Vec<Item>> {
        self.reader
            .look(move |connection| queue::read(connection, &device, &page))
    }

    fn explained(&self, device: Handle, sequence: u64) -> Reply<()> {
        self.call(move |t| t.explained(&device, sequence))
    }

    fn acknowledge(&self, device: Handle, acks: Vec<Ack>) -> Reply<Acked> {
        self.call(move |t| t.acknowledge(&device, acks))
    }

    fn sent(&self, envelopes: Vec<(Handle, u64)>) -> Reply<Vec<Arc<str>>> {
        self.call(move |t| t.sent(&envelopes))
    }

    fn expire(&self, now: u64, most: usize) -> Reply<Vec<Expired>> {
        self.call(move |t| t.expire(now, most))
    }

    fn reports(&self, domain: Arc<str>, after: u64, most: usize) -> Reply<Vec<Report>> {
        self.call(move |t| t.reports(&domain, after, most))
    }

    fn taken(&self, domain: Arc<str>, number: u64) -> Reply<()> {
        self.call(move |t| t.taken(&domain, number))
    }

    fn retain(&self, domains: Vec<Arc<str>>) -> Reply<usize> {
        self.call(move |t| t.retain(&domains))
    }

    fn totals(&self) -> Reply<Totals> {
        self.call(|t| Ok(t.books.totals()))
    }
}

impl Owned for Tables {
    fn deleted(&mut self) -> bool {
        std::mem::take(&mut self.deleted)
    }

    fn wipe(&mut self) -> bool {
        std::mem::take(&mut self.wipe)
    }
}

impl Grouped for Tables {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn undone(&mut self) {
        let position = self.books.position;
        // A disk that cannot be read answers all that follows with errors, too.
        if let Ok(books) = Books::read(&self.connection) {
            self.books = books;
            // Positions are not used again while streams remember them.
            self.books.position = self.books.position.max(position);
        }
    }
}
