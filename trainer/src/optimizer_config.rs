//! The optimizer algorithms and their constants.

use crate::error::TrainerError;

/// An optimizer algorithm with its constants.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum OptimizerConfig {
    /// torch.optim.SGD (dampening 0, no Nesterov).
    Sgd {
        /// Momentum; 0 keeps no buffer.
        momentum: f64,
        /// L2 penalty, added to the gradient.
        weight_decay: f64,
    },
    /// torch.optim.Adam.
    Adam {
        /// Decay rate of the first moment.
        beta1: f64,
        /// Decay rate of the second moment.
        beta2: f64,
        /// Added to the denominator.
        epsilon: f64,
        /// L2 penalty, added to the gradient.
        weight_decay: f64,
    },
    /// torch.optim.AdamW.
    AdamW {
        /// Decay rate of the first moment.
        beta1: f64,
        /// Decay rate of the second moment.
        beta2: f64,
        /// Added to the denominator.
        epsilon: f64,
        /// Decoupled weight decay: parameters shrink by learning rate times this.
        weight_decay: f64,
    },
}

impl From<&configs::Optimizer> for OptimizerConfig {
    fn from(section: &configs::Optimizer) -> Self {
        let configs::Optimizer { kind, momentum, beta1, beta2, epsilon, weight_decay, .. } = *section;
        match kind {
            configs::OptimizerKind::Sgd => Self::Sgd { momentum, weight_decay },
            configs::OptimizerKind::Adam => Self::Adam { beta1, beta2, epsilon, weight_decay },
            configs::OptimizerKind::Adamw => Self::AdamW { beta1, beta2, epsilon, weight_decay },
        }
    }
}

impl OptimizerConfig {
    /// Names and initial values of the moments.
    pub(crate) fn first_moments(self) -> &'static [(&'static str, f32)] {
        match self {
            // -0.0 * momentum + g is g, bit for bit, -0.0 included: the first step copies the gradient.
            Self::Sgd { momentum, .. } if momentum > 0.0 => &[("momentum_buffer", -0.0)],
            Self::Sgd { .. } => &[],
            Self::Adam { .. } | Self::AdamW { .. } => &[("exp_avg", 0.0), ("exp_avg_sq", 0.0)],
        }
    }

    pub(crate) fn without_decay(mut self) -> Self {
        let (Self::Sgd { weight_decay, .. }
        | Self::Adam { weight_decay, .. }
        | Self::AdamW { weight_decay, .. }) = &mut self;
        *weight_decay = 0.0;
        self
    }

    pub(crate) fn check(&self) -> Result<(), TrainerError> {
        let wrong = |key: &str, value: f64, allowed: &str| {
            Err(TrainerError::Config(format!("optimizer.{key} = {value}: allowed are values {allowed}")))
        };
        let fraction = |value: f64| (0.0..1.0).contains(&value);
        match *self {
            Self::Sgd { momentum, .. } if !fraction(momentum) => {
                wrong("momentum", momentum, "from 0 to below 1")
            }
            Self::Adam { beta1, .. } | Self::AdamW { beta1, .. } if !fraction(beta1) => {
                wrong("beta1", beta1, "from 0 to below 1")
            }
            Self::Adam { beta2, .. } | Self::AdamW { beta2, .. } if !fraction(beta2) => {
                wrong("beta2", beta2, "from 0 to below 1")
            }
            Self::Adam { epsilon, .. } | Self::AdamW { epsilon, .. }
                if !(epsilon.is_finite() && epsilon > 0.0) =>
            {
                wrong("epsilon", epsilon, "above 0")
            }
            Self::Sgd { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::AdamW { weight_decay, .. }
                if !(weight_decay.is_finite() && weight_decay >= 0.0) =>
            {
                wrong("weight_decay", weight_decay, "from 0")
            }
            _ => Ok(()),
        }
    }
}
