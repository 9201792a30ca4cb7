//! A toy task: gradients whose bits depend on the order of every addition, without burn.
//!
//! Parameter 0 has values of very different magnitudes, so that f32 sums round differently in every other order.
//! Parameter 1's gradient is always -0.0, which an added +0.0 would flip. Parameter 2 has a gradient only from some
//! samples (presence). A few samples have weight 0. The update is Adam's, elementwise, with the coordinator's
//! scalars, so that a wrong t, learning rate or clip factor changes the state.

use protocol::messages::{UpdateScalars, Verdict};

use crate::random::mix;

/// Number of sums of a microbatch: loss, weight, and a metric.
pub(crate) const SUMS: usize = 3;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;
/// The same betas for the plan.
pub(crate) const BETAS: (f64, f64) = (0.9, 0.99);

/// The dataset and model of a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toy {
    /// Elements of the flat buffers; at least 3.
    pub elements: usize,
    /// Distinguishes datasets.
    pub salt: u64,
    /// The sample whose gradient is NaN.
    pub nan_sample: Option<u64>,
    /// One in this many samples has weight 0; 0 is none.
    pub weightless: u64,
}

/// Parameters and optimizer state after a step.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct State {
    /// Step of the state.
    pub step: u64,
    pub parameters: Vec<f32>,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// For the checkers only: a bit of this state, or of one from which it derives, was flipped.
    pub tainted: bool,
}

/// A microbatch's gradient, as an engine returns it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct MicrobatchGradient {
    /// The flat gradient.
    pub gradient: Vec<f32>,
    /// [`SUMS`] sums.
    pub sums: Vec<f64>,
    /// By parameter.
    pub presence: [bool; 3],
}

impl State {
    /// Flips a bit of one of its values; `at` counts over all values, with wrap-around.
    pub(crate) fn flip(&mut self, at: usize, bit: u8) {
        let count = self.parameters.len();
        let values = [&mut self.parameters, &mut self.first, &mut self.second];
        if let Some(value) = values.into_iter().flatten().nth(at % (3 * count)) {
            *value = f32::from_bits(value.to_bits() ^ 1 << (bit % 32));
            self.tainted = true;
        }
    }

    /// A hash of the state's bits.
    #[must_use]
    pub(crate) fn check(&self) -> u64 {
        let tensors = [&self.parameters, &self.first, &self.second];
        let bits = tensors.into_iter().flatten().map(|value| u64::from(value.to_bits()));
        bits.fold(self.step, |hash, bits| mix(hash ^ bits).wrapping_add(1))
    }

    /// A digest for checkpoints: the check, spread over 32 bytes.
    #[must_use]
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        for (lane, bytes) in digest.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&mix(self.check() ^ lane as u64).to_le_bytes());
        }
        digest
    }
}

impl Toy {
    /// Element ranges of the three parameters.
    #[must_use]
    pub(crate) fn parameters(&self) -> [std::ops::Range<usize>; 3] {
        let quarter = (self.elements / 4).max(1);
        let first = self.elements - 2 * quarter;
        [0..first, first..first + quarter, first + quarter..self.elements]
    }

    /// State 0, a function of the seed alone.
    #[must_use]
    pub(crate) fn initial(&self, seed: u64) -> State {
        let parameters = (0..self.elements).map(|i| unit(mix(seed ^ mix(i as u64)))).collect();
        let zeros = vec![0.0; self.elements];
        State { step: 0, parameters, first: zeros.clone(), second: zeros, tainted: false }
    }

    /// Gradient of the summed loss over `ordinals`, with the microbatch's key for a toy dropout.
    #[must_use]
    pub(crate) fn gradient(&self, state: &State, ordinals: &[u64], key: u64) -> MicrobatchGradient {
        let ranges = self.parameters();
        let mut gradient = vec![0.0f32; self.elements];
        gradient[ranges[1].clone()].fill(-0.0);
        let (mut sums, mut presence) = (vec![0.0; SUMS], [true, true, false]);
        for ordinal in ordinals {
            if self.weightless > 0 && ordinal.is_multiple_of(self.weightless) {
                continue;
            }
            let mut loss = 0.0f64;
            for i in ranges[0].clone() {
                let residual = state.parameters[i] * 0.25 - self.feature(*ordinal, i);
                let keep = if mix(key ^ i as u64).is_multiple_of(8) { 0.5 } else { 1.0 };
                gradient[i] += residual * keep;
                loss += f64::from(residual) * f64::from(residual);
            }
            if ordinal.is_multiple_of(3) {
                presence[2] = true;
                for i in ranges[2].clone() {
                    gradient[i] += state.parameters[i] - self.feature(*ordinal, i);
                }
            }
            if self.nan_sample == Some(*ordinal) {
                gradient[0] = f32::NAN;
                loss = f64::NAN;
            }
            sums[0] += loss;
            sums[1] += 1.0;
            sums[2] += f64::from(u8::from(loss < 1.0));
        }
        MicrobatchGradient { gradient, sums, presence }
    }

    /// Metric sums over validation `ordinals`.
    #[must_use]
    pub(crate) fn evaluate(&self, state: &State, ordinals: &[u64]) -> Vec<f64> {
        let mut sums = vec![0.0; SUMS];
        for ordinal in ordinals {
            let residual = state.parameters[0] - self.feature(ordinal ^ 0x5eed, 0);
            sums[0] += f64::from(residual) * f64::from(residual);
            sums[1] += 1.0;
            sums[2] += f64::from(u8::from(residual > 0.0));
        }
        sums
    }

    /// Turns state k-1 into state k.
    pub(crate) fn apply(
        &self,
        state: &mut State,
        gradient: &[f32],
        presence: &[u8],
        verdict: Verdict,
        scalars: &UpdateScalars,
    ) {
        state.step += 1;
        if verdict == Verdict::Skip {
            return;
        }
        let bits = presence.first().copied().unwrap_or(0);
        for (parameter, range) in self.parameters().into_iter().enumerate() {
            for i in range.filter(|_| bits & (1 << parameter) > 0) {
                let g = gradient[i] * scalars.clip_factor;
                state.first[i] = BETA1 * state.first[i] + (1.0 - BETA1) * g;
                state.second[i] = BETA2 * state.second[i] + (1.0 - BETA2) * (g * g);
                let mean = state.first[i] / scalars.bias_correction1;
                let spread = state.second[i].sqrt() / scalars.bias_correction2_sqrt + 1e-8;
                let step = scalars.learning_rate * (mean / spread);
                // The sign of a zero gradient is kept in the state, so that a flipped -0.0 is detected.
                state.parameters[i] =
                    if g == 0.0 { state.parameters[i].copysign(g) } else { state.parameters[i] - step };
            }
        }
    }

    fn feature(&self, ordinal: u64, i: usize) -> f32 {
        let bits = mix(self.salt ^ mix(ordinal.wrapping_mul(0x1_0001) ^ (i as u64) << 40));
        // Magnitudes from 2^-6 to 2^9.
        let scale = f32::from_bits(((127 - 6 + ((bits >> 56) as u32 & 15)) << 23) & 0x7f80_0000);
        unit(bits) * scale
    }
}

/// Uniform in [-1, 1).
#[allow(clippy::cast_precision_loss)] // 24 bits are exact.
fn unit(bits: u64) -> f32 {
    (bits & 0xff_ffff) as f32 / 8_388_608.0 - 1.0
}
