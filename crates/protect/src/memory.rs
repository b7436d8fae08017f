//! What a guest's memory is made of: RAM blocks, pages, and runs of pages. Imports nothing of ours.

/// Bytes in a page. The unit of tracking and of transfer, also where the host backs RAM with larger ones.
pub const PAGE: usize = 4096;

/// One RAM block of a machine, in the address space of its QEMU process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Block {
    /// QEMU's name for it, as in `ram0` or `/rom@etc/acpi/tables`: the same on both hosts.
    pub name: String,
    /// Bytes in use, a multiple of [`PAGE`].
    pub size: u64,
    /// Where it begins in the QEMU process. Differs between hosts.
    pub address: u64,
}

/// All RAM blocks of a machine, in order of their names. A block's index in it is its number in [`PageRun`].
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Layout {
    blocks: Vec<Block>,
}

impl Layout {
    /// Puts blocks in the order that both hosts agree on.
    pub fn new(mut blocks: Vec<Block>) -> Self {
        blocks.sort_by(|a, b| a.name.cmp(&b.name));
        Self { blocks }
    }

    /// The blocks, by number.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Bytes in use in all blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(|b| b.size).sum()
    }

    /// Every page of every block.
    pub fn everything(&self) -> Vec<PageRun> {
        let runs = self.blocks.iter().enumerate().map(|(i, b)| PageRun {
            block: i as u16,
            first: 0,
            count: (b.size / PAGE as u64) as u32,
        });
        runs.collect()
    }

    /// Whether the other machine's blocks have the same names and sizes, so that pages can go from one to the other.
    pub fn fits(&self, other: &Layout) -> bool {
        self.blocks.len() == other.blocks.len()
            && self
                .blocks
                .iter()
                .zip(&other.blocks)
                .all(|(a, b)| a.name == b.name && a.size == b.size)
    }

    /// Whether the run lies in a block of this layout.
    pub fn holds(&self, run: PageRun) -> bool {
        self.blocks
            .get(usize::from(run.block))
            .is_some_and(|b| (u64::from(run.first) + u64::from(run.count)) * PAGE as u64 <= b.size)
    }
}

/// Pages that follow each other in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRun {
    /// Number of the block in its [`Layout`].
    pub block: u16,
    /// Number of the first page within the block.
    pub first: u32,
    /// How many pages.
    pub count: u32,
}

impl PageRun {
    /// Bytes in the run.
    pub fn bytes(&self) -> usize {
        self.count as usize * PAGE
    }

    /// Where the run begins in its block, in bytes.
    pub fn offset(&self) -> u64 {
        u64::from(self.first) * PAGE as u64
    }
}
