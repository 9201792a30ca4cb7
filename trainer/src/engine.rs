//! The type-erased model on its device, driven by the compute thread.

use crate::error::TrainerError;
use crate::host::HostBatch;
use crate::layout::Layout;

/// Receives a microbatch's gradient, parameter by parameter.
pub trait GradientSink {
    /// The gradient of parameter number `parameter`, whose first element is at `offset` of the flat buffer. Called at
    /// most once for each parameter and microbatch, in layout order; not called for parameters without a gradient.
    fn region(&mut self, parameter: usize, offset: usize, data: &[f32]);
}

/// A model on a device. It stays on one thread, and only one microbatch may run at a time per process (burn's random
/// generator is global).
///
/// Panics inside burn become errors; the engine must not be used for training afterwards.
pub trait Engine: Send {
    /// The parameters and their offsets.
    fn layout(&self) -> &Layout;

    /// Initialises the parameters on the CPU from the seed: the same bits on every machine and device.
    ///
    /// # Errors
    /// If burn panics.
    fn initialise(&mut self, seed: u64) -> Result<(), TrainerError>;

    /// Freezes parameters, given one flag for each of the layout's: they get no gradient from now on. Parameters that
    /// never get a gradient may be flagged or not.
    ///
    /// # Errors
    /// If all of them would be frozen, the number of flags is wrong, or burn panics.
    fn freeze(&mut self, frozen: &[bool]) -> Result<(), TrainerError>;

    /// Copies the parameters from the device.
    ///
    /// # Errors
    /// If `out` isn't `layout().elements` long, or burn panics.
    fn read_parameters(&mut self, out: &mut [f32]) -> Result<(), TrainerError>;

    /// Copies the parameters to the device.
    ///
    /// # Errors
    /// If `parameters` isn't `layout().elements` long, or burn panics.
    fn write_parameters(&mut self, parameters: &[f32]) -> Result<(), TrainerError>;

    /// Runs forward and backward on one microbatch: the gradient of the *sum* of the samples' losses. `key` seeds
    /// dropout and is the only source of randomness. Returns the training sums: for classification and tokens
    /// `[loss sum, weight, correct]`, for regression
    /// `[loss sum, weight, sum of absolute errors, sum of squared errors]`.
    ///
    /// # Errors
    /// If the batch has the wrong shape, memory runs out, or burn panics.
    fn gradient(
        &mut self,
        batch: &HostBatch,
        key: u64,
        sink: &mut dyn GradientSink,
    ) -> Result<Vec<f64>, TrainerError>;

    /// The evaluation sums of one microbatch: as in training, followed for classification by the K x K confusion
    /// matrix, row by row, with the true class as the row.
    ///
    /// # Errors
    /// As [`Engine::gradient`].
    fn evaluate(&mut self, batch: &HostBatch) -> Result<Vec<f64>, TrainerError>;

    /// The outputs, row by row: logits (see [`crate::probabilities`]) or standardised values. For tokens a row is a
    /// position: `count * window` rows.
    ///
    /// # Errors
    /// As [`Engine::gradient`].
    fn predict(&mut self, batch: &HostBatch) -> Result<Vec<f32>, TrainerError>;
}
