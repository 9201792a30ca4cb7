//! The elementwise update rules of the optimizers, as defined by torch.
//!
//! Plain loops over equally long slices, which the compiler vectorises; vector lanes round like scalars, so the vector
//! width never affects the results.

use crate::optimizer_config::OptimizerConfig;

/// f32 scalars of one update, as carried by the commit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct UpdateScalars {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Factor on the gradient: min(1, clip_norm / norm), or 1.
    pub clip_factor: f32,
    /// 1 - beta1^t (Adam, AdamW), where t counts applied steps.
    pub bias_correction1: f32,
    /// sqrt(1 - beta2^t) (Adam, AdamW).
    pub bias_correction2_sqrt: f32,
}

/// A rule with this step's constants. Differences such as 1 - beta are computed in f64 before they are rounded to f32.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// p -= rate * g.
    Sgd(Sgd),
    /// p -= rate * momentum buffer.
    Momentum(Sgd),
    /// Adam or AdamW.
    Adam(Adam),
}

#[derive(Clone, Copy)]
pub(crate) struct Sgd {
    clip: f32,
    rate: f32,
    momentum: f32,
    decay: f32,
}

#[derive(Clone, Copy)]
pub(crate) struct Adam {
    clip: f32,
    /// learning rate / bias correction 1
    rate: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    /// 1 / sqrt(bias correction 2)
    scale: f32,
    epsilon: f32,
    /// Adam: the L2 penalty; AdamW: 0.
    penalty: f32,
    /// AdamW: 1 - learning rate * weight decay; Adam: 1.
    shrink: f32,
}

impl Rule {
    pub(crate) fn new(config: &OptimizerConfig, scalars: &UpdateScalars) -> Self {
        let rate = f64::from(scalars.learning_rate);
        match *config {
            OptimizerConfig::Sgd { momentum, weight_decay } => {
                let rule = Sgd {
                    clip: scalars.clip_factor,
                    rate: scalars.learning_rate,
                    momentum: momentum as f32,
                    decay: weight_decay as f32,
                };
                if momentum > 0.0 { Self::Momentum(rule) } else { Self::Sgd(rule) }
            }
            OptimizerConfig::Adam { beta1, beta2, epsilon, weight_decay } => {
                Self::Adam(adam(scalars, beta1, beta2, epsilon, weight_decay as f32, 1.0))
            }
            OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay } => {
                Self::Adam(adam(scalars, beta1, beta2, epsilon, 0.0, (1.0 - rate * weight_decay) as f32))
            }
        }
    }
}

fn adam(s: &UpdateScalars, beta1: f64, beta2: f64, epsilon: f64, penalty: f32, shrink: f32) -> Adam {
    Adam {
        clip: s.clip_factor,
        rate: (f64::from(s.learning_rate) / f64::from(s.bias_correction1)) as f32,
        beta1_rest: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        beta2_rest: (1.0 - beta2) as f32,
        scale: (1.0 / f64::from(s.bias_correction2_sqrt)) as f32,
        epsilon: epsilon as f32,
        penalty,
        shrink,
    }
}

/// Applies the rule to a piece of parameters and gradient and the same piece of the moments; moments that the rule
/// doesn't use are empty.
pub(crate) fn apply(rule: &Rule, parameters: &mut [f32], gradient: &[f32], [first, second]: [&mut [f32]; 2]) {
    match rule {
        Rule::Sgd(rule) => sgd(*rule, parameters, gradient),
        Rule::Momentum(rule) => sgd_momentum(*rule, parameters, gradient, first),
        // Without decay, multiplying by 1 and adding 0 would cost time, and turn a -0.0 gradient into +0.0.
        Rule::Adam(rule) if rule.penalty == 0.0 => {
            adam_step(*rule, |g, _| g, parameters, gradient, first, second);
        }
        Rule::Adam(rule) => {
            adam_step(*rule, |g, p| g + rule.penalty * p, parameters, gradient, first, second);
        }
    }
}

fn sgd(rule: Sgd, parameters: &mut [f32], gradient: &[f32]) {
    for (p, g) in parameters.iter_mut().zip(gradient) {
        *p -= rule.rate * (rule.clip * g + rule.decay * *p);
    }
}

/// torch.optim.SGD: buf = momentum * buf + g; p -= rate * buf.
fn sgd_momentum(rule: Sgd, parameters: &mut [f32], gradient: &[f32], buffer: &mut [f32]) {
    for ((p, g), b) in parameters.iter_mut().zip(gradient).zip(buffer) {
        let g = rule.clip * g;
        // Adding +0.0 * p would turn a -0.0 gradient into +0.0.
        let g = if rule.decay == 0.0 { g } else { g + rule.decay * *p };
        *b = rule.momentum * *b + g;
        *p -= rule.rate * *b;
    }
}

/// torch.optim.Adam and AdamW: m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2;
/// p = shrink p - rate m / (sqrt(v) / sqrt(bias correction 2) + epsilon).
#[inline(always)]
fn adam_step(
    rule: Adam,
    penalise: impl Fn(f32, f32) -> f32,
    parameters: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    for (((p, g), m), v) in parameters.iter_mut().zip(gradient).zip(first).zip(second) {
        let g = penalise(rule.clip * g, *p);
        *m += rule.beta1_rest * (g - *m);
        *v = rule.beta2 * *v + rule.beta2_rest * g * g;
        let denominator = v.sqrt() * rule.scale + rule.epsilon;
        *p = rule.shrink * *p - rule.rate * (*m / denominator);
    }
}
