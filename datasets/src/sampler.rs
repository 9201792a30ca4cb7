//! Draws training rows with replacement.
//!
//! Guaranteed: draw i of an epoch is a function of only the run's seed, the epoch and i, so it is the same on every
//! worker; over an epoch, each *draw* counts once; and a row's frequency is proportional to its weight *on average*.
//! Not guaranteed: that each row appears. With equal weights, an epoch of n draws misses about n / e of its n rows.

use crate::augment::{AugmentKey, mix};

/// Domain-separates this random stream from the others of the same seed.
const PURPOSE: u64 = 0x7361_6d70_6c65_7200;

/// Weighted sampling of training rows in constant time.
///
/// The alias method, with tables built as by M. Vose ("A linear algorithm for generating random numbers with a given
/// distribution", IEEE Transactions on Software Engineering 17(9), 1991): a draw picks one of n columns of equal width,
/// and within it either the column's own row or its alias.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Share of each column that belongs to its own row, in units of 2^-64.
    own: Vec<u64>,
    /// Alias of each column: the row of the remaining share.
    other: Vec<u32>,
}

impl Sampler {
    /// A sampler over one weight per training row: finite, at least 0, not all 0.
    pub(crate) fn new(weights: &[f64]) -> Result<Self, String> {
        let count = u32::try_from(weights.len()).map_err(|_| {
            format!("{} rows of training: weighted draws are from 2^32 - 1 at most", weights.len())
        })?;
        if let Some(wrong) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(format!("a weight is {wrong}: weights are finite numbers from 0"));
        }
        // Scaled by the largest, so that their sum can't overflow.
        let greatest = weights.iter().copied().fold(0.0, f64::max);
        if greatest == 0.0 {
            return Err("all weights are 0: there is nothing to draw".to_owned());
        }
        let total: f64 = weights.iter().map(|weight| weight / greatest).sum();
        let widths: Vec<f64> =
            weights.iter().map(|weight| weight / greatest * f64::from(count) / total).collect();
        Ok(Self::of_widths(widths, weights))
    }

    /// Fills columns of width 1 with rows whose mean width is 1: each narrow column is filled up from a wide one.
    fn of_widths(mut widths: Vec<f64>, weights: &[f64]) -> Self {
        let all = 0..weights.len() as u32;
        let mut sampler = Self { own: vec![u64::MAX; weights.len()], other: all.clone().collect() };
        let (mut narrow, mut wide): (Vec<u32>, Vec<u32>) =
            all.clone().partition(|row| widths[*row as usize] < 1.0);
        while let (Some(small), Some(large)) = (narrow.pop(), wide.last().copied()) {
            let width = widths[small as usize];
            sampler.own[small as usize] = (width * 2f64.powi(64)) as u64;
            sampler.other[small as usize] = large;
            widths[large as usize] -= 1.0 - width;
            if widths[large as usize] < 1.0 {
                wide.pop();
                narrow.push(large);
            }
        }
        // Rounding leaves rows of width 1, up to rounding, in either list; they own their whole columns. Rows of weight
        // 0 must not gain probability that way: their columns go to the heaviest row.
        let heaviest = all.clone().max_by(|a, b| weights[*a as usize].total_cmp(&weights[*b as usize]));
        for (row, weight) in all.zip(weights) {
            let other = &mut sampler.other[row as usize];
            if *weight == 0.0 && *other == row {
                sampler.own[row as usize] = 0;
                *other = heaviest.unwrap_or(row);
            }
        }
        sampler
    }

    /// The row that a draw selects, as an index into the training split.
    pub(crate) fn draw(&self, key: AugmentKey, ordinal: u64) -> u64 {
        let bits = mix(mix(mix(key.seed ^ PURPOSE) ^ mix(key.epoch)) ^ mix(ordinal));
        let column = ((u128::from(bits) * self.own.len() as u128) >> 64) as usize;
        // The high bits chose the column, so the choice within it uses fresh bits.
        let within = mix(bits ^ PURPOSE);
        if within < self.own[column] { column as u64 } else { u64::from(self.other[column]) }
    }
}

/// A weight for each row that makes all labels equally likely.
pub(crate) fn balanced(labels: &[u32], counts: &[u64]) -> Vec<f64> {
    labels
        .iter()
        .map(|label| counts.get(*label as usize).map_or(0.0, |count| 1.0 / (*count).max(1) as f64))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(sampler: &Sampler, rows: usize, draws: u64) -> Vec<f64> {
        let mut counts = vec![0.0; rows];
        for draw in 0..draws {
            // Many short epochs, as in a run.
            let key = AugmentKey { seed: 11, epoch: draw / 1_000 };
            counts[sampler.draw(key, draw % 1_000) as usize] += 1.0;
        }
        counts
    }

    fn chi_square(counts: &[f64], weights: &[f64]) -> f64 {
        let (draws, total) = (counts.iter().sum::<f64>(), weights.iter().sum::<f64>());
        let expected = weights.iter().map(|weight| draws * weight / total);
        counts.iter().zip(expected).filter(|(_, e)| *e > 0.0).map(|(c, e)| (c - e) * (c - e) / e).sum()
    }

    #[test]
    fn rows_come_as_often_as_their_weights_say() {
        let mixed: Vec<f64> = (0..16).map(|row| [0.0, 0.5, 1.0, 7.25][row % 4]).collect();
        let steep: Vec<f64> = (0..12).map(|row| 2f64.powi(row)).collect();
        // 99.99 % quantile of chi-square for 11 degrees of freedom (the rows with a weight, less one): 37.4.
        for weights in [mixed, steep, vec![3.0; 12]] {
            let sampler = Sampler::new(&weights).expect("weights");
            let counts = counts(&sampler, weights.len(), 400_000);
            let chi = chi_square(&counts, &weights);
            assert!(chi < 37.4, "{chi}: {counts:?} for {weights:?}");
            let without = weights.iter().zip(&counts).filter(|(weight, _)| **weight == 0.0);
            assert!(
                without.into_iter().all(|(_, count)| *count == 0.0),
                "a row without weight came: {counts:?}"
            );
        }
    }

    #[test]
    fn labels_come_equally_often_whatever_their_counts() {
        let labels: Vec<u32> =
            (0..1_000).map(|row| if row < 900 { 0 } else { 1 + u32::from(row >= 990) }).collect();
        let sampler = Sampler::new(&balanced(&labels, &[900, 90, 10])).expect("weights");
        let of_rows = counts(&sampler, 1_000, 300_000);
        let mut of_labels = [0.0; 3];
        labels.iter().zip(&of_rows).for_each(|(label, count)| of_labels[*label as usize] += count);
        // 99.99 % quantile for 2 degrees of freedom.
        assert!(chi_square(&of_labels, &[1.0; 3]) < 18.4, "{of_labels:?}");
    }

    #[test]
    fn epochs_and_seeds_draw_apart() {
        let sampler = Sampler::new(&[1.0; 50]).expect("weights");
        let epoch = |seed, epoch| -> Vec<u64> {
            (0..50).map(|draw| sampler.draw(AugmentKey { seed, epoch }, draw)).collect()
        };
        assert_eq!(epoch(1, 1), epoch(1, 1));
        assert_ne!(epoch(1, 1), epoch(1, 2));
        assert_ne!(epoch(1, 1), epoch(2, 1));
        // Pairs of the same draw in two epochs fall evenly into 4 x 4 cells: 99.99 % quantile for 15 degrees 44.3.
        let mut cells = [0.0; 16];
        for draw in 0..16_000 {
            let at = |epoch| sampler.draw(AugmentKey { seed: 9, epoch }, draw) % 48 / 12;
            // Rows 48 and 49 would make two cells larger.
            let is_even = |epoch| sampler.draw(AugmentKey { seed: 9, epoch }, draw) < 48;
            if is_even(1) && is_even(2) {
                cells[(at(1) * 4 + at(2)) as usize] += 1.0;
            }
        }
        assert!(chi_square(&cells, &[1.0; 16]) < 44.3, "{cells:?}");
    }

    #[test]
    fn draws_do_not_change_between_builds() {
        // Later builds must be able to resume a run. The numbers are from an independent implementation in Python.
        let sampler = Sampler::new(&[1.0, 2.0, 3.0, 0.0, 10.0]).expect("weights");
        let key = AugmentKey { seed: 7, epoch: 3 };
        let draws: Vec<u64> = (0..12).map(|draw| sampler.draw(key, draw)).collect();
        assert_eq!(draws, [2, 4, 4, 2, 4, 2, 4, 4, 2, 4, 4, 4]);
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for (weights, expected) in [
            (vec![1.0, -1.0], "a weight is -1"),
            (vec![f64::NAN], "a weight is NaN"),
            (vec![f64::INFINITY, 1.0], "a weight is inf"),
            (vec![0.0, 0.0], "all weights are 0"),
            (vec![], "all weights are 0"),
        ] {
            let why = Sampler::new(&weights).expect_err("refused");
            assert!(why.contains(expected), "{why}");
        }
    }

    proptest! {
        #[test]
        fn columns_add_up_to_the_weights(weights in prop::collection::vec(prop_oneof![Just(0.0), 1e-3..1e3f64], 1..60)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0.0));
            let sampler = Sampler::new(&weights).expect("weights");
            let mut widths = vec![0.0; weights.len()];
            for (row, (own, other)) in sampler.own.iter().zip(&sampler.other).enumerate() {
                let own = *own as f64 / 2f64.powi(64);
                widths[row] += own;
                widths[*other as usize] += 1.0 - own;
            }
            let scale = weights.len() as f64 / weights.iter().sum::<f64>();
            for (width, weight) in widths.iter().zip(&weights) {
                prop_assert!((width - weight * scale).abs() < 1e-9, "{} for {}", width, weight * scale);
            }
        }

        #[test]
        fn extreme_weights_are_drawn_all_the_same(exponents in prop::collection::vec(-300i32..300, 1..30), seed: u64) {
            let weights: Vec<f64> = exponents.iter().map(|exponent| 10f64.powi(*exponent)).collect();
            let sampler = Sampler::new(&weights).expect("weights");
            for draw in 0..50 {
                let drawn = sampler.draw(AugmentKey { seed, epoch: 0 }, draw);
                prop_assert!((drawn as usize) < weights.len());
            }
        }
    }
}
