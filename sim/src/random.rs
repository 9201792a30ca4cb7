//! The simulation's only randomness: SplitMix64, one named stream per purpose, all from one seed.

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

/// A bijective mix of 64 bits (SplitMix64's finaliser).
#[must_use]
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Random {
    /// The stream of `name` under `seed`.
    #[must_use]
    pub(crate) fn stream(seed: u64, name: &str) -> Self {
        let named = name.bytes().fold(seed, |state, byte| mix(state ^ u64::from(byte)).wrapping_add(1));
        Self(named)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `[low, high]`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        debug_assert!(low <= high, "an empty range");
        low + self.bits() % (high - low + 1)
    }

    /// Uniform below `count`, as an index.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.bits() % count.max(1) as u64).unwrap_or(0)
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.bits().is_multiple_of(times.max(1))
    }
}
