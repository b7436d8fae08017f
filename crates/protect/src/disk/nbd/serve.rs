//! One client's conversation from greeting to good-bye, over any pair of streams.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
};

use super::{
    Export, NbdError,
    negotiate::{Next, answer, greeting},
    wire::{self, Command, Errno, MAX_OPTION, MAX_PAYLOAD, Request, reply, simple_reply},
};
use crate::disk::{Backend, PIECE};

/// Most options that a client may try before it takes an export.
const MAX_OPTIONS: usize = 64;

/// The handshake: which export the client has chosen, by index, or none if it went away content.
pub fn negotiate(
    input: &mut impl Read,
    output: &mut impl Write,
    exports: &[Export],
) -> Result<Option<usize>, NbdError> {
    output.write_all(&greeting())?;
    let mut flags = [0; 4];
    input.read_exact(&mut flags)?;
    let no_zeroes =
        wire::client_flags(flags).ok_or(NbdError::Protocol("only the flags that were offered"))?;
    for _ in 0..MAX_OPTIONS {
        let mut header = [0; 16];
        input.read_exact(&mut header)?;
        let (number, length) = wire::option_header(header).ok_or(NbdError::Protocol("an option"))?;
        if length > MAX_OPTION {
            // What it meant is not worth reading on for.
            output.write_all(&reply::encode(number, reply::TOO_BIG, b"at most 16384 bytes"))?;
            return Err(NbdError::Protocol("an option of at most 16384 bytes"));
        }
        let mut data = vec![0; length as usize];
        input.read_exact(&mut data)?;
        let (bytes, next) = answer(exports, no_zeroes, number, &data);
        output.write_all(&bytes)?;
        match next {
            Next::Option => {}
            Next::Requests(export) => return Ok(Some(export)),
            Next::End => return Ok(None),
        }
    }
    Err(NbdError::Protocol("an export to be chosen within 64 options"))
}

/// Serves requests until the client hangs up. Each is answered before the next is read: a backend is quick, or makes its client wait.
pub fn serve(input: &mut impl Read, output: &mut impl Write, export: &Export) -> Result<(), NbdError> {
    let mut piece = Vec::new();
    loop {
        let mut header = [0; Request::LEN];
        match input.read_exact(&mut header) {
            // Without a good-bye, but between two requests.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let request = Request::parse(header).ok_or(NbdError::Protocol("a request"))?;
        if request.payload() > MAX_PAYLOAD {
            return Err(NbdError::Protocol("a write of at most 32 MiB"));
        }
        if perform(input, output, export, &request, &mut piece)?.is_break() {
            return Ok(());
        }
    }
}

fn perform(
    input: &mut impl Read,
    output: &mut impl Write,
    export: &Export,
    request: &Request,
    piece: &mut Vec<u8>,
) -> Result<ControlFlow<()>, NbdError> {
    let backend = &*export.backend;
    let flush_if = |fua: bool| if fua { backend.flush() } else { Ok(()) };
    let outcome = match request.check(export.size) {
        Err(errno) => {
            take(input, request.payload(), piece, |_, _| Ok(()))??;
            Err(errno)
        }
        Ok(Command::Disconnect) => return Ok(ControlFlow::Break(())),
        Ok(Command::Read { offset, length }) => {
            send(output, backend, request.cookie, (offset, length), piece)?;
            return Ok(ControlFlow::Continue(()));
        }
        Ok(Command::Write { offset, length, fua }) => {
            let written = take(input, length, piece, |at, data| backend.write(offset + at, data))?;
            named(written.and_then(|()| flush_if(fua)))
        }
        Ok(Command::Zeroes { offset, length, fua }) => named(
            backend
                .zeroes(offset, u64::from(length))
                .and_then(|()| flush_if(fua)),
        ),
        Ok(Command::Trim { offset, length, fua }) => named(
            backend
                .discard(offset, u64::from(length))
                .and_then(|()| flush_if(fua)),
        ),
        Ok(Command::Flush) => named(backend.flush()),
    };
    output.write_all(&simple_reply(request.cookie, outcome))?;
    Ok(ControlFlow::Continue(()))
}

/// Reads a payload piece by piece and gives each to `write`, until that fails. The payload is read to its end in any case:
/// the next request comes behind it. The outer error is the client's connection's.
fn take(
    input: &mut impl Read,
    length: u32,
    piece: &mut Vec<u8>,
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<io::Result<()>> {
    let mut outcome = Ok(());
    for (at, data) in pieces(length) {
        let buffer = room(piece, data);
        input.read_exact(buffer)?;
        if outcome.is_ok() {
            outcome = write(at, buffer);
        }
    }
    Ok(outcome)
}

/// Answers a read. A simple reply promises all its data in its first bytes, so that an error after the first piece can only
/// be told by hanging up.
fn send(
    output: &mut impl Write,
    backend: &dyn Backend,
    cookie: u64,
    (offset, length): (u64, u32),
    piece: &mut Vec<u8>,
) -> io::Result<()> {
    if length == 0 {
        return output.write_all(&simple_reply(cookie, Ok(())));
    }
    for (at, data) in pieces(length) {
        let buffer = room(piece, data);
        let read = backend.read(offset + at, buffer);
        if at == 0 {
            let outcome = named(read);
            output.write_all(&simple_reply(cookie, outcome))?;
            if outcome.is_err() {
                return Ok(());
            }
        } else {
            read?;
        }
        output.write_all(buffer)?;
    }
    Ok(())
}

/// Where each piece of a payload begins, and its length.
fn pieces(length: u32) -> impl Iterator<Item = (u64, usize)> {
    let whole = length as usize;
    (0..whole)
        .step_by(PIECE)
        .map(move |at| (at as u64, PIECE.min(whole - at)))
}

fn room(piece: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if piece.len() < length {
        piece.resize(length, 0);
    }
    &mut piece[..length]
}

/// A backend's error by the protocol's numbers.
fn named(outcome: io::Result<()>) -> Result<(), Errno> {
    outcome.map_err(|e| {
        tracing::debug!(error = %e, "a disk request failed");
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Errno::NoSpace,
            io::ErrorKind::Unsupported => Errno::Unsupported,
            io::ErrorKind::InvalidInput => Errno::Invalid,
            _ => Errno::Io,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::disk::{Memory, nbd::wire::Opt};

    const SIZE: usize = 4096;

    fn exports() -> (Arc<Memory>, Vec<Export>) {
        let memory = Arc::new(Memory::new(SIZE));
        let export = Export {
            name: "d0".into(),
            size: SIZE as u64,
            backend: memory.clone(),
        };
        (memory, vec![export])
    }

    fn talk(said: &[u8]) -> (Result<(), NbdError>, Vec<u8>, Arc<Memory>) {
        let (memory, exports) = exports();
        let (mut input, mut output) = (said, Vec::new());
        let outcome = negotiate(&mut input, &mut output, &exports).and_then(|chosen| match chosen {
            Some(i) => serve(&mut input, &mut output, &exports[i]),
            None => Ok(()),
        });
        (outcome, output, memory)
    }

    /// Flags and an export chosen the short way: 18 bytes of greeting and 10 of description come back.
    fn chosen(name: &str) -> Vec<u8> {
        let mut said = vec![0, 0, 0, 3];
        said.extend(Opt::ExportName(name.into()).encode());
        said
    }
    const HEAD: usize = 28;

    fn request(command: u16, offset: u64, length: u32) -> Request {
        Request {
            flags: 0,
            command,
            cookie: 7,
            offset,
            length,
        }
    }

    #[test]
    fn a_write_comes_back_in_a_read() {
        let mut said = chosen("d0");
        said.extend(request(1, 100, 5).encode());
        said.extend(b"hello");
        said.extend(request(0, 99, 7).encode());
        let (outcome, heard, memory) = talk(&said);
        outcome.unwrap();
        assert_eq!(&heard[HEAD..HEAD + 16], simple_reply(7, Ok(())));
        assert_eq!(&heard[HEAD + 32..], b"\0hello\0");
        assert_eq!(&memory.contents()[100..105], b"hello");
    }

    #[test]
    fn a_refused_write_is_read_to_its_end() {
        let mut said = chosen("");
        said.extend(request(1, SIZE as u64 - 1, 5).encode());
        said.extend(b"hello");
        said.extend(request(3, 0, 0).encode());
        let (outcome, heard, _) = talk(&said);
        outcome.unwrap();
        assert_eq!(
            heard[HEAD..],
            [simple_reply(7, Err(Errno::NoSpace)), simple_reply(7, Ok(()))].concat()
        );
    }

    #[test]
    fn whoever_speaks_something_else_is_hung_up_on() {
        for said in [
            &b"GET / HTTP/1.1\r\n\r\n................"[..],
            &[0, 0, 0, 8],
            &[0, 0, 0, 3],
        ] {
            assert!(talk(said).0.is_err());
        }
        let mut said = chosen("d0");
        said.extend([0; Request::LEN]);
        assert!(matches!(talk(&said).0, Err(NbdError::Protocol(_))));
        assert_eq!(
            talk(&chosen("other")).1.len(),
            18,
            "an unknown export is not described"
        );
    }

    #[test]
    fn nobody_negotiates_for_ever() {
        let mut said = vec![0, 0, 0, 3];
        (0..1000).for_each(|_| said.extend(Opt::List.encode()));
        assert!(matches!(talk(&said).0, Err(NbdError::Protocol(_))));
        let mut said = vec![0, 0, 0, 3];
        said.extend(wire::OPTION_MAGIC.to_be_bytes());
        said.extend([0, 0, 0, 7, 255, 255, 255, 255]);
        assert!(matches!(talk(&said).0, Err(NbdError::Protocol(_))));
    }

    proptest! {
        #[test]
        fn any_conversation_ends_and_answers_each_request_once(
            requests in proptest::collection::vec((0u16..8, any::<u16>(), 0u64..5000, 0u32..5000), 0..20),
        ) {
            let mut said = chosen("d0");
            let mut model = vec![0u8; SIZE];
            let mut expected = Vec::new();
            for (command, flags, offset, length) in requests {
                let request = Request { flags: flags & 3, command, cookie: expected.len() as u64, offset, length };
                said.extend(request.encode());
                said.extend((0..request.payload()).map(|i| i as u8 | 1));
                let range = offset as usize..offset as usize + length as usize;
                match request.check(SIZE as u64) {
                    Ok(Command::Disconnect) => break,
                    Ok(Command::Read { .. }) => {
                        expected.extend(simple_reply(request.cookie, Ok(())));
                        expected.extend(&model[range]);
                        continue;
                    }
                    Ok(Command::Write { .. }) => model[range].iter_mut().enumerate().for_each(|(i, b)| *b = i as u8 | 1),
                    Ok(Command::Zeroes { .. } | Command::Trim { .. }) => model[range].fill(0),
                    Ok(Command::Flush) => {}
                    Err(e) => {
                        expected.extend(simple_reply(request.cookie, Err(e)));
                        continue;
                    }
                }
                expected.extend(simple_reply(request.cookie, Ok(())));
            }
            let (outcome, heard, memory) = talk(&said);
            prop_assert!(outcome.is_ok());
            prop_assert_eq!(&heard[HEAD..], &expected[..]);
            prop_assert_eq!(memory.contents(), model);
        }

        #[test]
        fn any_bytes_end(said in proptest::collection::vec(any::<u8>(), 0..200), after in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = talk(&said);
            let _ = talk(&[chosen("d0"), after].concat());
        }
    }
}
