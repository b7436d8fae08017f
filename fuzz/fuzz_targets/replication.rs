//! Any bytes as frames of a replication channel, and as what a standby reads: refused, or understood and written the same way.
#![no_main]

use hawser_protect::{
    memory::{Block, Layout, PageRun},
    pipe::{Fault, Inbound, Incoming, Limits, Store, Target},
};
use hawser_proto::replication::{HEADER, Head, MAX_BODY, PREAMBLE};
use libfuzzer_sys::fuzz_target;

const PAGES: u64 = 64;

/// Takes everything that a standby may be told.
struct Takes;

impl Target for Takes {
    fn pages(&mut self, run: PageRun, data: &[u8]) -> Result<(), Fault> {
        assert_eq!(run.bytes(), data.len());
        Ok(())
    }

    fn zero_pages(&mut self, _: PageRun) -> Result<(), Fault> {
        Ok(())
    }

    fn disk_write(&mut self, _: u16, _: u64, data: &[u8]) -> Result<(), Fault> {
        assert!(data.len() <= MAX_BODY as usize);
        Ok(())
    }

    fn disk_zeroes(&mut self, _: u16, _: u64, _: u64) -> Result<(), Fault> {
        Ok(())
    }

    fn disk_discard(&mut self, _: u16, _: u64, _: u64) -> Result<(), Fault> {
        Ok(())
    }

    fn barrier(&mut self, _: u64) -> Result<(), Fault> {
        Ok(())
    }
}

impl Store for Takes {
    fn write(&self, run: PageRun, from: &[u8]) -> Result<(), Fault> {
        assert!(run.bytes() == from.len() && u64::from(run.first + run.count) <= PAGES);
        Ok(())
    }

    fn zero(&self, run: PageRun) -> Result<(), Fault> {
        assert!(u64::from(run.first + run.count) <= PAGES);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some((header, _)) = data.split_first_chunk::<HEADER>()
        && let Ok(head) = Head::decode(header)
    {
        assert_eq!(&head.encode(), header);
        assert!(head.body() <= MAX_BODY as usize);
    }
    let bytes = [&PREAMBLE[..], data].concat();
    let limits = Limits {
        staged: 4 << 20,
        ..Limits::default()
    };
    let mut inbound = Inbound::new(Box::new(std::io::Cursor::new(bytes)), limits);
    let block = Block {
        name: "ram0".into(),
        size: PAGES * 4096,
        address: 0,
    };
    inbound.expect(Layout::new(vec![block]), vec![1 << 20]);
    while let Ok(incoming) = inbound.next(&mut Takes) {
        if let Incoming::Complete { staged, .. } = incoming {
            staged
                .apply(&Takes)
                .expect("pages that were taken are the guest's");
        }
    }
});
