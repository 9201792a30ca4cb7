//! Splits rows by a keyed hash of their numbers, so that every machine holds out the same rows.

/// The rows (numbers from 0, ascending) of the training split and of the validation split.
///
/// The [`held_out`] rows with the smallest hashes are held out.
#[must_use]
pub(crate) fn split(rows: u64, fraction: f64, seed: u64) -> (Vec<u64>, Vec<u64>) {
    let held_out = held_out(rows, fraction);
    let mut ranked: Vec<(u64, u64)> = (0..rows).map(|row| (hash(seed, row), row)).collect();
    ranked.sort_unstable();
    let mut validation: Vec<u64> = ranked[..held_out as usize].iter().map(|(_, row)| *row).collect();
    let mut training: Vec<u64> = ranked[held_out as usize..].iter().map(|(_, row)| *row).collect();
    validation.sort_unstable();
    training.sort_unstable();
    (training, validation)
}

/// Number of rows held out: exactly `round(fraction * rows)`, but never all.
#[must_use]
pub(crate) fn held_out(rows: u64, fraction: f64) -> u64 {
    ((rows as f64 * fraction).round() as u64).min(rows.saturating_sub(1))
}

/// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over seed and row.
fn hash(seed: u64, row: u64) -> u64 {
    let mix = |value: u64| {
        let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(seed ^ 0x5b11_7000) ^ mix(row))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_split_is_exact_disjoint_and_the_same_again(rows in 1u64..2_000, fraction in 0.0..0.99f64, seed: u64) {
            let (training, validation) = split(rows, fraction, seed);
            let expected = ((rows as f64 * fraction).round() as u64).min(rows - 1);
            prop_assert_eq!(validation.len() as u64, expected);
            let mut all = [training.clone(), validation.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..rows).collect::<Vec<_>>());
            prop_assert_eq!((training, validation), split(rows, fraction, seed));
        }
    }

    #[test]
    fn the_split_never_changes() {
        // Resumed runs and old saved models rely on it. The numbers are from the same formula in Python.
        assert_eq!(split(20, 0.25, 0).1, [7, 8, 9, 16, 18]);
        assert_eq!(split(20, 0.25, 7).1, [2, 7, 11, 14, 18]);
    }

    #[test]
    fn another_seed_holds_out_others() {
        assert_ne!(split(100, 0.2, 0).1, split(100, 0.2, 1).1);
    }
}
