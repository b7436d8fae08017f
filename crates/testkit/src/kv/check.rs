//! Judges a history.
//!
//! The server numbers its writes, and every answer carries the number of the write that it made or saw. That order is a claim
//! which can be checked in one pass: if each key's operations, put in that order, contradict neither what was read nor real time,
//! the history is linearizable, with that order as the witness. A server that lost a write and used its number again, or that
//! answered with an older state, is caught by it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail, ensure};

use super::{History, Kind, Log, Operation, Outcome, Record};

/// That the history is linearizable for every key.
pub fn linearizable(history: &History) -> Result<()> {
    let mut keys: HashMap<&str, Vec<&Operation>> = HashMap::new();
    let mut numbers: HashMap<u64, &Operation> = HashMap::new();
    for operation in &history.operations {
        keys.entry(&operation.key).or_default().push(operation);
        if let Outcome::Written(n) = operation.outcome
            && let Some(other) = numbers.insert(n, operation)
        {
            bail!("two writes were both acknowledged as number {n}: {other:?} and {operation:?}");
        }
    }
    keys.values().try_for_each(|operations| one_key(operations))
}

fn one_key(operations: &[&Operation]) -> Result<()> {
    let mut writes: HashMap<&str, &Operation> = HashMap::new();
    for operation in operations {
        if let Kind::Write(value) = &operation.kind {
            ensure!(
                writes.insert(value, operation).is_none(),
                "two writes of {value:?}: values must differ"
            );
        }
    }
    // What each number stands for, by all who saw it. A value that none of these clients wrote was there before them.
    let mut values: HashMap<u64, &str> = HashMap::new();
    let mut placed: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        let (number, value) = match (&operation.kind, &operation.outcome) {
            (Kind::Write(value), Outcome::Written(n)) => (*n, value.as_str()),
            (Kind::Read, Outcome::Read(Some((n, value)))) => (*n, value.as_str()),
            (Kind::Read, Outcome::Read(None)) => {
                placed.entry(0).or_default().push(operation);
                continue;
            }
            _ => continue,
        };
        let before = *values.entry(number).or_insert(value);
        ensure!(
            before == value,
            "write number {number} is {before:?} to one and {value:?} to another"
        );
        let place = placed.entry(number).or_default();
        if operation.kind == Kind::Read
            && let Some(write) = writes.get(value)
        {
            read_is_of_write(operation, number, write)?;
            place.push(write);
        }
        place.push(operation);
    }
    in_real_time(&placed)
}

fn read_is_of_write(read: &Operation, number: u64, write: &Operation) -> Result<()> {
    ensure!(
        write.invoked <= read.returned,
        "read before it was written: {read:?} of {write:?}"
    );
    if let Outcome::Written(n) = write.outcome {
        ensure!(
            n == number,
            "acknowledged as number {n} and read as {number}: {write:?}, {read:?}"
        );
    }
    Ok(())
}

/// What began after another had ended must not stand before it.
fn in_real_time(placed: &BTreeMap<u64, Vec<&Operation>>) -> Result<()> {
    // Going back from the newest: nothing may begin after something newer has ended.
    let mut newer: Option<&Operation> = None;
    for operations in placed.values().rev() {
        for operation in operations {
            if let Some(other) = newer.filter(|other| operation.invoked > other.returned) {
                bail!("stale: {operation:?} began after {other:?} had ended");
            }
        }
        // One whose outcome is unknown may have ended at any time.
        let ended = operations
            .iter()
            .filter(|o| o.outcome != Outcome::Unknown)
            .copied();
        newer = newer.into_iter().chain(ended).min_by_key(|o| o.returned);
    }
    Ok(())
}

/// That every acknowledged write is in the guest's memory, or was overwritten there by a later one: `dump` is what
/// [`super::Kv::dump`] returned after the last operation of the history.
pub fn in_memory(history: &History, dump: &[Record]) -> Result<()> {
    let now: HashMap<&str, &Record> = dump.iter().map(|r| (r.key.as_str(), r)).collect();
    for (sequence, key, value) in history.acknowledged() {
        let held = now
            .get(key)
            .is_some_and(|r| r.sequence > sequence || r.sequence == sequence && r.value == value);
        ensure!(
            held,
            "write {sequence} of {key} = {value} was acknowledged; memory holds {:?}",
            now.get(key)
        );
    }
    Ok(())
}

/// That every acknowledged write is in the log of a disk, at its place.
pub fn in_log(history: &History, log: &Log) -> Result<()> {
    for (sequence, key, value) in history.acknowledged() {
        let place = usize::try_from(sequence).unwrap_or(usize::MAX).wrapping_sub(1);
        let found = log.records.get(place);
        ensure!(
            found.is_some_and(|r| r.key == key && r.value == value),
            "write {sequence} of {key} = {value} was acknowledged; the log has {} records, and there {found:?}",
            log.records.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn operation(kind: Kind, times: (u64, u64), outcome: Outcome) -> Operation {
        Operation {
            connection: 0,
            key: "k".into(),
            kind,
            invoked: Duration::from_millis(times.0),
            returned: Duration::from_millis(times.1),
            outcome,
        }
    }

    fn write(value: &str, times: (u64, u64), number: u64) -> Operation {
        operation(Kind::Write(value.into()), times, Outcome::Written(number))
    }

    fn read(times: (u64, u64), number: u64, value: &str) -> Operation {
        operation(Kind::Read, times, Outcome::Read(Some((number, value.into()))))
    }

    fn judge(operations: Vec<Operation>) -> Result<()> {
        linearizable(&History {
            operations,
            broken: Vec::new(),
        })
    }

    #[test]
    fn what_a_register_does_passes() {
        let none = operation(Kind::Read, (0, 1), Outcome::Read(None));
        let unknown = operation(Kind::Write("u".into()), (20, 90), Outcome::Unknown);
        judge(vec![
            none,
            write("a", (2, 3), 1),
            read((4, 5), 1, "a"),
            unknown,
            read((30, 31), 2, "u"),
        ])
        .unwrap();
        // Two at once, in either order; readers that overlap them see the old or the new.
        judge(vec![
            write("a", (0, 10), 2),
            write("b", (0, 10), 1),
            read((5, 6), 1, "b"),
            read((7, 8), 2, "a"),
        ])
        .unwrap();
        judge(vec![read((0, 9), 1, "a"), write("a", (8, 10), 1)]).unwrap();
    }

    #[test]
    fn what_no_register_does_is_caught() {
        let cases = [
            (
                "stale read",
                vec![write("a", (0, 1), 1), write("b", (2, 3), 2), read((4, 5), 1, "a")],
            ),
            (
                "lost write",
                vec![
                    write("a", (0, 1), 1),
                    operation(Kind::Read, (2, 3), Outcome::Read(None)),
                ],
            ),
            (
                "number used twice",
                vec![write("a", (0, 1), 1), write("b", (2, 3), 1)],
            ),
            (
                "going back",
                vec![
                    write("a", (0, 9), 1),
                    write("b", (0, 9), 2),
                    read((1, 2), 2, "b"),
                    read((3, 4), 1, "a"),
                ],
            ),
            (
                "read before written",
                vec![read((0, 1), 1, "a"), write("a", (2, 3), 1)],
            ),
            (
                "write ordered before an older one",
                vec![write("a", (0, 1), 2), write("b", (2, 3), 1)],
            ),
            ("other value", vec![write("a", (0, 1), 1), read((2, 3), 1, "b")]),
            ("other number", vec![write("a", (0, 1), 1), read((2, 3), 2, "a")]),
            (
                "unknown one after a newer one",
                vec![
                    write("b", (0, 1), 2),
                    operation(Kind::Write("u".into()), (2, 3), Outcome::Unknown),
                    read((0, 5), 1, "u"),
                ],
            ),
            (
                "unknown one read before it was sent",
                vec![
                    read((0, 1), 1, "u"),
                    operation(Kind::Write("u".into()), (2, 3), Outcome::Unknown),
                ],
            ),
        ];
        for (what, operations) in cases {
            assert!(judge(operations).is_err(), "{what}");
        }
    }

    #[test]
    fn a_missing_acknowledged_write_is_caught_in_memory_and_log() {
        let history = History {
            operations: vec![write("a", (0, 1), 1), write("b", (2, 3), 2)],
            broken: Vec::new(),
        };
        let record = |sequence, value: &str| Record {
            sequence,
            key: "k".into(),
            value: value.into(),
        };
        let log = |records: Vec<Record>| Log { records, strays: 0 };
        in_memory(&history, &[record(2, "b")]).unwrap();
        in_memory(&history, &[record(3, "c")]).unwrap();
        in_log(&history, &log(vec![record(1, "a"), record(2, "b")])).unwrap();
        assert!(in_memory(&history, &[record(1, "a")]).is_err());
        assert!(in_memory(&history, &[record(2, "x")]).is_err());
        assert!(in_memory(&history, &[]).is_err());
        assert!(in_log(&history, &log(vec![record(1, "a")])).is_err());
        assert!(in_log(&history, &log(vec![record(1, "a"), record(2, "x")])).is_err());
    }
}
