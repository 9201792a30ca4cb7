//! Learning rates and the other scalars of an update: computed once, by the coordinator, in f64, and sent as f32
//! bits, so that no member needs libm.
//!
//! Nor does the coordinator: powers and the cosine are built here from IEEE additions and multiplications, and a
//! square root is exact by IEEE 754. A run that continues with its coordinator on another host has the same bits.

use crate::messages::UpdateScalars;

/// Learning rate by step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Schedule {
    /// The same rate at every step.
    Constant {
        /// The learning rate of all steps.
        learning_rate: f64,
    },
    /// Linear from 0 to the learning rate over the first steps, then constant.
    WarmUp {
        /// Learning rate after the warm-up.
        learning_rate: f64,
        /// Steps of the warm-up.
        warmup_steps: u64,
    },
    /// After a linear warm-up, half a cosine down to a fraction at the last step (Loshchilov and Hutter, "SGDR", ICLR
    /// 2017, without restarts).
    Cosine {
        /// Learning rate after the warm-up.
        learning_rate: f64,
        /// Steps of the warm-up.
        warmup_steps: u64,
        /// Steps of the run.
        total_steps: u64,
        /// Fraction of the learning rate at the last step.
        final_factor: f64,
    },
    /// After a linear warm-up, multiplied by `gamma` every `every` steps.
    Step {
        /// Learning rate after the warm-up.
        learning_rate: f64,
        /// Steps of the warm-up.
        warmup_steps: u64,
        /// Steps between two multiplications.
        every: u64,
        /// The factor.
        gamma: f64,
    },
}

impl Schedule {
    /// The learning rate of `step`, from 1.
    #[must_use]
    pub fn learning_rate(&self, step: u64) -> f64 {
        let (full, warmup) = match *self {
            Self::Constant { learning_rate } => (learning_rate, 0),
            Self::WarmUp { learning_rate, warmup_steps }
            | Self::Cosine { learning_rate, warmup_steps, .. }
            | Self::Step { learning_rate, warmup_steps, .. } => (learning_rate, warmup_steps),
        };
        if step < warmup {
            return full * step as f64 / warmup as f64;
        }
        full * match *self {
            Self::Constant { .. } | Self::WarmUp { .. } => 1.0,
            Self::Cosine { total_steps, final_factor, .. } => {
                let length = total_steps.saturating_sub(warmup).max(1) as f64;
                let progress = ((step - warmup) as f64 / length).min(1.0);
                final_factor + (1.0 - final_factor) * half_cosine(progress)
            }
            Self::Step { every, gamma, .. } => {
                let times = (step - warmup) / every.max(1);
                power(gamma, times)
            }
        }
    }
}

/// The scalars of an update.
///
/// `applied` counts applied steps, this one included (Adam's t). The clip factor is `min(1, clip / norm)`. Adam's
/// bias corrections are those of D. Kingma and J. Ba, "Adam", ICLR 2015, section 3, in the form that divides the
/// second moment's root: `m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)`.
#[must_use]
pub fn update_scalars(
    schedule: &Schedule,
    step: u64,
    applied: u64,
    betas: Option<(f64, f64)>,
    clip_norm: Option<f64>,
    squared_norm: f64,
) -> UpdateScalars {
    let norm = squared_norm.sqrt();
    let clip_factor = match clip_norm {
        Some(bound) if norm > bound => bound / norm,
        _ => 1.0,
    };
    let correction = |beta| 1.0 - power(beta, applied);
    let (correction1, correction2) =
        betas.map_or((1.0, 1.0), |(beta1, beta2)| (correction(beta1), correction(beta2).sqrt()));
    UpdateScalars {
        learning_rate: schedule.learning_rate(step) as f32,
        clip_factor: clip_factor as f32,
        bias_correction1: correction1 as f32,
        bias_correction2_sqrt: correction2 as f32,
        first: applied == 1,
    }
}

/// `base` to the power of `exponent`, by squaring.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result *= square;
        }
        square *= square;
        exponent /= 2;
    }
    result
}

/// (1 + cos(pi * progress)) / 2 for a progress from 0 to 1: the cosine's series up to the 22nd power, whose remainder
/// is below 2e-18 on the half of the interval where it is used; the other half is its mirror image.
fn half_cosine(progress: f64) -> f64 {
    if progress > 0.5 {
        return 1.0 - half_cosine(1.0 - progress);
    }
    let angle = std::f64::consts::PI * progress;
    let series = (1..=11).rev().fold(1.0, |rest, i| {
        let n = f64::from(2 * i);
        1.0 - angle * angle / (n * (n - 1.0)) * rest
    });
    0.5 * (1.0 + series)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn powers_and_cosines_are_those_of_the_mathematical_library(base in 0f64..1.0, exponent in 0u64..100_000, x in 0f64..=1.0) {
            let expected = base.powf(exponent as f64);
            prop_assert!((power(base, exponent) - expected).abs() <= 1e-11 * expected + f64::MIN_POSITIVE);
            let expected = 0.5 * (1.0 + (std::f64::consts::PI * x).cos());
            prop_assert!((half_cosine(x) - expected).abs() < 4e-16);
        }
    }

    #[test]
    fn the_cosine_has_its_ends_and_middle() {
        assert_eq!((half_cosine(0.0), half_cosine(0.5), half_cosine(1.0)), (1.0, 0.5, 0.0));
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn rates_by_hand() {
        assert!(close(Schedule::Constant { learning_rate: 0.1 }.learning_rate(1_000), 0.1));
        let warm = Schedule::WarmUp { learning_rate: 0.1, warmup_steps: 10 };
        assert!(close(warm.learning_rate(1), 0.01) && close(warm.learning_rate(10), 0.1));
        let cosine =
            Schedule::Cosine { learning_rate: 1.0, warmup_steps: 10, total_steps: 110, final_factor: 0.1 };
        assert!(close(cosine.learning_rate(5), 0.5));
        assert!(close(cosine.learning_rate(10), 1.0));
        assert!(close(cosine.learning_rate(60), 0.55));
        assert!(close(cosine.learning_rate(110), 0.1) && close(cosine.learning_rate(500), 0.1));
        let step = Schedule::Step { learning_rate: 1.0, warmup_steps: 0, every: 10, gamma: 0.5 };
        assert!(close(step.learning_rate(9), 1.0) && close(step.learning_rate(10), 0.5));
        assert!(close(step.learning_rate(25), 0.25));
    }

    #[test]
    fn scalars_by_hand() {
        let schedule = Schedule::Constant { learning_rate: 0.5 };
        let scalars = update_scalars(&schedule, 7, 1, Some((0.9, 0.99)), Some(1.0), 16.0);
        assert_eq!(scalars.clip_factor, 0.25);
        assert!((scalars.bias_correction1 - 0.1).abs() < 1e-7);
        assert!((scalars.bias_correction2_sqrt - 0.1).abs() < 1e-7);
        assert!(scalars.first);
        let scalars = update_scalars(&schedule, 7, 2, None, Some(10.0), 16.0);
        assert_eq!((scalars.clip_factor, scalars.bias_correction1, scalars.first), (1.0, 1.0, false));
    }
}
