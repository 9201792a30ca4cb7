//! The state check: a hash of parameters and optimizer state, computed in the optimizer's own pass.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Elements per block: the unit of the state check (and of summation, in the protocol).
pub const BLOCK: usize = 65_536;

/// The check of a whole state: the chained xxh3-64 of its blocks' hashes, in order.
pub(crate) fn chain(block_hashes: &[u64]) -> u64 {
    block_hashes.iter().fold(0, |total, hash| xxh3_64_with_seed(&hash.to_le_bytes(), total))
}

/// Hash of a block of 65,536 elements: the chained xxh3-64 of its pieces, where each hash seeds the next: a piece of
/// the parameters, the same piece of each moment, then the next piece; little-endian.
pub(crate) struct BlockCheck {
    bytes: [u8; Self::PIECE * 4],
    hash: u64,
}

impl BlockCheck {
    /// Elements per piece: with gradient and two moments, at most half of a 128 KiB cache.
    pub(crate) const PIECE: usize = 4096;

    pub(crate) fn new() -> Self {
        const { assert!(BLOCK.is_multiple_of(Self::PIECE)) };
        Self { bytes: [0; Self::PIECE * 4], hash: 0 }
    }

    /// Adds the next array's part of the current piece.
    pub(crate) fn add(&mut self, values: &[f32]) {
        let bytes = &mut self.bytes[..values.len() * 4];
        for (slot, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *slot = value.to_le_bytes();
        }
        self.hash = xxh3_64_with_seed(bytes, self.hash);
    }

    /// Returns the block's hash and begins the next block.
    pub(crate) fn end_block(&mut self) -> u64 {
        std::mem::take(&mut self.hash)
    }
}
