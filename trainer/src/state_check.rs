//! The state check: a hash of parameters and optimizer state, made in the optimizer's own pass.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::optimizer::BLOCK;

/// For each block of 65,536 elements the chained xxh3-64 of its pieces (each is the seed of the next: a piece of the
/// parameters, the same piece of each moment, then the next piece; little-endian), and the chained xxh3-64 of the
/// blocks' hashes in order.
pub(crate) struct StateCheck {
    bytes: [u8; Self::PIECE * 4],
    block: u64,
    total: u64,
}

impl StateCheck {
    /// Elements of a piece: with gradient and two moments it fills half of a 128 KiB cache at most.
    pub(crate) const PIECE: usize = 4096;

    pub(crate) fn new() -> Self {
        const { assert!(BLOCK.is_multiple_of(Self::PIECE)) };
        Self { bytes: [0; Self::PIECE * 4], block: 0, total: 0 }
    }

    /// The next array's part of the current piece.
    pub(crate) fn add(&mut self, values: &[f32]) {
        let bytes = &mut self.bytes[..values.len() * 4];
        for (slot, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *slot = value.to_le_bytes();
        }
        self.block = xxh3_64_with_seed(bytes, self.block);
    }

    /// A piece is complete; `end` is where it ends in the buffer of `elements`.
    pub(crate) fn end_piece(&mut self, end: usize, elements: usize) {
        if end.is_multiple_of(BLOCK) || end == elements {
            self.total = xxh3_64_with_seed(&self.block.to_le_bytes(), self.total);
            self.block = 0;
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.total
    }
}
