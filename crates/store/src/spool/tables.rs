//! What the calls do, within a transaction that many of them share.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params, types::Value};

use super::{Accepted, Bounds, Change, Content, Entry, Filter, Id, Kind, Message, State, Totals};
use crate::{StoreError, group::Grouped, owner::Owned, sqlite::engine};

/// `state` in table `messages`.
const WAITING: i64 = 0;
const DELIVERED: i64 = 1;
const DEAD: i64 = 2;

type Result<T> = std::result::Result<T, StoreError>;

/// The database.
pub(super) struct Tables {
    pub(super) connection: Connection,
    /// Something was deleted, whose bytes stand in the write-ahead log yet.
    pub(super) deleted: bool,
}

/// `time` is when a message is tried next, was delivered or was given up. Queues count what has a head and a body.
pub(super) const SCHEMA: &str = "
    CREATE TABLE messages (number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, queue TEXT NOT NULL, lane TEXT NOT NULL,
        key TEXT, sender TEXT NOT NULL, accepted INTEGER NOT NULL, expires INTEGER NOT NULL, bytes INTEGER NOT NULL,
        attempts INTEGER NOT NULL, state INTEGER NOT NULL, time INTEGER NOT NULL, status INTEGER, why TEXT,
        twin BLOB, said BLOB) STRICT;
    CREATE UNIQUE INDEX messages_twin ON messages (queue, twin) WHERE twin IS NOT NULL;
    CREATE INDEX messages_ended ON messages (state, time) WHERE state > 0;
    CREATE INDEX messages_waiting ON messages (queue, accepted) WHERE state = 0;
    CREATE TABLE contents (number INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE TABLE queues (name TEXT PRIMARY KEY, waiting INTEGER NOT NULL, dead INTEGER NOT NULL, bytes INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;";

const COLUMNS: &str =
    "number, id, queue, lane, key, sender, accepted, expires, bytes, attempts, state, time, status, why";

impl Tables {
    pub(super) fn accept(&mut self, m: &Message, bounds: Bounds) -> Result<Accepted> {
        if let Some(twin) = &m.twin {
            let mut query = self.prepare("SELECT id, said FROM messages WHERE queue = ?1 AND twin = ?2")?;
            let known = query.query_row(params![m.queue, twin.name], |row| Ok((row.get(0)?, row.get(1)?)));
            let known: Option<(Id, [u8; 32])> = known.optional().map_err(engine)?;
            match known {
                Some((id, said)) if said == twin.content => return Ok(Accepted::Already(id)),
                Some(_) => return Ok(Accepted::Differs),
                None => {}
            }
        }
        let bytes = (m.head.len() + m.body.len()) as u64;
        let (waiting, dead, held) = self.queue(&m.queue)?;
        if waiting + dead + 1 > bounds.messages || held + bytes > bounds.bytes {
            return Ok(Accepted::Full);
        }
        let twin = m.twin.map(|t| t.name);
        let said = m.twin.map(|t| t.content);
        self.prepare(
            "INSERT INTO messages (id, queue, lane, key, sender, accepted, expires, bytes, attempts, state, time, twin, said)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?6, ?9, ?10)",
        )?
        .execute(params![
            m.id, m.queue, m.lane, m.key, m.from, m.accepted, m.expires, bytes, twin, said
        ])
        .map_err(engine)?;
        let number = self.connection.last_insert_rowid();
        self.prepare("INSERT INTO contents (number, head, body) VALUES (?1, ?2, ?3)")?
            .execute(params![number, m.head, m.body])
            .map_err(engine)?;
        self.count(&m.queue, 1, 0, bytes.cast_signed())?;
        Ok(Accepted::Kept {
            number: number.cast_unsigned(),
        })
    }

    pub(super) fn change(&mut self, id: &Id, change: &Change) -> Result<Option<Entry>> {
        let Some(entry) = find(&self.connection, id)? else {
            return Ok(None);
        };
        let number = entry.number;
        let bytes = entry.bytes.cast_signed();
        match (change, entry.state.kind()) {
            (Change::Failed { next, why }, Kind::Waiting) => {
                self.prepare(
                    "UPDATE messages SET attempts = attempts + 1, time = ?2, why = ?3 WHERE number = ?1",
                )?
                .execute(params![number, next, why])
                .map_err(engine)?;
            }
            (Change::Delivered { status, at }, Kind::Waiting) => {
                self.prepare(
                    "UPDATE messages SET attempts = attempts + 1, state = ?2, time = ?3, status = ?4, why = NULL, bytes = 0
                     WHERE number = ?1",
                )?
                .execute(params![number, DELIVERED, at, status])
                .map_err(engine)?;
                self.drop_content(number)?;
                self.count(&entry.queue, -1, 0, -bytes)?;
            }
            (Change::GivenUp { at, tried, why }, Kind::Waiting) => {
                self.prepare(
                    "UPDATE messages SET attempts = attempts + ?5, state = ?2, time = ?3, why = ?4 WHERE number = ?1",
                )?
                .execute(params![number, DEAD, at, why, i64::from(*tried)])
                .map_err(engine)?;
                self.count(&entry.queue, -1, 1, 0)?;
            }
            (Change::Replayed { next, expires }, Kind::Dead) => {
                self.prepare("UPDATE messages SET state = ?2, time = ?3, expires = ?4 WHERE number = ?1")?
                    .execute(params![number, WAITING, next, expires])
                    .map_err(engine)?;
                self.count(&entry.queue, 1, -1, 0)?;
            }
            (Change::Discarded, kind @ (Kind::Waiting | Kind::Dead)) => {
                self.forget(number)?;
                let (waiting, dead) = if kind == Kind::Waiting { (-1, 0) } else { (0, -1) };
                self.count(&entry.queue, waiting, dead, -bytes)?;
                return Ok(Some(entry));
            }
            _ => return Ok(None),
        }
        find(&self.connection, id)
    }

    pub(super) fn sweep(&mut self, delivered_before: u64, dead_before: u64, most: usize) -> Result<usize> {
        let mut old: Vec<(u64, String, u64, i64)> = Vec::new();
        for (state, before) in [(DELIVERED, delivered_before), (DEAD, dead_before)] {
            let mut query = self.prepare(
                "SELECT number, queue, bytes, state FROM messages WHERE state = ?1 AND time < ?2 ORDER BY time LIMIT ?3",
            )?;
            let rows = query
                .query_map(params![state, before, most - old.len()], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .map_err(engine)?;
            for row in rows {
                old.push(row.map_err(engine)?);
            }
        }
        for (number, queue, bytes, state) in &old {
            self.forget(*number)?;
            if *state == DEAD {
                self.count(queue, 0, -1, -bytes.cast_signed())?;
            }
        }
        Ok(old.len())
    }

    fn queue(&self, name: &str) -> Result<(u64, u64, u64)> {
        let mut query = self.prepare("SELECT waiting, dead, bytes FROM queues WHERE name = ?1")?;
        let found = query.query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        Ok(found.optional().map_err(engine)?.unwrap_or_default())
    }

    fn count(&self, queue: &str, waiting: i64, dead: i64, bytes: i64) -> Result<()> {
        self.prepare(
            "INSERT INTO queues (name, waiting, dead, bytes) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET
             waiting = waiting + ?2, dead = dead + ?3, bytes = bytes + ?4",
        )?
        .execute(params![queue, waiting, dead, bytes])
        .map_err(engine)?;
        Ok(())
    }

    fn forget(&mut self, number: u64) -> Result<()> {
        self.drop_content(number)?;
        self.prepare("DELETE FROM messages WHERE number = ?1")?
            .execute([number])
            .map_err(engine)?;
        self.deleted = true;
        Ok(())
    }

    fn drop_content(&mut self, number: u64) -> Result<()> {
        self.prepare("DELETE FROM contents WHERE number = ?1")?
            .execute([number])
            .map_err(engine)?;
        self.deleted = true;
        Ok(())
    }

    fn prepare(&self, statement: &str) -> Result<rusqlite::CachedStatement<'_>> {
        self.connection.prepare_cached(statement).map_err(engine)
    }
}

impl Grouped for Tables {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn undone(&mut self) {}
}

impl Owned for Tables {
    fn deleted(&mut self) -> bool {
        std::mem::take(&mut self.deleted)
    }

    fn wipe(&mut self) -> bool {
        false
    }
}

pub(super) fn find(connection: &Connection, id: &Id) -> Result<Option<Entry>> {
    let mut query = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM messages WHERE id = ?1"))
        .map_err(engine)?;
    query.query_row([id], entry).optional().map_err(engine)
}

pub(super) fn content(connection: &Connection, id: &Id) -> Result<Option<Content>> {
    let mut query = connection
        .prepare_cached(
            "SELECT c.head, c.body FROM contents c JOIN messages m ON m.number = c.number WHERE m.id = ?1",
        )
        .map_err(engine)?;
    let found = query.query_row([id], |row| {
        Ok(Content {
            head: row.get(0)?,
            body: row.get(1)?,
        })
    });
    found.optional().map_err(engine)
}

pub(super) fn list(connection: &Connection, filter: &Filter, most: usize) -> Result<Vec<Entry>> {
    let state = filter.state.map(|kind| match kind {
        Kind::Waiting => WAITING,
        Kind::Delivered => DELIVERED,
        Kind::Dead => DEAD,
    });
    let mut query = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM messages WHERE number > ?1 AND (?2 IS NULL OR queue = ?2) AND (?3 IS NULL OR state = ?3)
             ORDER BY number LIMIT ?4"
        ))
        .map_err(engine)?;
    let rows = query
        .query_map(params![filter.after, filter.queue, state, most], entry)
        .map_err(engine)?;
    rows.collect::<rusqlite::Result<_>>().map_err(engine)
}

pub(super) fn totals(connection: &Connection) -> Result<Vec<Totals>> {
    let mut query = connection
        .prepare_cached(
            "SELECT name, waiting, dead, bytes, (SELECT min(accepted) FROM messages WHERE queue = name AND state = 0) FROM queues
             ORDER BY name",
        )
        .map_err(engine)?;
    let rows = query
        .query_map([], |row| {
            Ok(Totals {
                queue: text(row, 0)?,
                waiting: row.get(1)?,
                dead: row.get(2)?,
                bytes: row.get(3)?,
                oldest: row.get(4)?,
            })
        })
        .map_err(engine)?;
    rows.collect::<rusqlite::Result<_>>().map_err(engine)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let time: u64 = row.get(11)?;
    let state = match row.get::<_, i64>(10)? {
        DELIVERED => State::Delivered {
            status: row.get(12)?,
            at: time,
        },
        DEAD => State::Dead { at: time },
        WAITING => State::Waiting { next: time },
        other => {
            return Err(rusqlite::Error::FromSqlConversionFailure(
                10,
                rusqlite::types::Type::Integer,
                format!("{:?} is no state of a message", Value::Integer(other)).into(),
            ));
        }
    };
    Ok(Entry {
        number: row.get(0)?,
        id: row.get(1)?,
        queue: text(row, 2)?,
        lane: text(row, 3)?,
        key: row.get::<_, Option<String>>(4)?.map(Into::into),
        from: text(row, 5)?,
        accepted: row.get(6)?,
        expires: row.get(7)?,
        bytes: row.get(8)?,
        attempts: row.get(9)?,
        state,
        why: row.get(13)?,
    })
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<str>> {
    row.get::<_, String>(column).map(Into::into)
}
