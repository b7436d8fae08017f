//! Any bytes as an NBD client: the conversation ends, stays within the disk, and what was understood is written the same way again.
#![no_main]

use std::{io, sync::Arc};

use hawser_protect::disk::{
    Memory,
    nbd::{
        Export, negotiate, serve,
        wire::{Opt, Request},
    },
};
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 64 << 10;

fn exports() -> Vec<Export> {
    let export = |name: &str| Export { name: name.into(), size: SIZE as u64, backend: Arc::new(Memory::new(SIZE)) };
    vec![export("d0"), export("d1")]
}

fuzz_target!(|data: &[u8]| {
    let exports = exports();
    // From the greeting on.
    let mut said = data;
    if let Ok(Some(chosen)) = negotiate(&mut said, &mut io::sink(), &exports) {
        let _ = serve(&mut said, &mut io::sink(), &exports[chosen]);
    }
    // As requests from the start, which few inputs would get to.
    let _ = serve(&mut &*data, &mut io::sink(), &exports[0]);

    if let Some(header) = data.first_chunk()
        && let Some(request) = Request::parse(*header)
    {
        assert_eq!(&request.encode(), header);
    }
    if let Some((number, body)) = data.split_first()
        && let Ok(opt) = Opt::parse(u32::from(*number), body)
    {
        assert_eq!(opt.number(), u32::from(*number));
        let plain = matches!(opt, Opt::Abort | Opt::Other(_));
        assert!(plain || &opt.encode()[16..] == body);
    }
});
