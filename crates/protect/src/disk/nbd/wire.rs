//! Words of the NBD protocol as types: a request or an option is parsed once, here, and cannot hold a bad value afterwards.
//! Source: the NBD project's `doc/proto.md`, fixed newstyle with simple replies.

/// What the server says first: `NBDMAGIC`.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Before every option, and second in the greeting: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before every simple reply.
pub const REPLY_MAGIC: u32 = 0x6744_6698;

/// Most bytes that one request may read or write: what clients assume of a server that names no limit.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Most bytes of an option's data. A name has 4096 at most, each wish for information two.
pub const MAX_OPTION: u32 = 16 << 10;
/// Most bytes of an export's name.
pub const MAX_NAME: usize = 4096;

/// Handshake flags of both sides: fixed newstyle, and no 124 zeroes after the oldest of the options.
pub const FIXED_NEWSTYLE: u16 = 1;
/// See [`FIXED_NEWSTYLE`].
pub const NO_ZEROES: u16 = 2;

/// What an export can do: has flags, FLUSH, FUA, TRIM, WRITE_ZEROES.
pub const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;

/// A client's option, by the numbers of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opt {
    /// Take this export at once; there is no way to refuse but to hang up.
    ExportName(String),
    /// Good bye.
    Abort,
    /// Which exports are there?
    List,
    /// What is this export like?
    Info(Wish),
    /// What is it like, and take it.
    Go(Wish),
    /// Anything else: refused politely.
    Other(u32),
}

/// The export that a client asks about, and what it wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The export's name; empty for the only one.
    pub name: String,
    /// Numbers of the kinds of information asked for.
    pub kinds: Vec<u16>,
}

/// An option that is not as the protocol has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("NBD option {option}: expected {expected}")]
pub struct Malformed {
    /// The option's number.
    pub option: u32,
    /// What should have come.
    pub expected: &'static str,
}

/// A client's flags after the greeting: whether it wants no zeroes. `None` if it sent any that were not offered.
pub fn client_flags(bytes: [u8; 4]) -> Option<bool> {
    let flags = u32::from_be_bytes(bytes);
    let offered = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
    (flags & !offered == 0).then_some(flags & u32::from(NO_ZEROES) != 0)
}

/// Number and length of data of an option. `None` if these are not the first bytes of one.
pub fn option_header(bytes: [u8; 16]) -> Option<(u32, u32)> {
    let (magic, number, length) = (be64(&bytes, 0), be32(&bytes, 8), be32(&bytes, 12));
    (magic == OPTION_MAGIC).then_some((number, length))
}

impl Opt {
    const EXPORT_NAME: u32 = 1;
    const ABORT: u32 = 2;
    const LIST: u32 = 3;
    const INFO: u32 = 6;
    const GO: u32 = 7;

    /// The option of that number with that data.
    pub fn parse(number: u32, data: &[u8]) -> Result<Self, Malformed> {
        let malformed = |expected| Malformed {
            option: number,
            expected,
        };
        match number {
            Self::EXPORT_NAME => name(data).map(Opt::ExportName).ok_or_else(|| malformed(NAME)),
            Self::ABORT => Ok(Opt::Abort),
            Self::LIST if data.is_empty() => Ok(Opt::List),
            Self::LIST => Err(malformed("no data")),
            Self::INFO => Wish::parse(data).map(Opt::Info).map_err(malformed),
            Self::GO => Wish::parse(data).map(Opt::Go).map_err(malformed),
            other => Ok(Opt::Other(other)),
        }
    }

    /// Its number in the protocol.
    pub fn number(&self) -> u32 {
        match self {
            Opt::ExportName(_) => Self::EXPORT_NAME,
            Opt::Abort => Self::ABORT,
            Opt::List => Self::LIST,
            Opt::Info(_) => Self::INFO,
            Opt::Go(_) => Self::GO,
            Opt::Other(n) => *n,
        }
    }

    /// As a client sends it, header included.
    pub fn encode(&self) -> Vec<u8> {
        let data = match self {
            Opt::ExportName(name) => name.as_bytes().to_vec(),
            Opt::Info(wish) | Opt::Go(wish) => wish.encode(),
            Opt::Abort | Opt::List | Opt::Other(_) => Vec::new(),
        };
        let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend(self.number().to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        out
    }
}

const NAME: &str = "a name of at most 4096 bytes in UTF-8";

impl Wish {
    fn parse(data: &[u8]) -> Result<Self, &'static str> {
        const SHAPE: &str = "length and name of the export, then number and kinds of wishes";
        let (length, rest) = data.split_first_chunk::<4>().ok_or(SHAPE)?;
        let (bytes, rest) = rest
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .ok_or(SHAPE)?;
        let (count, rest) = rest.split_first_chunk::<2>().ok_or(SHAPE)?;
        if rest.len() != usize::from(u16::from_be_bytes(*count)) * 2 {
            return Err(SHAPE);
        }
        let kinds = rest
            .chunks_exact(2)
            .map(|k| u16::from_be_bytes([k[0], k[1]]))
            .collect();
        Ok(Self {
            name: name(bytes).ok_or(NAME)?,
            kinds,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = (self.name.len() as u32).to_be_bytes().to_vec();
        out.extend(self.name.as_bytes());
        out.extend((self.kinds.len() as u16).to_be_bytes());
        out.extend(self.kinds.iter().flat_map(|k| k.to_be_bytes()));
        out
    }
}

fn name(bytes: &[u8]) -> Option<String> {
    (bytes.len() <= MAX_NAME)
        .then(|| std::str::from_utf8(bytes).ok().map(str::to_owned))
        .flatten()
}

/// What the server answers to an option.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of the list.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// Refused: not known here.
    pub const UNSUPPORTED: u32 = 0x8000_0001;
    /// Refused: malformed.
    pub const INVALID: u32 = 0x8000_0003;
    /// Refused: no such export.
    pub const UNKNOWN: u32 = 0x8000_0006;
    /// Refused: too long.
    pub const TOO_BIG: u32 = 0x8000_0009;

    /// The bytes of a reply of that kind to the option of that number.
    pub fn encode(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = super::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        out
    }
}

/// A request, not yet held against its export. `cookie` comes back in the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags of this command.
    pub flags: u16,
    /// Number of the command.
    pub command: u16,
    /// The client's own mark.
    pub cookie: u64,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// What a request asks for, checked: the range lies in the export, and no more than [`MAX_PAYLOAD`] bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Send what is there.
    Read {
        /// Bytes from the start of the disk.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Take the payload that follows; with `fua` it is flushed before the reply.
    Write {
        /// Bytes from the start of the disk.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Force unit access.
        fua: bool,
    },
    /// Write zeroes.
    Zeroes {
        /// Bytes from the start of the disk.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Force unit access.
        fua: bool,
    },
    /// Forget.
    Trim {
        /// Bytes from the start of the disk.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Force unit access.
        fua: bool,
    },
    /// Flush what was written.
    Flush,
    /// The client hangs up. No reply.
    Disconnect,
}

/// Errors that a reply can carry, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not now, not ever.
    Io = 5,
    /// The request makes no sense.
    Invalid = 22,
    /// No room: also a write beyond the end.
    NoSpace = 28,
    /// Not offered.
    Unsupported = 95,
}

impl Request {
    /// Bytes of a request, without a payload.
    pub const LEN: usize = 28;

    const READ: u16 = 0;
    const WRITE: u16 = 1;
    const DISCONNECT: u16 = 2;
    const FLUSH: u16 = 3;
    const TRIM: u16 = 4;
    const ZEROES: u16 = 6;
    const FUA: u16 = 1;
    const NO_HOLE: u16 = 2;

    /// `None` if this is no request: then nothing after it can be understood.
    pub fn parse(bytes: [u8; Self::LEN]) -> Option<Self> {
        let request = Self {
            flags: be16(&bytes, 4),
            command: be16(&bytes, 6),
            cookie: be64(&bytes, 8),
            offset: be64(&bytes, 16),
            length: be32(&bytes, 24),
        };
        (be32(&bytes, 0) == REQUEST_MAGIC).then_some(request)
    }

    /// As a client sends it.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Bytes that follow the request, whether it is granted or not.
    pub fn payload(&self) -> u32 {
        if self.command == Self::WRITE {
            self.length
        } else {
            0
        }
    }

    /// What is asked of an export of `size` bytes.
    pub fn check(&self, size: u64) -> Result<Command, Errno> {
        let (offset, length, fua) = (self.offset, self.length, self.flags & Self::FUA != 0);
        let allowed = if self.command == Self::ZEROES {
            Self::FUA | Self::NO_HOLE
        } else {
            Self::FUA
        };
        if self.flags & !allowed != 0 {
            return Err(Errno::Invalid);
        }
        let inside = offset
            .checked_add(u64::from(length))
            .is_some_and(|end| end <= size);
        match self.command {
            Self::READ if !inside => Err(Errno::Invalid),
            Self::READ | Self::WRITE if length > MAX_PAYLOAD => Err(Errno::Invalid),
            Self::READ => Ok(Command::Read { offset, length }),
            Self::WRITE | Self::ZEROES if !inside => Err(Errno::NoSpace),
            Self::WRITE => Ok(Command::Write { offset, length, fua }),
            Self::ZEROES => Ok(Command::Zeroes { offset, length, fua }),
            Self::TRIM if !inside => Err(Errno::Invalid),
            Self::TRIM => Ok(Command::Trim { offset, length, fua }),
            Self::FLUSH => Ok(Command::Flush),
            Self::DISCONNECT => Ok(Command::Disconnect),
            _ => Err(Errno::Invalid),
        }
    }
}

/// A simple reply's header; after a successful read its data follow.
pub fn simple_reply(cookie: u64, outcome: Result<(), Errno>) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&outcome.map_or_else(|e| e as u32, |()| 0).to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opts() -> impl Strategy<Value = Opt> {
        let wish = ("\\PC{0,40}", proptest::collection::vec(any::<u16>(), 0..9))
            .prop_map(|(name, kinds)| Wish { name, kinds });
        prop_oneof![
            "\\PC{0,40}".prop_map(Opt::ExportName),
            Just(Opt::Abort),
            Just(Opt::List),
            wish.clone().prop_map(Opt::Info),
            wish.prop_map(Opt::Go),
            (8u32..).prop_map(Opt::Other),
        ]
    }

    proptest! {
        #[test]
        fn an_option_survives_its_encoding(opt in opts()) {
            let bytes = opt.encode();
            let (header, data) = bytes.split_first_chunk::<16>().unwrap();
            prop_assert_eq!(option_header(*header), Some((opt.number(), data.len() as u32)));
            prop_assert_eq!(Opt::parse(opt.number(), data), Ok(opt));
        }

        #[test]
        fn any_data_is_refused_or_written_the_same_way_again(number in 0u32..9, data in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(opt) = Opt::parse(number, &data) {
                let plain = matches!(opt, Opt::Abort | Opt::Other(_));
                prop_assert!(plain || opt.encode()[16..] == data[..]);
            }
        }

        #[test]
        fn a_checked_command_lies_in_its_export(flags: u16, command in 0u16..9, cookie: u64, offset: u64, length: u32, size: u64) {
            let request = Request { flags, command, cookie, offset: offset % size.max(1), length };
            prop_assert_eq!(Request::parse(request.encode()), Some(request));
            match request.check(size) {
                Ok(Command::Read { offset, length } | Command::Write { offset, length, .. }) => {
                    prop_assert!(offset + u64::from(length) <= size && length <= MAX_PAYLOAD);
                }
                Ok(Command::Zeroes { offset, length, .. } | Command::Trim { offset, length, .. }) => {
                    prop_assert!(offset + u64::from(length) <= size);
                }
                Ok(Command::Flush | Command::Disconnect) | Err(_) => {}
            }
        }

        #[test]
        fn other_magic_is_no_request(bytes: [u8; Request::LEN], header: [u8; 16]) {
            prop_assert!(bytes[..4] == REQUEST_MAGIC.to_be_bytes() || Request::parse(bytes).is_none());
            prop_assert!(header[..8] == OPTION_MAGIC.to_be_bytes() || option_header(header).is_none());
        }
    }
}
