//! Rounding of the numbers in a data plan, so that they survive JSON.

use serde::{Deserialize, Deserializer};

/// Rounds to 14 significant digits, the precision of numbers in a plan.
///
/// Plans travel as JSON, and serde_json as built in this workspace (without `float_roundtrip`) is off by up to 2 units
/// in the last place for numbers of 16 or 17 digits. Rounded to 14 digits before and after, a number keeps its bits
/// with that parser and with an exact one.
pub(crate) fn settled(value: f64) -> f64 {
    format!("{value:.13e}").parse().unwrap_or(value)
}

/// Deserialises a number that was [`settled`] before it was written.
pub(crate) fn read_settled<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    f64::deserialize(from).map(settled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(serde::Serialize, Deserialize)]
    struct Held(#[serde(deserialize_with = "read_settled")] f64);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_settled_number_comes_back_from_json(bits: u64, decimal in -1e6..1e6f64) {
            for value in [f64::from_bits(bits), decimal] {
                // Far beyond any statistic of f32 numbers.
                prop_assume!(value == 0.0 || (1e-300..1e300).contains(&value.abs()));
                let held = settled(value);
                prop_assert!((held - value).abs() <= value.abs() * 1e-13, "{} became {}", value, held);
                let json = serde_json::to_string(&Held(held)).expect("JSON");
                let back: Held = serde_json::from_str(&json).expect("a number");
                prop_assert_eq!(back.0.to_bits(), held.to_bits(), "{}", json);
            }
        }
    }

    #[test]
    fn the_plain_numbers_stay_themselves() {
        for value in [0.0, 1.0, 0.1, 0.2, -4.5, 1_700_000_000.25, f64::from(f32::MAX).round()] {
            assert!((settled(value) - value).abs() <= value.abs() * 1e-14);
        }
        assert_eq!([settled(0.1), settled(20.0), settled(-0.2)], [0.1, 20.0, -0.2]);
    }
}
