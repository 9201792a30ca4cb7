//! The type-erased model on its device, as the compute thread drives it.

use crate::error::TrainerError;
use crate::host::HostBatch;
use crate::layout::Layout;

/// Where a microbatch's gradient goes, parameter by parameter.
pub trait GradientSink {
    /// The gradient of parameter number `parameter`, whose first element is at `offset` of the flat buffer. Called
    /// at most once for each parameter and microbatch, in the layout's order; not called for a parameter that got
    /// no gradient.
    fn region(&mut self, parameter: usize, offset: usize, data: &[f32]);
}

/// A model on a device. Lives on one thread; one microbatch at a time per process (burn's random generator is one
/// per process).
///
/// A panic inside burn comes back as an error; the engine must not be used for training after one.
pub trait Engine: Send {
    /// Parameters and where they lie.
    fn layout(&self) -> &Layout;

    /// Gives the parameters their first values, made on the CPU from the seed: the same bits on every machine and
    /// for every device.
    ///
    /// # Errors
    /// A panic inside burn.
    fn initialise(&mut self, seed: u64) -> Result<(), TrainerError>;

    /// Keeps these parameters, one flag for each of the layout's, as they are from now on: they get no gradient. Which
    /// ones no gradient reached anyway doesn't matter.
    ///
    /// # Errors
    /// All of them are to be kept, the flags aren't as many as the parameters, or a panic inside burn.
    fn freeze(&mut self, frozen: &[bool]) -> Result<(), TrainerError>;

    /// Copies the parameters from the device.
    ///
    /// # Errors
    /// `out` isn't `layout().elements` long, or a panic inside burn.
    fn read_parameters(&mut self, out: &mut [f32]) -> Result<(), TrainerError>;

    /// Copies the parameters to the device.
    ///
    /// # Errors
    /// `parameters` isn't `layout().elements` long, or a panic inside burn.
    fn write_parameters(&mut self, parameters: &[f32]) -> Result<(), TrainerError>;

    /// Forward and backward of one microbatch: the gradient of the *sum* of the samples' losses. `key` seeds dropout
    /// and is the only randomness. Returns the training sums: classification and tokens `[loss sum, weight,
    /// correct]`, regression `[loss sum, weight, sum of absolute errors, sum of squared errors]`.
    ///
    /// # Errors
    /// A batch of the wrong shape, out of memory, or a panic inside burn.
    fn gradient(
        &mut self,
        batch: &HostBatch,
        key: u64,
        sink: &mut dyn GradientSink,
    ) -> Result<Vec<f64>, TrainerError>;

    /// The evaluation sums of one microbatch: as in training, and for classification the confusion matrix K x K
    /// after them, row by row, row = truth.
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
