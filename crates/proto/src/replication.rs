//! Frames of the one ordered channel between the active and the standby host: pages, device state, disk writes and barriers.
//!
//! Binary and little endian, since they carry gigabytes: a [`PREAMBLE`] names the version once, then every frame is a header of
//! [`HEADER`] bytes and a body of at most [`MAX_BODY`]. A header has one spelling only: what a kind does not use is zero.

/// First bytes in either direction: a name and, in the last two, the version.
pub const PREAMBLE: [u8; 8] = *b"HWSREP\x01\x00";
/// Bytes of a frame's header.
pub const HEADER: usize = 32;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Most pages in the body of one frame.
pub const MAX_RUN: u32 = 256;
/// Largest body of any frame, in bytes.
pub const MAX_BODY: u32 = MAX_RUN * PAGE as u32;

/// When the standby applies the pages of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At once: the guest's memory is being synchronised, no epoch is committed yet.
    Sync,
    /// When the epoch has ended: they are staged until then.
    Checkpoint,
}

/// Pages that follow each other in one RAM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the block.
    pub block: u16,
    /// Number of the first page in the block.
    pub first: u32,
    /// How many pages, at least one.
    pub count: u32,
}

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of the disk.
    pub disk: u16,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is in bytes, at least one.
    pub length: u64,
}

/// What a frame says. The bytes of pages, writes, state and messages follow as its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Contents of pages, `run.count` times [`PAGE`] bytes.
    Pages {
        /// When to apply them.
        mode: Mode,
        /// The epoch that they belong to.
        epoch: u64,
        /// Which pages, at most [`MAX_RUN`].
        run: Run,
    },
    /// Pages of zeros, without a body; as many as there are.
    Zero {
        /// When to apply them.
        mode: Mode,
        /// The epoch that they belong to.
        epoch: u64,
        /// Which pages.
        run: Run,
    },
    /// A piece of the device state; pieces follow each other.
    State {
        /// The epoch that it belongs to.
        epoch: u64,
        /// Bytes that follow, 1 to [`MAX_BODY`].
        length: u32,
    },
    /// A write to a disk. The length is that of the body, at most [`MAX_BODY`].
    Write(Extent),
    /// Zeros written to a disk.
    Zeroes(Extent),
    /// A part of a disk that the guest no longer needs; it reads as zeros from then on.
    Discard(Extent),
    /// All disk writes before this, and after the barrier before, belong to the epoch.
    Barrier {
        /// The epoch that ends at the barrier.
        epoch: u64,
    },
    /// The epoch is whole: its memory, its state, and by its barrier its disk writes.
    End {
        /// Which epoch.
        epoch: u64,
        /// Pages sent with contents in [`Mode::Checkpoint`].
        pages: u32,
        /// Pages sent as zeros in [`Mode::Checkpoint`].
        zero_pages: u32,
        /// Bytes of device state.
        state: u32,
        /// xxh3-64 of all frames of pages, zeros and state since the last end, headers included, in the order sent.
        digest: u64,
    },
    /// A message of the agents, whose form this protocol does not know.
    Control {
        /// Bytes that follow, at most [`MAX_BODY`].
        length: u32,
    },
}

/// Why a frame was refused. The peer is at fault, or of another version; to try again does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The channel does not begin with [`PREAMBLE`].
    #[error(
        "a replication channel begins with {PREAMBLE:02x?}, not {0:02x?}: the peer is no Hawser host, or of another version"
    )]
    Preamble([u8; 8]),
    /// A kind of frame that this version does not know.
    #[error(
        "a replication frame of kind {0}, which this version does not know: both hosts need the same version"
    )]
    Kind(u8),
    /// A length or a count that is over its limit, or zero where something was expected.
    #[error("a {kind} frame of {length} where 1 to {limit} is allowed")]
    Length {
        /// What the frame is.
        kind: &'static str,
        /// What it says: bytes, or pages.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A field that this kind does not use is not zero, or a number runs over.
    #[error("a {0} frame whose header contradicts itself: the peer is no Hawser host, or of another version")]
    Malformed(&'static str),
}

const PAGES: u8 = 1;
const ZERO: u8 = 2;
const STATE: u8 = 3;
const WRITE: u8 = 4;
const ZEROES: u8 = 5;
const DISCARD: u8 = 6;
const BARRIER: u8 = 7;
const END: u8 = 8;
const CONTROL: u8 = 9;

/// The fields of a header, in their order: kind, flag, `a`, `b`, `c`, `d`, `e`.
#[derive(Default)]
struct Raw {
    kind: u8,
    flag: u8,
    a: u16,
    b: u32,
    c: u64,
    d: u64,
    e: u64,
}

impl Head {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let raw = match *self {
            Head::Pages { mode, epoch, run } => Raw::pages(PAGES, mode, epoch, run),
            Head::Zero { mode, epoch, run } => Raw::pages(ZERO, mode, epoch, run),
            Head::State { epoch, length } => Raw {
                kind: STATE,
                b: length,
                c: epoch,
                ..Raw::default()
            },
            Head::Write(extent) => Raw::extent(WRITE, extent),
            Head::Zeroes(extent) => Raw::extent(ZEROES, extent),
            Head::Discard(extent) => Raw::extent(DISCARD, extent),
            Head::Barrier { epoch } => Raw {
                kind: BARRIER,
                c: epoch,
                ..Raw::default()
            },
            Head::End {
                epoch,
                pages,
                zero_pages,
                state,
                digest,
            } => Raw {
                kind: END,
                b: pages,
                c: epoch,
                d: digest,
                e: u64::from(zero_pages) | u64::from(state) << 32,
                ..Raw::default()
            },
            Head::Control { length } => Raw {
                kind: CONTROL,
                b: length,
                ..Raw::default()
            },
        };
        raw.encode()
    }

    /// Reads a header. What it accepts, [`Head::encode`] writes the same way.
    pub fn decode(header: &[u8; HEADER]) -> Result<Self, FrameError> {
        let raw = Raw::decode(header);
        let head = match raw.kind {
            PAGES => {
                let (mode, run) = raw.run("page")?;
                within("page", u64::from(run.count), u64::from(MAX_RUN))?;
                Head::Pages {
                    mode,
                    epoch: raw.c,
                    run,
                }
            }
            ZERO => {
                let (mode, run) = raw.run("zero page")?;
                Head::Zero {
                    mode,
                    epoch: raw.c,
                    run,
                }
            }
            STATE => {
                within("state", u64::from(raw.b), u64::from(MAX_BODY))?;
                Head::State {
                    epoch: raw.c,
                    length: raw.b,
                }
            }
            WRITE => {
                let extent = raw.disk("write")?;
                within("write", extent.length, u64::from(MAX_BODY))?;
                Head::Write(extent)
            }
            ZEROES => Head::Zeroes(raw.disk("zeroes")?),
            DISCARD => Head::Discard(raw.disk("discard")?),
            BARRIER => Head::Barrier { epoch: raw.c },
            END => Head::End {
                epoch: raw.c,
                pages: raw.b,
                zero_pages: raw.e as u32,
                state: (raw.e >> 32) as u32,
                digest: raw.d,
            },
            CONTROL if raw.b == 0 => Head::Control { length: 0 },
            CONTROL => {
                within("control", u64::from(raw.b), u64::from(MAX_BODY))?;
                Head::Control { length: raw.b }
            }
            kind => return Err(FrameError::Kind(kind)),
        };
        // Fields that a kind does not use come back as zero: one comparison finds them all.
        if head.encode() != *header {
            return Err(FrameError::Malformed(head.name()));
        }
        Ok(head)
    }

    /// Bytes of body that follow the header, at most [`MAX_BODY`] for one that was decoded.
    pub fn body(&self) -> usize {
        match self {
            Head::Pages { run, .. } => run.count as usize * PAGE,
            Head::State { length, .. } | Head::Control { length } => *length as usize,
            Head::Write(extent) => extent.length as usize,
            Head::Zero { .. }
            | Head::Zeroes(_)
            | Head::Discard(_)
            | Head::Barrier { .. }
            | Head::End { .. } => 0,
        }
    }

    /// What the frame is, in a word, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Head::Pages { .. } => "page",
            Head::Zero { .. } => "zero page",
            Head::State { .. } => "state",
            Head::Write(_) => "write",
            Head::Zeroes(_) => "zeroes",
            Head::Discard(_) => "discard",
            Head::Barrier { .. } => "barrier",
            Head::End { .. } => "end",
            Head::Control { .. } => "control",
        }
    }
}

impl Raw {
    fn pages(kind: u8, mode: Mode, epoch: u64, run: Run) -> Self {
        Raw {
            kind,
            flag: matches!(mode, Mode::Sync).into(),
            a: run.block,
            c: epoch,
            d: u64::from(run.first) | u64::from(run.count) << 32,
            ..Raw::default()
        }
    }

    fn extent(kind: u8, extent: Extent) -> Self {
        Raw {
            kind,
            a: extent.disk,
            d: extent.offset,
            e: extent.length,
            ..Raw::default()
        }
    }

    fn run(&self, kind: &'static str) -> Result<(Mode, Run), FrameError> {
        let mode = match self.flag {
            0 => Mode::Checkpoint,
            _ => Mode::Sync,
        };
        let run = Run {
            block: self.a,
            first: self.d as u32,
            count: (self.d >> 32) as u32,
        };
        within(kind, u64::from(run.count), u64::from(u32::MAX))?;
        // The last page has a number of its own.
        run.first
            .checked_add(run.count - 1)
            .ok_or(FrameError::Malformed(kind))?;
        Ok((mode, run))
    }

    fn disk(&self, kind: &'static str) -> Result<Extent, FrameError> {
        let extent = Extent {
            disk: self.a,
            offset: self.d,
            length: self.e,
        };
        within(kind, extent.length, i64::MAX as u64)?;
        // Files end at the largest signed number.
        match extent.offset.checked_add(extent.length) {
            Some(end) if end <= i64::MAX as u64 => Ok(extent),
            _ => Err(FrameError::Malformed(kind)),
        }
    }

    fn encode(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[0] = self.kind;
        header[1] = self.flag;
        header[2..4].copy_from_slice(&self.a.to_le_bytes());
        header[4..8].copy_from_slice(&self.b.to_le_bytes());
        header[8..16].copy_from_slice(&self.c.to_le_bytes());
        header[16..24].copy_from_slice(&self.d.to_le_bytes());
        header[24..32].copy_from_slice(&self.e.to_le_bytes());
        header
    }

    fn decode(header: &[u8; HEADER]) -> Self {
        let number = |from: usize, bytes: usize| {
            header[from..from + bytes]
                .iter()
                .rev()
                .fold(0u64, |n, byte| n << 8 | u64::from(*byte))
        };
        Raw {
            kind: header[0],
            flag: header[1],
            a: number(2, 2) as u16,
            b: number(4, 4) as u32,
            c: number(8, 8),
            d: number(16, 8),
            e: number(24, 8),
        }
    }
}

/// Reads the first bytes of a channel.
pub fn preamble(bytes: [u8; 8]) -> Result<(), FrameError> {
    if bytes == PREAMBLE {
        Ok(())
    } else {
        Err(FrameError::Preamble(bytes))
    }
}

fn within(kind: &'static str, length: u64, limit: u64) -> Result<(), FrameError> {
    if (1..=limit).contains(&length) {
        Ok(())
    } else {
        Err(FrameError::Length { kind, length, limit })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(most: u32) -> impl Strategy<Value = Run> {
        (any::<u16>(), any::<u32>(), 1..=most).prop_map(|(block, first, count)| Run {
            block,
            first: first.min(u32::MAX - (count - 1)),
            count,
        })
    }

    fn mode() -> impl Strategy<Value = Mode> {
        prop_oneof![Just(Mode::Sync), Just(Mode::Checkpoint)]
    }

    fn extent(most: u64) -> impl Strategy<Value = Extent> {
        (any::<u16>(), any::<u64>(), 1..=most).prop_map(|(disk, offset, length)| Extent {
            disk,
            offset: offset.min(i64::MAX as u64 - length),
            length,
        })
    }

    fn head() -> impl Strategy<Value = Head> {
        prop_oneof![
            (mode(), any::<u64>(), run(MAX_RUN)).prop_map(|(mode, epoch, run)| Head::Pages {
                mode,
                epoch,
                run
            }),
            (mode(), any::<u64>(), run(u32::MAX)).prop_map(|(mode, epoch, run)| Head::Zero {
                mode,
                epoch,
                run
            }),
            (any::<u64>(), 1..=MAX_BODY).prop_map(|(epoch, length)| Head::State { epoch, length }),
            extent(MAX_BODY.into()).prop_map(Head::Write),
            extent(i64::MAX as u64).prop_map(Head::Zeroes),
            extent(i64::MAX as u64).prop_map(Head::Discard),
            any::<u64>().prop_map(|epoch| Head::Barrier { epoch }),
            any::<(u64, u32, u32, u32, u64)>().prop_map(|(epoch, pages, zero_pages, state, digest)| {
                Head::End {
                    epoch,
                    pages,
                    zero_pages,
                    state,
                    digest,
                }
            }),
            (0..=MAX_BODY).prop_map(|length| Head::Control { length }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(head in head()) {
            prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
        }

        #[test]
        fn any_bytes_are_refused_or_have_one_spelling(
            mut header in any::<[u8; HEADER]>(), kind in 0u8..12, mask in any::<[bool; HEADER]>()
        ) {
            header[0] = kind;
            for (byte, kept) in header[1..].iter_mut().zip(mask) {
                *byte *= u8::from(kept);
            }
            if let Ok(head) = Head::decode(&header) {
                prop_assert_eq!(head.encode(), header);
                prop_assert!(head.body() <= MAX_BODY as usize);
            }
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let refused = |head: Head| Head::decode(&head.encode()).unwrap_err();
        let run = |first, count| Run {
            block: 0,
            first,
            count,
        };
        let mode = Mode::Checkpoint;
        assert!(matches!(
            refused(Head::Pages {
                mode,
                epoch: 1,
                run: run(0, MAX_RUN + 1)
            }),
            FrameError::Length {
                length: 257,
                limit: 256,
                ..
            }
        ));
        assert!(matches!(
            refused(Head::Zero {
                mode,
                epoch: 1,
                run: run(0, 0)
            }),
            FrameError::Length { length: 0, .. }
        ));
        assert_eq!(
            refused(Head::Zero {
                mode,
                epoch: 1,
                run: run(u32::MAX, 2)
            }),
            FrameError::Malformed("zero page")
        );
        assert!(matches!(
            refused(Head::Control { length: MAX_BODY + 1 }),
            FrameError::Length { .. }
        ));
        assert_eq!(
            refused(Head::Zeroes(Extent {
                disk: 0,
                offset: u64::MAX,
                length: 2
            })),
            FrameError::Malformed("zeroes")
        );
    }

    #[test]
    fn other_channels_are_refused() {
        assert_eq!(preamble(PREAMBLE), Ok(()));
        let mut newer = PREAMBLE;
        newer[6] = 2;
        assert!(preamble(newer).is_err());
    }
}
