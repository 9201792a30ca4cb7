//! Optimizers on the host, fused over the flat f32 buffer.
//!
//! Elementwise IEEE add, multiply, divide and square root alone; no fused multiply-add, no libm: the same bits on
//! every CPU. What needs a power or a norm arrives as scalars, computed once by the coordinator. Since no element
//! depends on another, and each block has a hash of its own, any number of threads may share a step.

use std::ops::Range;

use crate::error::TrainerError;
use crate::layout::Layout;
use crate::optimizer_pass::{self, Part};
use crate::state_check;
use crate::update_rules::Rule;

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
}

/// Which rule, and its constants.
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
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second.
        beta2: f64,
        /// Added to the denominator.
        epsilon: f64,
        /// L2 penalty, added to the gradient.
        weight_decay: f64,
    },
    /// torch.optim.AdamW.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second.
        beta2: f64,
        /// Added to the denominator.
        epsilon: f64,
        /// Decoupled: parameters shrink by learning rate times this.
        weight_decay: f64,
    },
}

/// An optimizer and its moments.
#[derive(Clone, Debug)]
pub struct HostOptimizer {
    config: OptimizerConfig,
    layout: Layout,
    moments: Vec<Moment>,
    /// Whether parameters of one dimension decay.
    decay_1d: bool,
    /// Elements whose parameters have a gradient in this step, as ranges in order, and whether they decay; kept for
    /// its capacity.
    runs: Vec<(Range<usize>, bool)>,
    /// Hashes of the blocks after a step; kept for its capacity.
    block_hashes: Vec<u64>,
    /// How many threads share a step.
    threads: usize,
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
        let moments = config
            .first_moments()
            .iter()
            .map(|(name, start)| Moment { name, values: vec![*start; layout.elements] })
            .collect();
        Ok(Self {
            config,
            layout: layout.clone(),
            moments,
            decay_1d: true,
            runs: Vec::new(),
            block_hashes: Vec::new(),
            threads: 1,
        })
    }

    /// With so many threads for each step of a large model; at first one. The bits are the same for any number.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Whether weight decay falls on parameters of one dimension too: biases and normalisations, which GPT-2's
    /// training leaves alone (karpathy/nanoGPT, `configure_optimizers`). At first it does, as in torch.
    #[must_use]
    pub fn with_decay_1d(mut self, decay_1d: bool) -> Self {
        self.decay_1d = decay_1d;
        self
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

    /// Puts the moments back to their start, for a run that begins anew in a process that has trained.
    pub fn reset(&mut self) {
        for (moment, (_, start)) in self.moments.iter_mut().zip(self.config.first_moments()) {
            moment.values.fill(*start);
        }
    }

    /// One step, in place; gives the state check after it.
    ///
    /// `gradient` is the reduced mean over the global batch. A parameter that `present` denies got no gradient from
    /// any microbatch: neither it nor its moments change. Nothing is allocated once every parameter has been seen.
    ///
    /// # Panics
    /// `parameters` or `gradient` isn't as long as the layout: a programmer's error.
    pub fn step(
        &mut self,
        parameters: &mut [f32],
        gradient: &[f32],
        present: impl Fn(usize) -> bool,
        scalars: &UpdateScalars,
    ) -> u64 {
        let elements = self.layout.elements;
        assert!(parameters.len() == elements && gradient.len() == elements, "buffers as long as the layout");
        self.find_runs(present);
        let rules = [self.config.without_decay(), self.config].map(|config| Rule::new(&config, scalars));
        self.block_hashes.clear();
        self.block_hashes.resize(elements.div_ceil(BLOCK), 0);
        let whole = Part::new(parameters, gradient, &mut self.moments, &mut self.block_hashes);
        optimizer_pass::run(whole, &rules, &self.runs, self.threads);
        state_check::chain(&self.block_hashes)
    }

    /// The state check of parameters and moments as they are.
    ///
    /// # Panics
    /// `parameters` isn't as long as the layout: a programmer's error.
    #[must_use]
    pub fn state_check(&self, parameters: &[f32]) -> u64 {
        assert!(parameters.len() == self.layout.elements, "parameters as long as the layout");
        let moments: Vec<&[f32]> = self.moments.iter().map(|moment| moment.values.as_slice()).collect();
        state_check::chain(&optimizer_pass::hashes(parameters, &moments))
    }

    /// Neighbours that are present and decay alike become one range.
    fn find_runs(&mut self, present: impl Fn(usize) -> bool) {
        self.runs.clear();
        for (number, parameter) in self.layout.parameters.iter().enumerate() {
            if !present(number) {
                continue;
            }
            let end = parameter.offset + parameter.len;
            let decays = self.decay_1d || parameter.shape.len() > 1;
            match self.runs.last_mut() {
                Some((last, alike)) if last.end == parameter.offset && *alike == decays => last.end = end,
                _ => self.runs.push((parameter.offset..end, decays)),
            }
        }
    }
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
    /// The names of the moments, and the value that each begins with.
    fn first_moments(self) -> &'static [(&'static str, f32)] {
        match self {
            // -0.0 * momentum + g is g, bit for bit, -0.0 included: the first step copies the gradient.
            Self::Sgd { momentum, .. } if momentum > 0.0 => &[("momentum_buffer", -0.0)],
            Self::Sgd { .. } => &[],
            Self::Adam { .. } | Self::AdamW { .. } => &[("exp_avg", 0.0), ("exp_avg_sq", 0.0)],
        }
    }

    fn without_decay(mut self) -> Self {
        let (Self::Sgd { weight_decay, .. }
        | Self::Adam { weight_decay, .. }
        | Self::AdamW { weight_decay, .. }) = &mut self;
        *weight_decay = 0.0;
        self
    }

    fn check(&self) -> Result<(), TrainerError> {
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
