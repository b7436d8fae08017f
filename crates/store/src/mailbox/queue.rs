//! What the calls do, within a transaction that many of them share.

use std::{collections::BTreeSet, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::{
    Ack, Acked, Admission, Deposit, Deposited, Device, Event, Expired, Handle, Item, Limits, MAX_SKIPS,
    MAX_TRIES, MAX_WAITING, Page, REVOKED_FOR_EACH, Reason, Report, Revocation, Skip, Skipped,
    books::{Amount, Books, DeviceBook, DomainBook},
};
use crate::{StoreError, sqlite::engine};

/// `kind` in table `queue`.
const ENVELOPE: i64 = 0;
const SKIP: i64 = 1;
/// `kind` in table `reports`.
const ACKNOWLEDGED: i64 = 0;
const SENT: i64 = 1;
const GIVEN_UP: i64 = 2;

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// The database, and what is known of it by heart.
pub(super) struct Tables {
    pub(super) connection: Connection,
    pub(super) books: Books,
    pub(super) limits: Limits,
    /// Something was deleted, whose bytes stand in the write-ahead log yet.
    pub(super) deleted: bool,
    /// The same, and somebody waits for them to go.
    pub(super) wipe: bool,
}

pub(super) const SCHEMA: &str = "
    CREATE TABLE domains (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, number INTEGER NOT NULL) STRICT;
    CREATE TABLE devices (id INTEGER PRIMARY KEY, handle BLOB NOT NULL UNIQUE, domain INTEGER NOT NULL,
        thumbprint BLOB NOT NULL, epoch INTEGER NOT NULL, revoked INTEGER NOT NULL) STRICT;
    CREATE TABLE queue (position INTEGER PRIMARY KEY, device INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        kind INTEGER NOT NULL, expires INTEGER NOT NULL, tries INTEGER NOT NULL, collapse BLOB, body BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX queue_last ON queue (device, last);
    CREATE INDEX queue_expires ON queue (expires) WHERE kind = 0;
    CREATE INDEX queue_collapse ON queue (device, collapse) WHERE collapse IS NOT NULL;
    CREATE TABLE reports (domain INTEGER NOT NULL, number INTEGER NOT NULL, device BLOB NOT NULL, kind INTEGER NOT NULL,
        sequence INTEGER NOT NULL, detail INTEGER NOT NULL, record BLOB, PRIMARY KEY (domain, number)) STRICT, WITHOUT ROWID;";

impl Tables {
    pub(super) fn admit(&mut self, device: Device) -> Result<Admission> {
        let device = Device {
            revoked: false,
            ..device
        };
        if let Some(book) = self.books.devices.get(&device.handle) {
            let known = &book.device;
            return Ok(match () {
                () if known.domain != device.domain => Admission::Foreign,
                () if known.revoked => Admission::Revoked,
                () if *known == device => Admission::Unchanged,
                () if known.epoch > device.epoch => Admission::Older(known.epoch),
                () if known.epoch == device.epoch => Admission::SameEpoch,
                () => {
                    let id = book.id;
                    self.execute(
                        "UPDATE devices SET thumbprint = ?2, epoch = ?3 WHERE id = ?1",
                        params![id, device.thumbprint, device.epoch],
                    )?;
                    self.books.insert(id, device);
                    Admission::Admitted
                }
            });
        }
        let own = self.books.domains.get(&device.domain).map_or(0, |d| d.devices);
        let all: usize = self.books.domains.values().map(|d| d.devices).sum();
        if own >= self.limits.devices_per_domain || all >= self.limits.devices {
            return Ok(Admission::Full);
        }
        let domain = self.domain(&device.domain)?;
        self.execute(
            "INSERT INTO devices (handle, domain, thumbprint, epoch, revoked) VALUES (?1, ?2, ?3, ?4, 0)",
            params![device.handle, domain, device.thumbprint, device.epoch],
        )?;
        let id = self.connection.last_insert_rowid();
        self.books.insert(id, device);
        Ok(Admission::Admitted)
    }

    pub(super) fn revoke(&mut self, domain: &str, handle: &Handle) -> Result<Revocation> {
        let Some(book) = self.books.of_domain(domain, handle).cloned() else {
            return Ok(Revocation::UnknownDevice);
        };
        if !book.device.revoked {
            // In the order of revocations, so that the oldest can be forgotten first.
            self.execute(
                "UPDATE devices SET revoked = 1 + (SELECT max(revoked) FROM devices) WHERE id = ?1",
                [book.id],
            )?;
            self.books.insert(
                book.id,
                Device {
                    revoked: true,
                    ..book.device.clone()
                },
            );
            self.forget_revoked(domain)?;
        }
        self.execute("DELETE FROM queue WHERE device = ?1", [book.id])?;
        self.books.went(handle, book.queue);
        if let Some(book) = self.books.devices.get_mut(handle) {
            book.skips = 0;
        }
        // Once more, too: an earlier wiping may have been interrupted.
        self.wipe = true;
        Ok(Revocation::Revoked)
    }

    /// Forgets the oldest revoked devices beyond what is remembered.
    fn forget_revoked(&mut self, domain: &str) -> Result<()> {
        let Some(id) = self.books.domains.get(domain).map(|d| d.id) else {
            return Ok(());
        };
        let keep = self.limits.devices_per_domain.saturating_mul(REVOKED_FOR_EACH);
        let old: Vec<Handle> = self.rows(
            "DELETE FROM devices WHERE id IN (SELECT id FROM devices WHERE domain = ?1 AND revoked > 0
             ORDER BY revoked DESC LIMIT -1 OFFSET ?2) RETURNING handle",
            params![id, keep],
            |row| row.get(0),
        )?;
        old.iter().for_each(|handle| self.books.forget(handle));
        Ok(())
    }

    pub(super) fn deposit(&mut self, deposit: &Deposit) -> Result<Deposited> {
        let Some(book) = self.books.of_domain(&deposit.domain, &deposit.device).cloned() else {
            return Ok(Deposited::UnknownDevice);
        };
        if book.device.revoked {
            return Ok(Deposited::Revoked);
        }
        // Nothing in a queue reaches over anything else but skip records, whose numbers nothing else has.
        let next = self.one::<u64>(
            "SELECT first FROM queue WHERE device = ?1 AND last >= ?2 ORDER BY last LIMIT 1",
            params![book.id, deposit.sequence],
        )?;
        if next.is_some_and(|first| first <= deposit.sequence) {
            return Ok(Deposited::Already);
        }
        let collapsed = self.collapsed(&book, deposit)?;
        let freed = Amount {
            envelopes: collapsed.len(),
            bytes: collapsed.iter().map(|(_, _, bytes)| bytes).sum(),
        };
        let bytes = deposit.body.len() as u64;
        if book.waits(deposit.sequence) || !self.books.fits(&book, bytes, freed, &self.limits) {
            self.books.refused(&deposit.device, deposit.sequence);
            return Ok(Deposited::Full);
        }
        for (position, sequence, _) in &collapsed {
            self.execute("DELETE FROM queue WHERE position = ?1", [position])?;
            let event = Event::GivenUp(*sequence, Reason::Collapsed);
            self.report(&deposit.domain, &deposit.device, &event)?;
        }
        self.deleted |= !collapsed.is_empty();
        self.books.went(&deposit.device, freed);
        let position = self.books.position;
        self.execute(
            "INSERT INTO queue (position, device, first, last, kind, expires, tries, collapse, body)
             VALUES (?1, ?2, ?3, ?3, ?4, ?5, 0, ?6, ?7)",
            params![
                position,
                book.id,
                deposit.sequence,
                ENVELOPE,
                deposit.expires.min(i64::MAX as u64),
                deposit.collapse,
                &deposit.body[..]
            ],
        )?;
        self.books.position += 1;
        self.books.came(&deposit.device, bytes);
        self.books
            .came_again(&deposit.device, deposit.sequence..=deposit.sequence);
        Ok(Deposited::Kept {
            position,
            collapsed: collapsed.into_iter().map(|(_, sequence, _)| sequence).collect(),
        })
    }

    /// Position, number and length of what an envelope takes the place of.
    fn collapsed(&self, book: &DeviceBook, deposit: &Deposit) -> Result<Vec<(i64, u64, u64)>> {
        let Some(collapse) = deposit.collapse else {
            return Ok(Vec::new());
        };
        self.rows(
            "SELECT position, last, length(body) FROM queue
             WHERE device = ?1 AND collapse = ?2 AND last < ?3 AND tries = 0 AND kind = 0 ORDER BY last",
            params![book.id, collapse, deposit.sequence],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
    }

    pub(super) fn skip(&mut self, skip: &Skip) -> Result<Skipped> {
        let Some(book) = self.books.of_domain(&skip.domain, &skip.device).cloned() else {
            return Ok(Skipped::UnknownDevice);
        };
        if book.device.revoked {
            return Ok(Skipped::Revoked);
        }
        let next = self.one::<u64>(
            "SELECT first FROM queue WHERE device = ?1 AND last >= ?2 AND kind = 1 ORDER BY last LIMIT 1",
            params![book.id, skip.to],
        )?;
        if next.is_some_and(|first| first < skip.from) {
            return Ok(Skipped::Already);
        }
        let gone: Vec<(bool, u64)> = self.rows(
            "DELETE FROM queue WHERE device = ?1 AND last BETWEEN ?2 AND ?3 AND first >= ?2 RETURNING kind, length(body)",
            params![book.id, skip.from, skip.to],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let envelopes = gone.iter().filter(|(skip, _)| !skip);
        let amount = Amount {
            envelopes: envelopes.clone().count(),
            bytes: envelopes.map(|(_, bytes)| bytes).sum(),
        };
        let mut skips = book.skips - (gone.len() - amount.envelopes) as u32;
        if skips >= MAX_SKIPS {
            let oldest = "DELETE FROM queue WHERE position =
                (SELECT min(position) FROM queue WHERE device = ?1 AND kind = 1)";
            skips -= self.execute(oldest, [book.id])? as u32;
        }
        let position = self.books.position;
        self.execute(
            "INSERT INTO queue (position, device, first, last, kind, expires, tries, body)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6)",
            params![position, book.id, skip.from, skip.to, SKIP, &skip.body[..]],
        )?;
        self.books.position += 1;
        self.books.went(&skip.device, amount);
        self.books.came_again(&skip.device, skip.from..=skip.to);
        if let Some(book) = self.books.devices.get_mut(&skip.device) {
            book.skips = skips + 1;
        }
        self.deleted |= !gone.is_empty();
        Ok(Skipped::Kept { position })
    }

    pub(super) fn explained(&mut self, handle: &Handle, sequence: u64) -> Result<()> {
        let Some(book) = self.books.devices.get(handle).filter(|b| b.skips > 0) else {
            return Ok(());
        };
        let gone = self.execute(
            "DELETE FROM queue WHERE device = ?1 AND last <= ?2 AND kind = 1",
            params![book.id, sequence.min(i64::MAX as u64)],
        )?;
        if let Some(book) = self.books.devices.get_mut(handle) {
            book.skips = book.skips.saturating_sub(gone as u32);
        }
        self.deleted |= gone > 0;
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, handle: &Handle, acks: Vec<Ack>) -> Result<Acked> {
        let Some(book) = self.books.devices.get(handle).filter(|b| !b.device.revoked) else {
            return Ok(Acked::Gone);
        };
        let (id, domain, waiting) = (book.id, book.device.domain.clone(), book.waiting);
        let all = self.books.domains.get(&domain).map_or(0, |d| d.waiting);
        if waiting as usize + acks.len() > MAX_WAITING as usize || all + acks.len() > self.limits.reports {
            return Ok(Acked::Full);
        }
        for ack in acks {
            let bytes: Vec<u64> = self.rows(
                "DELETE FROM queue WHERE device = ?1 AND last = ?2 AND kind = 0 RETURNING length(body)",
                params![id, ack.sequence.min(i64::MAX as u64)],
                |row| row.get(0),
            )?;
            for bytes in bytes {
                self.books.went(handle, Amount { envelopes: 1, bytes });
                self.deleted = true;
            }
            self.report(&domain, handle, &Event::Acknowledged(ack.record))?;
            if let Some(book) = self.books.devices.get_mut(handle) {
                book.waiting += 1;
            }
        }
        Ok(Acked::Kept)
    }

    pub(super) fn sent(&mut self, envelopes: &[(Handle, u64)]) -> Result<Vec<Arc<str>>> {
        let mut told = BTreeSet::new();
        for (handle, sequence) in envelopes {
            let Some(book) = self.books.devices.get(handle).filter(|b| !b.device.revoked) else {
                continue;
            };
            let (id, domain) = (book.id, book.device.domain.clone());
            let found = self.rows(
                "UPDATE queue SET tries = tries + 1 WHERE device = ?1 AND last = ?2 AND kind = 0
                 RETURNING position, tries, length(body)",
                params![id, sequence],
                |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, u32>(1)?,
                        row.get::<_, u64>(2)?,
                    ))
                },
            )?;
            for (position, tries, bytes) in found {
                let event = match tries {
                    1 => Event::Sent(*sequence),
                    n if n > MAX_TRIES => {
                        self.execute("DELETE FROM queue WHERE position = ?1", [position])?;
                        self.books.went(handle, Amount { envelopes: 1, bytes });
                        self.deleted = true;
                        Event::GivenUp(*sequence, Reason::Dropped)
                    }
                    _ => continue,
                };
                self.report(&domain, handle, &event)?;
                told.insert(domain.clone());
            }
        }
        Ok(told.into_iter().collect())
    }

    pub(super) fn expire(&mut self, now: u64, most: usize) -> Result<Vec<Expired>> {
        let over: Vec<(i64, u64, u64)> = self.rows(
            "DELETE FROM queue WHERE position IN
                 (SELECT position FROM queue WHERE kind = 0 AND expires <= ?1 ORDER BY expires LIMIT ?2)
             RETURNING device, last, length(body)",
            params![now, most],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let mut expired = Vec::new();
        for (id, sequence, bytes) in over {
            let Some(book) = self.books.of_row(id) else {
                continue;
            };
            let (device, domain) = (book.device.handle, book.device.domain.clone());
            self.books.went(&device, Amount { envelopes: 1, bytes });
            self.report(&domain, &device, &Event::GivenUp(sequence, Reason::Expired))?;
            expired.push(Expired {
                domain,
                device,
                sequence,
            });
        }
        self.deleted |= !expired.is_empty();
        Ok(expired)
    }

    /// Notes an event. The bound on acknowledgements is the caller's; of the others there is one for each envelope at most.
    fn report(&mut self, domain: &str, device: &Handle, event: &Event) -> Result<()> {
        let Some(book) = self.books.domains.get_mut(domain) else {
            return Ok(());
        };
        let (id, number) = (book.id, book.number + 1);
        let (kind, sequence, detail, record) = match event {
            Event::Acknowledged(record) => (ACKNOWLEDGED, 0, 0, Some(record)),
            Event::Sent(sequence) => (SENT, *sequence, 0, None),
            Event::GivenUp(sequence, reason) => (GIVEN_UP, *sequence, *reason as i64, None),
        };
        book.number = number;
        book.reports += 1;
        book.waiting += usize::from(kind == ACKNOWLEDGED);
        self.execute(
            "INSERT INTO reports (domain, number, device, kind, sequence, detail, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![id, number, device, kind, sequence, detail, record],
        )?;
        self.execute(
            "UPDATE domains SET number = ?2 WHERE id = ?1",
            params![id, number],
        )?;
        Ok(())
    }

    pub(super) fn reports(&self, domain: &str, after: u64, most: usize) -> Result<Vec<Report>> {
        let Some(book) = self.books.domains.get(domain) else {
            return Ok(Vec::new());
        };
        self.rows(
            "SELECT number, device, kind, sequence, detail, record FROM reports WHERE domain = ?1 AND number > ?2
             ORDER BY number LIMIT ?3",
            params![book.id, after.min(i64::MAX as u64), most],
            report,
        )
    }

    pub(super) fn taken(&mut self, domain: &str, number: u64) -> Result<()> {
        let Some(id) = self.books.domains.get(domain).map(|d| d.id) else {
            return Ok(());
        };
        let gone: Vec<(Handle, i64)> = self.rows(
            "DELETE FROM reports WHERE domain = ?1 AND number <= ?2 RETURNING device, kind",
            params![id, number.min(i64::MAX as u64)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for (handle, kind) in &gone {
            let acknowledged = *kind == ACKNOWLEDGED;
            if let Some(book) = self.books.domains.get_mut(domain) {
                book.reports -= 1;
                book.waiting -= usize::from(acknowledged);
            }
            if acknowledged && let Some(book) = self.books.devices.get_mut(handle) {
                book.waiting = book.waiting.saturating_sub(1);
            }
        }
        self.deleted |= !gone.is_empty();
        Ok(())
    }

    pub(super) fn retain(&mut self, domains: &[Arc<str>]) -> Result<usize> {
        let gone: Vec<(Arc<str>, i64)> = self
            .books
            .domains
            .iter()
            .filter(|(name, _)| !domains.contains(name))
            .map(|(name, book)| (name.clone(), book.id))
            .collect();
        for (_, id) in &gone {
            let queues = "DELETE FROM queue WHERE device IN (SELECT id FROM devices WHERE domain = ?1)";
            self.execute(queues, [id])?;
            self.execute("DELETE FROM reports WHERE domain = ?1", [id])?;
            self.execute("DELETE FROM devices WHERE domain = ?1", [id])?;
            self.execute("DELETE FROM domains WHERE id = ?1", [id])?;
        }
        if !gone.is_empty() {
            let position = self.books.position;
            self.books = Books::read(&self.connection)?;
            self.books.position = position;
            self.wipe = true;
        }
        Ok(gone.len())
    }

    /// The domain's row.
    fn domain(&mut self, name: &Arc<str>) -> Result<i64> {
        if let Some(book) = self.books.domains.get(name) {
            return Ok(book.id);
        }
        self.execute("INSERT INTO domains (name, number) VALUES (?1, 0)", [&**name])?;
        let id = self.connection.last_insert_rowid();
        let book = DomainBook {
            id,
            ..DomainBook::default()
        };
        self.books.domains.insert(name.clone(), book);
        Ok(id)
    }

    fn execute(&self, query: &str, params: impl Params) -> Result<usize> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.execute(params))
            .map_err(engine)
    }

    fn one<T: rusqlite::types::FromSql>(&self, query: &str, params: impl Params) -> Result<Option<T>> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_row(params, |row| row.get(0)).optional())
            .map_err(engine)
    }

    fn rows<T>(
        &self,
        query: &str,
        params: impl Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_map(params, row)?.collect())
            .map_err(engine)
    }
}

/// Reads a queue, beside whoever writes.
pub(super) fn read(connection: &Connection, handle: &Handle, page: &Page) -> Result<Vec<Item>> {
    // The inner query finds its rows in an index, so that no body is read that is not wanted.
    let mut statement = connection
        .prepare_cached(
            "SELECT position, last, expires, kind, body FROM queue WHERE position IN
                 (SELECT position FROM queue WHERE device = (SELECT id FROM devices WHERE handle = ?1 AND revoked = 0)
                  AND position > ?2 AND last > ?3 AND (kind = 1 OR expires > ?5) ORDER BY position LIMIT ?4)
             ORDER BY position",
        )
        .map_err(engine)?;
    let above = page.above.min(i64::MAX as u64);
    let mut rows = statement
        .query(params![handle, page.after, above, page.items, page.now])
        .map_err(engine)?;
    let (mut items, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(engine)? {
        let item = item(row).map_err(engine)?;
        bytes += item.body.len();
        items.push(item);
        if bytes >= page.bytes {
            break;
        }
    }
    Ok(items)
}

fn item(row: &rusqlite::Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item {
        position: row.get(0)?,
        sequence: row.get(1)?,
        expires: row.get(2)?,
        skip: row.get(3)?,
        body: row.get_ref(4)?.as_blob()?.into(),
    })
}

fn report(row: &rusqlite::Row<'_>) -> rusqlite::Result<Report> {
    let sequence = row.get(3)?;
    let event = match row.get::<_, i64>(2)? {
        ACKNOWLEDGED => Event::Acknowledged(row.get(5)?),
        SENT => Event::Sent(sequence),
        _ => Event::GivenUp(
            sequence,
            match row.get::<_, i64>(4)? {
                0 => Reason::Collapsed,
                1 => Reason::Expired,
                _ => Reason::Dropped,
            },
        ),
    };
    Ok(Report {
        number: row.get(0)?,
        device: row.get(1)?,
        event,
    })
}
