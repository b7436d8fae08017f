//! The handshake after the greeting, without I/O: an option goes in, bytes to send and what follows come out.

use super::{
    Export,
    wire::{EXPORT_FLAGS, MAX_PAYLOAD, Opt, Wish, reply},
};

/// The server's first words.
pub(super) fn greeting() -> Vec<u8> {
    use super::wire::{FIXED_NEWSTYLE, MAGIC, NO_ZEROES, OPTION_MAGIC};
    let mut out = MAGIC.to_be_bytes().to_vec();
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    out
}

/// What follows an option.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another option.
    Option,
    /// Requests for the export of that index.
    Requests(usize),
    /// Nothing: the client hangs up, or is hung up on.
    End,
}

/// Answers an option: what to send, and what follows.
pub(super) fn answer(exports: &[Export], no_zeroes: bool, number: u32, data: &[u8]) -> (Vec<u8>, Next) {
    match Opt::parse(number, data) {
        Ok(Opt::ExportName(name)) => match find(exports, &name) {
            Some((i, export)) => {
                let mut out = described(export);
                out.resize(out.len() + if no_zeroes { 0 } else { 124 }, 0);
                (out, Next::Requests(i))
            }
            None => (Vec::new(), Next::End),
        },
        Ok(Opt::Abort) => (reply::encode(number, reply::ACK, &[]), Next::End),
        Ok(Opt::List) => (list(exports, number), Next::Option),
        Ok(Opt::Info(wish)) => (inform(exports, number, &wish).0, Next::Option),
        Ok(Opt::Go(wish)) => match inform(exports, number, &wish) {
            (out, Some(i)) => (out, Next::Requests(i)),
            (out, None) => (out, Next::Option),
        },
        Ok(Opt::Other(_)) => (
            reply::encode(number, reply::UNSUPPORTED, b"not offered here"),
            Next::Option,
        ),
        Err(e) => (
            reply::encode(number, reply::INVALID, e.to_string().as_bytes()),
            Next::Option,
        ),
    }
}

/// The empty name is the only export's too.
fn find<'a>(exports: &'a [Export], name: &str) -> Option<(usize, &'a Export)> {
    let only = name.is_empty() && exports.len() == 1;
    exports.iter().enumerate().find(|(_, e)| only || e.name == name)
}

fn described(export: &Export) -> Vec<u8> {
    let mut out = export.size.to_be_bytes().to_vec();
    out.extend(EXPORT_FLAGS.to_be_bytes());
    out
}

fn list(exports: &[Export], option: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for export in exports {
        let mut data = (export.name.len() as u32).to_be_bytes().to_vec();
        data.extend(export.name.as_bytes());
        out.extend(reply::encode(option, reply::SERVER, &data));
    }
    out.extend(reply::encode(option, reply::ACK, &[]));
    out
}

fn inform(exports: &[Export], option: u32, wish: &Wish) -> (Vec<u8>, Option<usize>) {
    const EXPORT: u16 = 0;
    const BLOCK_SIZE: u16 = 3;
    // Any byte may be written by itself: otherwise QEMU would have to read from its mirror's target to fill up a block.
    const SMALLEST: u32 = 1;
    const PREFERRED: u32 = 4096;

    let Some((i, export)) = find(exports, &wish.name) else {
        return (
            reply::encode(option, reply::UNKNOWN, b"there is no export of this name"),
            None,
        );
    };
    let mut data = EXPORT.to_be_bytes().to_vec();
    data.extend(described(export));
    let mut out = reply::encode(option, reply::INFO, &data);

    let mut data = BLOCK_SIZE.to_be_bytes().to_vec();
    data.extend(
        [SMALLEST, PREFERRED, MAX_PAYLOAD]
            .iter()
            .flat_map(|n| n.to_be_bytes()),
    );
    out.extend(reply::encode(option, reply::INFO, &data));

    out.extend(reply::encode(option, reply::ACK, &[]));
    (out, Some(i))
}
