//! The order of samples in an epoch: three keyed orders that need no memory, each a bijection of [0, n).
//!
//! Guarantees of [`Order::Window`] and their limits: every sample occurs once per epoch; each position of an epoch is
//! equally likely for a sample, independently in each epoch; and `window` consecutive samples on disk follow each
//! other in a shuffled order, so that an epoch reads the data in pieces of that size. Two samples that are far apart
//! on disk are *never* mixed within a piece: sorted data (by label, by time) give homogeneous batches and need
//! [`Order::Full`]. The samples that share a piece change from epoch to epoch, since the pieces begin elsewhere in
//! each.

use crate::permutation::{Permutation, key};

/// Purposes of the keys derived from an epoch's key.
const BLOCKS: u64 = 1;
const SHIFT: u64 = 2;
const SHORT: u64 = 3;
const WITHIN: u64 = 4;

/// The order of samples in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Any order of all samples.
    #[default]
    Full,
    /// Pieces of this many consecutive samples (at least 1) in any order, each shuffled internally.
    Window(u64),
    /// The stored order, the same in every epoch.
    AsStored,
}

/// One epoch's order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EpochOrder {
    Full(Permutation),
    Window(Window),
    AsStored(u64),
}

impl EpochOrder {
    /// The order of `[0, n)` for an epoch's key.
    pub(crate) fn new(order: Order, n: u64, key: u64) -> Self {
        match order {
            Order::AsStored => Self::AsStored(n),
            // A single piece is the whole data set: use the order without pieces.
            Order::Window(window) if window < n => Self::Window(Window::new(n, window.max(1), key)),
            Order::Full | Order::Window(_) => Self::Full(Permutation::new(n, key)),
        }
    }

    /// The sample at position `i` of the epoch.
    ///
    /// # Panics
    /// If `i` is not below n: a programming error.
    pub(crate) fn at(&self, i: u64) -> u64 {
        match self {
            Self::Full(permutation) => permutation.at(i),
            Self::Window(window) => window.at(i),
            Self::AsStored(n) => {
                assert!(i < *n, "{i} is not below {n}");
                i
            }
        }
    }
}

/// Pieces in a keyed order. The samples form a ring that is cut at a position drawn anew in each epoch, then into
/// `full` pieces of `window` samples and a short one of the remainder; the short one's position is drawn too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    n: u64,
    window: u64,
    key: u64,
    /// The order of the full pieces.
    pieces: Permutation,
    /// The ring's first sample.
    cut: u64,
    /// How many pieces come before the short one.
    before_short: u64,
}

impl Window {
    fn new(n: u64, window: u64, of_epoch: u64) -> Self {
        let full = n / window;
        Self {
            n,
            window,
            key: of_epoch,
            pieces: Permutation::new(full, key(of_epoch, BLOCKS, [0, 0])),
            cut: below(key(of_epoch, SHIFT, [0, 0]), n),
            before_short: below(key(of_epoch, SHORT, [0, 0]), full + 1),
        }
    }

    fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "{i} is not below {}", self.n);
        let (full, short) = (self.n / self.window, self.n % self.window);
        let start_of_short = self.before_short * self.window;
        let (piece, within, size) = if i < start_of_short {
            (self.pieces.at(i / self.window), i % self.window, self.window)
        } else if i < start_of_short + short {
            (full, i - start_of_short, short)
        } else {
            let i = i - short;
            (self.pieces.at(i / self.window), i % self.window, self.window)
        };
        let within = Permutation::new(size, key(self.key, WITHIN, [piece, 0])).at(within);
        // Both are below n, which is at most 2^63 for any real data; the sum is protected from overflow all the same.
        let on_ring = u128::from(piece * self.window + within) + u128::from(self.cut);
        (on_ring % u128::from(self.n)) as u64
    }
}

/// A number below `n` from 64 random bits: D. Lemire, "Fast Random Integer Generation in an Interval", ACM TOMACS
/// 2019, without its rejection step, so uniform to within n / 2^64.
fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(order: Order, n: u64, key: u64) -> Vec<u64> {
        let places = EpochOrder::new(order, n, key);
        (0..n).map(|i| places.at(i)).collect()
    }

    proptest! {
        #[test]
        fn every_sample_comes_once(n in 1u64..2_000, window in 1u64..2_500, key: u64) {
            for kind in [Order::Full, Order::Window(window), Order::AsStored] {
                let mut seen = order(kind, n, key);
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..n).collect::<Vec<_>>(), "{:?}", kind);
            }
        }

        #[test]
        fn pieces_stay_together(n in 1u64..2_000, window in 1u64..300, key: u64) {
            let epoch = order(Order::Window(window), n, key);
            let EpochOrder::Window(parts) = EpochOrder::new(Order::Window(window), n, key) else {
                prop_assert!(window >= n);
                return Ok(());
            };
            // The pieces are located from the short one; each spans as many positions of the ring as it has samples.
            let short = (n % window) as usize;
            let (before, rest) = epoch.split_at((parts.before_short * window) as usize);
            let (short, after) = rest.split_at(short);
            let whole = before.chunks(window as usize).chain(after.chunks(window as usize));
            for piece in whole.chain((!short.is_empty()).then_some(short)) {
                let on_ring = piece.iter().map(|at| (at + n - parts.cut) % n);
                let (least, greatest) = (on_ring.clone().min(), on_ring.max());
                prop_assert_eq!(greatest.zip(least).map(|(g, l)| g - l + 1), Some(piece.len() as u64));
            }
        }
    }

    #[test]
    fn large_data_stay_inside_and_need_no_memory() {
        for n in [1 << 40, (1 << 62) + 7] {
            let places = EpochOrder::new(Order::Window(65_536), n, 9);
            let seen: std::collections::BTreeSet<u64> = (n - 70_000..n).map(|i| places.at(i)).collect();
            assert!(seen.len() == 70_000 && seen.iter().all(|at| *at < n));
        }
    }

    /// Chi-square of counts that should all be the same.
    fn chi_square(counts: &[f64]) -> f64 {
        let expected = counts.iter().sum::<f64>() / counts.len() as f64;
        counts.iter().map(|count| (count - expected) * (count - expected) / expected).sum()
    }

    #[test]
    fn every_sample_comes_to_every_position_equally_often() {
        // 11 samples in pieces of 4, 4 and 3: 99.99 % point for 10 degrees of freedom is 35.6; 11 tests.
        let mut counts = [[0f64; 11]; 11];
        for epoch in 0..11_000 {
            for (position, sample) in
                order(Order::Window(4), 11, key(5, 1, [epoch, 0])).into_iter().enumerate()
            {
                counts[sample as usize][position] += 1.0;
            }
        }
        for (sample, positions) in counts.iter().enumerate() {
            let chi = chi_square(positions);
            assert!(chi < 35.6, "sample {sample}: {chi}, {positions:?}");
        }
    }

    #[test]
    fn within_a_piece_every_order_comes_equally_often() {
        // The 24 orders of the first piece of four: 99.99 % point for 23 degrees of freedom is 56.
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..9_600 {
            let EpochOrder::Window(parts) = EpochOrder::new(Order::Window(4), 16, key(8, 1, [epoch, 0]))
            else {
                panic!("pieces")
            };
            let first: Vec<u64> = (0..4).map(|i| (parts.at(i) + 16 - parts.cut) % 4).collect();
            *counts.entry(first).or_insert(0.0) += 1.0;
        }
        let chi = chi_square(&counts.values().copied().collect::<Vec<_>>());
        assert!(counts.len() == 24 && chi < 56.0, "{} orders, {chi}", counts.len());
    }

    #[test]
    fn one_epoch_says_nothing_of_the_next() {
        // A sample's position in one epoch against its position in the next, in 8 x 8 cells, over 64,000 pairs of
        // epochs: 99.99 % point for 63 degrees of freedom is 113.5.
        let (n, pairs) = (64, 64_000);
        let mut counts = vec![0f64; 64];
        let position = |epoch: u64| {
            let epoch = order(Order::Window(8), n, key(3, 1, [epoch, 0]));
            epoch.iter().position(|sample| *sample == 20).expect("it comes") / 8
        };
        (0..pairs).for_each(|pair| counts[position(2 * pair) * 8 + position(2 * pair + 1)] += 1.0);
        let chi = chi_square(&counts);
        assert!(chi < 113.5, "{chi}");
        // The samples that share a piece change: 7 and 8 would never meet if the pieces always began at multiples of
        // 8.
        let meet = |epoch: u64| {
            let epoch = order(Order::Window(8), n, key(3, 1, [epoch, 0]));
            let at = |sample: u64| epoch.iter().position(|other| *other == sample).expect("it comes") / 8;
            at(7) == at(8)
        };
        let met = (0..1_000).filter(|epoch| meet(*epoch)).count();
        assert!((820..930).contains(&met), "seven cuts of eight leave them together: {met} of 1,000");
    }

    #[test]
    fn orders_do_not_change_between_builds() {
        // Later builds resume a run: its order of samples is frozen. The numbers come from an independent
        // implementation in Python.
        let places = EpochOrder::new(Order::Window(5), 23, 42);
        let first: Vec<u64> = (0..8).map(|i| places.at(i)).collect();
        assert_eq!(first, [20, 21, 19, 18, 22, 8, 9, 12]);
    }
}
