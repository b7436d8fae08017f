//! The write-ahead log on the guest's disk. The first half of the disk is an array of slots of 512 bytes; the record with
//! sequence number N is in slot N-1, so a missing, torn or stale record shows by its place. The second half is scratch space.

use std::fmt;

/// Bytes in a slot: a sector, which a disk writes whole.
pub const SLOT: usize = 512;

/// Most bytes in a key.
pub const KEY_MAX: usize = 64;

/// Most bytes in a value.
pub const VALUE_MAX: usize = 384;

const MAGIC: &[u8; 8] = b"hawserW1";
const HEADER: usize = 20;
const SUM: usize = SLOT - 8;
const _: () = assert!(HEADER + KEY_MAX + VALUE_MAX <= SUM);

/// One acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Place in the order of all writes; the first is 1.
    pub sequence: u64,
    /// What was written to, at most [`KEY_MAX`] bytes.
    pub key: String,
    /// What it was set to, at most [`VALUE_MAX`] bytes.
    pub value: String,
}

/// Why a slot holds no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It was never written.
    Empty,
    /// It was written, but not as a whole, or by something else.
    Damaged,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the slot was never written",
            Self::Damaged => "the slot holds no whole record",
        })
    }
}

impl Record {
    /// Writes it into a slot. None if key or value is too long.
    pub fn encode(&self) -> Option<[u8; SLOT]> {
        if self.key.len() > KEY_MAX || self.value.len() > VALUE_MAX {
            return None;
        }
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        slot[16..18].copy_from_slice(&u16::try_from(self.key.len()).ok()?.to_le_bytes());
        slot[18..20].copy_from_slice(&u16::try_from(self.value.len()).ok()?.to_le_bytes());
        slot[HEADER..][..self.key.len()].copy_from_slice(self.key.as_bytes());
        slot[HEADER + self.key.len()..][..self.value.len()].copy_from_slice(self.value.as_bytes());
        let sum = checksum(&slot[..SUM]);
        slot[SUM..].copy_from_slice(&sum.to_le_bytes());
        Some(slot)
    }

    /// Reads it from a slot.
    pub fn decode(slot: &[u8; SLOT]) -> Result<Self, Unreadable> {
        if slot.iter().all(|b| *b == 0) {
            return Err(Unreadable::Empty);
        }
        let word = |at: usize| slot[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let half = |at: usize| usize::from(u16::from_le_bytes([slot[at], slot[at + 1]]));
        let (key, value) = (half(16), half(18));
        if &slot[..8] != MAGIC || word(SUM) != checksum(&slot[..SUM]) || key > KEY_MAX || value > VALUE_MAX {
            return Err(Unreadable::Damaged);
        }
        let text = |at: usize, len: usize| String::from_utf8(slot[at..at + len].to_vec());
        let (Ok(key_text), Ok(value_text)) = (text(HEADER, key), text(HEADER + key, value)) else {
            return Err(Unreadable::Damaged);
        };
        Ok(Self {
            sequence: word(8),
            key: key_text,
            value: value_text,
        })
    }
}

/// FNV-1a over 64 bits: it shows torn and misplaced sectors, and needs no other crate.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| {
        (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Slots on a disk of this many bytes.
pub fn slots(disk: u64) -> u64 {
    disk / 2 / SLOT as u64
}

/// Where the scratch space of a disk begins, in bytes.
pub fn scratch(disk: u64) -> u64 {
    (disk / 2).next_multiple_of(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            sequence: 7,
            key: "k".repeat(KEY_MAX),
            value: "v".repeat(VALUE_MAX),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(Record::decode(&record().encode().unwrap()), Ok(record()));
        let empty = Record {
            key: String::new(),
            value: String::new(),
            ..record()
        };
        assert_eq!(Record::decode(&empty.encode().unwrap()), Ok(empty));
    }

    #[test]
    fn every_changed_bit_shows() {
        let whole = record().encode().unwrap();
        for bit in 0..SLOT * 8 {
            let mut slot = whole;
            slot[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&slot), Err(Unreadable::Damaged), "bit {bit}");
        }
        assert_eq!(Record::decode(&[0; SLOT]), Err(Unreadable::Empty));
    }

    #[test]
    fn too_long_is_refused() {
        let long = Record {
            value: "v".repeat(VALUE_MAX + 1),
            ..record()
        };
        assert_eq!(long.encode(), None);
    }
}
