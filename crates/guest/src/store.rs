//! The keys and their log. One thread writes the log, as many records at once as are waiting; a record is in the log first,
//! then in memory, and only then is it acknowledged.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use hawser_guest::log::{KEY_MAX, Record, SLOT, VALUE_MAX, slots};

use crate::disk::{Aligned, Disk};

/// Most records in one transfer to the disk.
const BATCH: usize = 64;

/// Writes that may wait for the log's thread.
const WAITING: usize = 1024;

/// What a write does to a key.
pub(crate) enum Change {
    Set(String),
    /// Adds to a number; a key that is not there, or holds none, counts as 0.
    Add(i64),
}

/// What is answered once a write is in the log and in memory.
pub(crate) type Answer = Result<Record, String>;

struct Write {
    key: String,
    change: Change,
    answer: Sender<Answer>,
}

/// All keys. Clones are the same store.
#[derive(Clone)]
pub(crate) struct Store {
    keys: Arc<Mutex<BTreeMap<String, Record>>>,
    writes: SyncSender<Write>,
}

impl Store {
    /// Reads the log and goes on behind its last record. Without a disk it keeps everything in memory only.
    pub(crate) fn open(disk: Option<Arc<Disk>>, flush: bool) -> io::Result<(Self, u64)> {
        let (keys, last) = match &disk {
            Some(disk) => replay(disk)?,
            None => Default::default(),
        };
        let keys = Arc::new(Mutex::new(keys));
        let (writes, queue) = sync_channel(WAITING);
        let log = Log {
            disk,
            flush,
            last,
            keys: keys.clone(),
            buffer: Aligned::new(BATCH * SLOT),
        };
        thread::spawn(move || log.run(&queue));
        Ok((Self { keys, writes }, last))
    }

    /// Changes a key; returns when that is in the log and in memory.
    pub(crate) fn write(&self, key: &str, change: Change) -> Answer {
        let (answer, outcome) = channel();
        let gone = |_| "the log's thread is gone".to_owned();
        self.writes
            .send(Write {
                key: key.into(),
                change,
                answer,
            })
            .map_err(|_| gone(()))?;
        outcome.recv().map_err(|_| gone(()))?
    }

    pub(crate) fn read(&self, key: &str) -> Option<Record> {
        locked(&self.keys).get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        locked(&self.keys).values().cloned().collect()
    }
}

struct Log {
    disk: Option<Arc<Disk>>,
    flush: bool,
    last: u64,
    keys: Arc<Mutex<BTreeMap<String, Record>>>,
    buffer: Aligned,
}

impl Log {
    fn run(mut self, queue: &Receiver<Write>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(BATCH - 1));
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Write>) {
        let mut done: Vec<(Record, Sender<Answer>)> = Vec::new();
        let start = self.last;
        for write in batch {
            match self.next(&write, &done, start) {
                Ok((record, slot)) => {
                    self.buffer.bytes_mut()[done.len() * SLOT..][..SLOT].copy_from_slice(&slot);
                    done.push((record, write.answer));
                }
                Err(why) => drop(write.answer.send(Err(why))),
            }
        }
        if done.is_empty() {
            return;
        }
        if let Err(e) = self.put(done.len(), start) {
            for (_, answer) in done {
                let _ = answer.send(Err(format!("the disk failed: {e}")));
            }
            return;
        }
        self.last = start + done.len() as u64;
        let mut keys = locked(&self.keys);
        for (record, _) in &done {
            keys.insert(record.key.clone(), record.clone());
        }
        drop(keys);
        for (record, answer) in done {
            let _ = answer.send(Ok(record));
        }
    }

    /// The record of a write that follows those of the same batch.
    fn next(
        &self,
        write: &Write,
        before: &[(Record, Sender<Answer>)],
        start: u64,
    ) -> Result<(Record, [u8; SLOT]), String> {
        let value = match &write.change {
            Change::Set(value) => value.clone(),
            Change::Add(n) => {
                let same = before.iter().rev().map(|(r, _)| r).find(|r| r.key == write.key);
                let old = same
                    .cloned()
                    .or_else(|| locked(&self.keys).get(&write.key).cloned());
                let number = old.and_then(|r| r.value.parse::<i64>().ok()).unwrap_or(0);
                number.wrapping_add(*n).to_string()
            }
        };
        let sequence = start + before.len() as u64 + 1;
        if self.disk.as_ref().is_some_and(|d| sequence > slots(d.size())) {
            return Err("the log is full: take a larger disk".into());
        }
        let record = Record {
            sequence,
            key: write.key.clone(),
            value,
        };
        let slot = record
            .encode()
            .ok_or_else(|| format!("too long: a key has at most {KEY_MAX} bytes, a value {VALUE_MAX}"))?;
        Ok((record, slot))
    }

    fn put(&self, records: usize, start: u64) -> io::Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        disk.write(&self.buffer.bytes()[..records * SLOT], start * SLOT as u64)?;
        if self.flush { disk.flush() } else { Ok(()) }
    }
}

/// What is in the log: its newest records by key, and the last sequence number.
fn replay(disk: &Disk) -> io::Result<(BTreeMap<String, Record>, u64)> {
    const AT_ONCE: usize = 256 * 1024;
    let (mut keys, mut last) = (BTreeMap::new(), 0);
    let mut buffer = Aligned::new(AT_ONCE);
    let end = slots(disk.size()) * SLOT as u64;
    let mut at = 0;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(AT_ONCE).min(AT_ONCE);
        disk.read(&mut buffer.bytes_mut()[..len], at)?;
        for slot in buffer.bytes()[..len].as_chunks::<SLOT>().0 {
            match Record::decode(slot) {
                Ok(record) if record.sequence == last + 1 => {
                    last = record.sequence;
                    keys.insert(record.key.clone(), record);
                }
                _ => return Ok((keys, last)),
            }
        }
        at += len as u64;
    }
    Ok((keys, last))
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
