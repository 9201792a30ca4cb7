//! The optimizer's state.

/// A buffer of the optimizer's state, as long as the parameters.
#[derive(Clone, Debug)]
pub struct Moment {
    /// torch's name: `momentum_buffer`, `exp_avg`, `exp_avg_sq`.
    pub name: &'static str,
    /// Values in layout order.
    pub values: Vec<f32>,
}
