//! The datagrams of heartbeats, and the keys that seal them. No I/O.
//!
//! All numbers are big-endian; 63 bytes:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | version, 1 |
//! | 8 | tag of the channel and direction, by which a receiver finds the key |
//! | 8 | sequence number, from 1, of this direction |
//! | 8 | highest sequence number heard of the other direction, 0 for none |
//! | 4 | how long ago that was heard, in microseconds |
//! | 2 | status |
//! | 32 | HMAC-SHA-256 (RFC 2104) over all before |

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use rustls::Connection;

/// Label of the exporter value that the keys are made of (RFC 8446, 7.5).
const EXPORTER: &[u8] = b"EXPORTER-hawser-heart";
const VERSION: u8 = 1;
const TAG: usize = 8;
const KEY: usize = 32;
const BODY: usize = 1 + TAG + 8 + 8 + 4 + 2;
const MAC: usize = 32;
/// Bytes of a datagram.
pub(super) const LENGTH: usize = BODY + MAC;

/// Finds the receiving session of a datagram.
pub(in crate::link) type Tag = [u8; TAG];

/// The keys of one channel's heartbeats: known to its two ends, and used up by [`super::Hearts::begin`], because sequence
/// numbers must not begin again.
pub struct HeartKeys {
    pub(in crate::link) send: Sealing,
    pub(in crate::link) receive: Sealing,
}

impl HeartKeys {
    /// From a finished handshake; the same at both ends, with the directions swapped.
    pub(in crate::link) fn of(tls: &Connection) -> Result<Self, rustls::Error> {
        let bytes = tls.export_keying_material([0; 2 * (TAG + KEY)], EXPORTER, None)?;
        let (client, server) = bytes.split_at(TAG + KEY);
        let (client, server) = (Sealing::new(client), Sealing::new(server));
        Ok(match tls {
            Connection::Client(_) => Self {
                send: client,
                receive: server,
            },
            Connection::Server(_) => Self {
                send: server,
                receive: client,
            },
        })
    }

    /// Two fitting pairs of fixed keys.
    #[cfg(test)]
    pub(in crate::link) fn pair(seed: u8) -> (Self, Self) {
        let one = || Sealing::new(&[seed; TAG + KEY]);
        let two = || Sealing::new(&[!seed; TAG + KEY]);
        let (send, receive) = (one(), two());
        let other = Self {
            send: two(),
            receive: one(),
        };
        (Self { send, receive }, other)
    }
}

impl std::fmt::Debug for HeartKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeartKeys")
    }
}

/// One direction.
pub(in crate::link) struct Sealing {
    pub(in crate::link) tag: Tag,
    key: hmac::Key,
}

impl Sealing {
    fn new(bytes: &[u8]) -> Self {
        let mut tag = [0; TAG];
        tag.copy_from_slice(&bytes[..TAG]);
        Self {
            tag,
            key: hmac::Key::new(HMAC_SHA256, &bytes[TAG..]),
        }
    }

    pub(super) fn seal(&self, beat: &Beat) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        let fields: [&[u8]; 6] = [
            &[VERSION],
            &self.tag,
            &beat.sequence.to_be_bytes(),
            &beat.heard.to_be_bytes(),
            &beat.heard_ago.to_be_bytes(),
            &beat.status.to_be_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        let mac = hmac::sign(&self.key, &out[..BODY]);
        out[BODY..].copy_from_slice(mac.as_ref());
        out
    }

    /// What it says, if it was sealed with this key.
    pub(super) fn open(&self, datagram: &[u8]) -> Option<Beat> {
        let (body, mac) = datagram.split_at_checked(BODY)?;
        hmac::verify(&self.key, body, mac).ok()?;
        let mut rest = body.get(1 + TAG..)?;
        let beat = Beat {
            sequence: u64::from_be_bytes(field(&mut rest)?),
            heard: u64::from_be_bytes(field(&mut rest)?),
            heard_ago: u32::from_be_bytes(field(&mut rest)?),
            status: u16::from_be_bytes(field(&mut rest)?),
        };
        Some(beat)
    }
}

fn field<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (one, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*one)
}

/// The tag of a datagram that may be one of ours.
pub(super) fn tag(datagram: &[u8]) -> Option<Tag> {
    if datagram.len() != LENGTH || datagram[0] != VERSION {
        return None;
    }
    datagram[1..].first_chunk().copied()
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) sequence: u64,
    pub(super) heard: u64,
    /// Microseconds.
    pub(super) heard_ago: u32,
    pub(super) status: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Beat = Beat {
        sequence: 7,
        heard: 0x0102_0304_0506_0708,
        heard_ago: 1500,
        status: 0xabcd,
    };

    #[test]
    fn what_is_sealed_opens_at_the_other_end_only() {
        let (one, two) = HeartKeys::pair(1);
        let sealed = one.send.seal(&BEAT);
        assert_eq!(tag(&sealed), Some(two.receive.tag));
        assert_eq!(two.receive.open(&sealed), Some(BEAT));
        assert_eq!(one.receive.open(&sealed), None, "sent back to where it came from");
        assert_eq!(HeartKeys::pair(2).1.receive.open(&sealed), None);
    }

    #[test]
    fn no_bit_can_be_changed_and_no_byte_be_missing() {
        let (one, two) = HeartKeys::pair(1);
        let sealed = one.send.seal(&BEAT);
        for bit in 0..LENGTH * 8 {
            let mut other = sealed;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(two.receive.open(&other), None, "bit {bit}");
        }
        for n in 0..LENGTH {
            assert_eq!(tag(&sealed[..n]), None);
            assert_eq!(two.receive.open(&sealed[..n]), None);
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(tag(&longer), None);
        assert_eq!(two.receive.open(&longer), None);
    }
}
