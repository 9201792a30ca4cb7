//! Optimizers on the host, fused over the flat f32 buffer.
//!
//! Elementwise IEEE add, multiply, divide and square root alone; no fused multiply-add, no libm: the same bits on
//! every CPU. What needs a power or a norm arrives as scalars, computed once by the coordinator.

use crate::error::TrainerError;
use crate::layout::Layout;

/// Elements of a block: the unit of the state check (and of summation, in the protocol).
pub const BLOCK: usize = 65_536;

/// f32 scalars of one update, as the commit brings them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct UpdateScalars {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Factor on the gradient: min(1, clip_norm / norm), or 1.
    pub clip_factor: f32,
    /// 1 - beta1^t (Adam, AdamW), t counting applied steps.
    pub bias_correction1: f32,
    /// sqrt(1 - beta2^t) (Adam, AdamW).
    pub bias_correction2_sqrt: f32,
    /// Whether this is the first applied step. Unused: momentum starts at -0.0, so its first value is the gradient's
    /// bits for each parameter whenever its first gradient comes.
    pub first: bool,
}

/// Which rule, and its constants.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum OptimizerConfig {
    /// torch.optim.SGD (dampening 0, no Nesterov).
    Sgd {
        /// Momentum; 0 keeps no buffer.
        momentum: f32,
        /// L2 penalty, added to the gradient.
        weight_decay: f32,
    },
    /// torch.optim.Adam.
    Adam {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second.
        beta2: f32,
        /// Added to the denominator.
        epsilon: f32,
        /// L2 penalty, added to the gradient.
        weight_decay: f32,
    },
    /// torch.optim.AdamW.
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second.
        beta2: f32,
        /// Added to the denominator.
        epsilon: f32,
        /// Decoupled: parameters shrink by learning rate times this.
        weight_decay: f32,
    },
}

/// An optimizer and its moments.
#[derive(Clone, Debug)]
pub struct HostOptimizer {
    config: OptimizerConfig,
    layout: Layout,
    moments: Vec<Moment>,
}

/// One buffer of the optimizer's state, as long as the parameters.
#[derive(Clone, Debug)]
pub struct Moment {
    /// torch's name: `momentum_buffer`, `exp_avg`, `exp_avg_sq`.
    pub name: &'static str,
    /// Its values.
    pub values: Vec<f32>,
}

impl HostOptimizer {
    /// With moments at their start.
    ///
    /// # Errors
    /// A constant that no optimizer can work with.
    pub fn new(config: OptimizerConfig, layout: &Layout) -> Result<Self, TrainerError> {
        config.check()?;
        let names: &[(&'static str, f32)] = match config {
            // -0.0 * momentum + g is g, bit for bit, -0.0 included: the first step copies the gradient.
            OptimizerConfig::Sgd { momentum, .. } if momentum > 0.0 => &[("momentum_buffer", -0.0)],
            OptimizerConfig::Sgd { .. } => &[],
            OptimizerConfig::Adam { .. } | OptimizerConfig::AdamW { .. } => {
                &[("exp_avg", 0.0), ("exp_avg_sq", 0.0)]
            }
        };
        let moments = names
            .iter()
            .map(|(name, start)| Moment { name, values: vec![*start; layout.elements] })
            .collect();
        Ok(Self { config, layout: layout.clone(), moments })
    }

    /// The rule.
    #[must_use]
    pub fn config(&self) -> OptimizerConfig {
        self.config
    }

    /// The layout that it works on.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its state.
    #[must_use]
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Its state, to be restored. The lengths must stay.
    pub fn moments_mut(&mut self) -> &mut [Moment] {
        &mut self.moments
    }
}
