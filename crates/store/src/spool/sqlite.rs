//! The embedded engine: one SQLite file in WAL mode with `synchronous=FULL`, which one thread writes, by group commit
//! ([`crate::owner`]), and another one reads.

use std::path::Path;

use super::{
    Accepted, Backend, Bounds, Change, Content, Entry, Filter, Id, Message, Reply, Totals,
    tables::{self, SCHEMA, Tables},
};
use crate::{
    StoreError,
    owner::{Owner, Places, Reader},
    sqlite::{Kind, connect, engine, prepare},
};

/// Pages of the write-ahead log after which they are moved into the database.
const CHECKPOINT: i64 = 4096;

const KIND: Kind = Kind {
    file: "spool.db",
    // "HWSP"
    application: 0x4857_5350,
    format: 1,
};

pub(super) struct Sqlite {
    owner: Owner<Tables>,
    reader: Reader,
}

impl Sqlite {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = prepare(dir, KIND.file)?;
        let connection = connect(&path, &KIND, SCHEMA)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", CHECKPOINT)
            .map_err(engine)?;
        connection.set_prepared_statement_cache_capacity(32);
        let reading = connect(&path, &KIND, SCHEMA)?;
        reading.pragma_update(None, "query_only", "ON").map_err(engine)?;
        let tables = Tables {
            connection,
            // What an earlier process could not wipe any more.
            deleted: true,
        };
        let owner = Owner::start("hawser-spool", &path, tables, Places::new())?;
        let reader = Reader::start("hawser-spool-in", &path, reading, &owner)?;
        Ok(Self { owner, reader })
    }
}

impl Backend for Sqlite {
    fn accept(&self, message: Message, bounds: Bounds) -> Reply<Accepted> {
        self.owner.call(move |t| t.accept(&message, bounds))
    }

    fn change(&self, id: Id, change: Change) -> Reply<Option<Entry>> {
        self.owner.call(move |t| t.change(&id, &change))
    }

    fn find(&self, id: Id) -> Reply<Option<Entry>> {
        self.reader.look(move |c| tables::find(c, &id))
    }

    fn content(&self, id: Id) -> Reply<Option<Content>> {
        self.reader.look(move |c| tables::content(c, &id))
    }

    fn list(&self, filter: Filter, most: usize) -> Reply<Vec<Entry>> {
        self.reader.look(move |c| tables::list(c, &filter, most))
    }

    fn sweep(&self, delivered_before: u64, dead_before: u64, most: usize) -> Reply<usize> {
        self.owner
            .call(move |t| t.sweep(delivered_before, dead_before, most))
    }

    fn totals(&self) -> Reply<Vec<Totals>> {
        self.reader.look(tables::totals)
    }
}
