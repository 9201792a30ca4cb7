//! Compares a gradient in half precision with the one in f32.

use configs::Precision;

use crate::engine::{Engine, GradientSink};
use crate::error::TrainerError;
use crate::host::HostBatch;

/// Difference between a microbatch's results in its precision and in f32, for the same parameters.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Agreement {
    /// Relative difference of the loss sums: |loss - reference| / |reference|.
    pub loss: f64,
    /// Relative difference of the gradients: |gradient - reference| / |reference|, Euclidean norms over all parameters.
    pub gradient: f64,
    /// Cosine of the angle between the gradients.
    pub cosine: f64,
}

impl Agreement {
    /// The largest [`gradient`](Self::gradient) difference with which training starts: half of the gradient's norm,
    /// which implies a cosine of at least sqrt(1 - 0.5^2) = 0.87. Unlike the cosine, the difference also detects
    /// gradients that are too small, as when they underflow.
    ///
    /// The bound is this wide because ReLU and pooling have kinks: a value that rounding moves across one takes all of
    /// its gradient with it. For L layers in a type with relative error u, that is about sqrt(L u) of the gradient; in
    /// bf16 (u = 2^-8) with 18 layers 0.27, which is harmless, since microbatches differ by more. Small built-in
    /// models, measured on the CPU (`tests/precision.rs`), differ by 0.004 to 0.02 in bf16, resnets by 0.06 (depth 8)
    /// and 0.18 (depth 18). Values beyond a type's range differ by their whole norm, or are not finite.
    pub const DIFFERENCE_MAX: f64 = 0.5;

    /// Computes the microbatch in both precisions. See [`Engine::gradient`] for `key`.
    ///
    /// # Errors
    /// As [`Engine::gradient`]; and if f32 works but the batch's precision doesn't, with a way to fix it.
    pub fn measure(engine: &mut dyn Engine, batch: &HostBatch, key: u64) -> Result<Self, TrainerError> {
        let reference = HostBatch { precision: Precision::F32, ..batch.clone() };
        let (expected, expected_loss) = gradient(engine, &reference, key)?;
        let (found, loss) = gradient(engine, batch, key).map_err(|error| match error {
            TrainerError::Backend { detail, .. } => unable(batch.precision, &detail),
            other => other,
        })?;
        Ok(Self {
            loss: ratio((loss - expected_loss).abs(), expected_loss.abs()),
            ..Self::of(&found, &expected)
        })
    }

    /// Compares two gradients of the same length.
    fn of(found: &[f32], expected: &[f32]) -> Self {
        let (mut difference, mut product, mut of_found, mut of_expected) = (0.0, 0.0, 0.0, 0.0);
        for (a, b) in found.iter().zip(expected) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            difference += (a - b) * (a - b);
            product += a * b;
            of_found += a * a;
            of_expected += b * b;
        }
        let cosine = if difference == 0.0 { 1.0 } else { product / (of_found * of_expected).sqrt() };
        Self { loss: 0.0, gradient: ratio(difference.sqrt(), of_expected.sqrt()), cosine }
    }

    /// Rejects results that are not finite or differ by more than [`DIFFERENCE_MAX`](Self::DIFFERENCE_MAX).
    ///
    /// # Errors
    /// With the numbers, and a way to fix it.
    pub fn check(&self, precision: Precision) -> Result<(), TrainerError> {
        // NaN fails the comparison.
        if self.loss.is_finite() && self.gradient <= Self::DIFFERENCE_MAX {
            return Ok(());
        }
        Err(TrainerError::Config(format!(
            "train.precision = \"{precision}\" doesn't do for this model and these data: the gradient of a microbatch \
             differs from the one in f32 by {:.3} of its length (at most {} is allowed; cosine {:.4}, loss {:.2e} off): \
             set train.precision = \"f32\"{}",
            self.gradient,
            Self::DIFFERENCE_MAX,
            self.cosine,
            self.loss,
            if precision == Precision::F16 { ", or \"bf16\", whose range is f32's" } else { "" }
        )))
    }
}

fn unable(precision: Precision, detail: &str) -> TrainerError {
    TrainerError::Config(format!(
        "train.precision = \"{precision}\": this model can't be computed in it, as it can in f32 ({detail}). Tensors that \
         a task makes itself must be of the type that HostBatch::dtype says, and burn's recurrent layers make f32 ones \
         inside: set train.precision = \"f32\""
    ))
}

fn ratio(difference: f64, reference: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / reference }
}

/// The gradient, and the loss sum.
fn gradient(engine: &mut dyn Engine, batch: &HostBatch, key: u64) -> Result<(Vec<f32>, f64), TrainerError> {
    // Parameters without a gradient stay zero in both precisions.
    let mut flat = Flat(vec![0.0; engine.layout().elements]);
    let sums = engine.gradient(batch, key, &mut flat)?;
    Ok((flat.0, sums.first().copied().unwrap_or(f64::NAN)))
}

struct Flat(Vec<f32>);

impl GradientSink for Flat {
    fn region(&mut self, _parameter: usize, offset: usize, data: &[f32]) {
        self.0[offset..offset + data.len()].copy_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(found: &[f32], expected: &[f32]) -> String {
        let agreement = Agreement::of(found, expected);
        agreement.check(Precision::F16).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_turns_shrinks_or_is_not_finite_is_refused() {
        let expected = [3.0, 4.0, 0.0];
        assert_eq!(refusal(&expected, &expected), "");
        assert_eq!(refusal(&[3.0, 4.0, 2.4], &expected), "");
        assert_eq!(refusal(&[0.0; 3], &[0.0; 3]), "");
        for wrong in [
            [3.0, 4.0, 2.6],
            [1.2, 1.8, 0.0],
            [0.0, 0.0, 0.0],
            [f32::NAN, 4.0, 0.0],
            [f32::INFINITY, 4.0, 0.0],
        ] {
            let said = refusal(&wrong, &expected);
            assert!(
                said.contains("train.precision = \"f32\"") && said.contains("at most 0.5"),
                "{wrong:?}: {said}"
            );
        }
        assert!(!refusal(&[1.0, 0.0], &[0.0; 2]).is_empty());
    }
}
