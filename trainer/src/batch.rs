//! Converts host batches to tensors on a device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::error::TrainerError;
use crate::host::{HostBatch, HostData, Target};
use crate::precision;

impl HostBatch {
    /// Type of the inputs and of the parameters in a forward pass on this device: the batch's precision in training (a
    /// device with autodiff), f32 in evaluation and prediction. Tensors that a task creates to combine with them need
    /// the same type: `Tensor::from_data(mask, (device, batch.dtype(device)))`.
    #[must_use]
    pub fn dtype(&self, device: &Device) -> DType {
        if device.is_autodiff() { precision::dtype(self.precision) } else { DType::F32 }
    }

    /// The inputs on the device, in a shape chosen by the task, such as `[batch.count, 28, 28]`, with type
    /// [`dtype`](Self::dtype).
    ///
    /// # Errors
    /// If the inputs are tokens, or don't fit the shape.
    pub fn features<const D: usize>(
        &self,
        shape: [usize; D],
        device: &Device,
    ) -> Result<Tensor<D>, TrainerError> {
        let HostData::F32(data) = &self.x.data else {
            return Err(TrainerError::Shape("the model takes f32 inputs; the batch has integers".to_owned()));
        };
        if data.len() != shape.iter().product::<usize>() {
            return Err(TrainerError::Shape(format!(
                "{} inputs of {} samples don't fill the shape {shape:?}; the batch has {:?}",
                data.len(),
                self.count,
                self.x.shape
            )));
        }
        Ok(Tensor::from_data(TensorData::new(data.clone(), shape), (device, self.dtype(device))))
    }

    /// The tokens on the device, `[samples, window]`.
    ///
    /// # Errors
    /// If the inputs aren't tokens.
    pub fn tokens(&self, device: &Device) -> Result<Tensor<2, Int>, TrainerError> {
        let HostData::I64(tokens) = &self.x.data else {
            return Err(TrainerError::Shape("the model takes tokens; the batch has f32 inputs".to_owned()));
        };
        integers(tokens, self.count, "tokens", device)
    }

    /// Class indices of the samples on the device, `[samples]`.
    ///
    /// # Errors
    /// If the targets aren't labels.
    pub fn labels(&self, device: &Device) -> Result<Tensor<1, Int>, TrainerError> {
        let Target::Labels(labels) = &self.y else { return Err(self.other_target("labels")) };
        Ok(integers(labels, self.count, "labels", device)?.reshape([self.count]))
    }

    /// Target values on the device, `[samples, width]`, f32, since losses are computed in f32.
    ///
    /// # Errors
    /// If the targets aren't values.
    pub fn values(&self, device: &Device) -> Result<Tensor<2>, TrainerError> {
        let Target::Values { width, data } = &self.y else { return Err(self.other_target("values")) };
        if data.len() != self.count * width {
            return Err(TrainerError::Shape(format!(
                "{} target values, {width} a sample, for {} samples",
                data.len(),
                self.count
            )));
        }
        Ok(Tensor::from_data(TensorData::new(data.clone(), [self.count, *width]), device))
    }

    /// The next token at each position, on the device, `[samples * window, 1]`.
    ///
    /// # Errors
    /// If the targets aren't tokens.
    pub fn token_targets(&self, device: &Device) -> Result<Tensor<2, Int>, TrainerError> {
        let Target::Tokens(tokens) = &self.y else { return Err(self.other_target("tokens")) };
        let targets = integers(tokens, self.count, "target tokens", device)?;
        Ok(targets.reshape([tokens.len(), 1]))
    }

    /// Rejects target tokens outside of the vocabulary, which some backends would read out of bounds.
    pub(crate) fn check_tokens(&self, vocabulary: usize) -> Result<(), TrainerError> {
        let Target::Tokens(tokens) = &self.y else { return Err(self.other_target("tokens")) };
        let is_known = |token: i64| usize::try_from(token).is_ok_and(|token| token < vocabulary);
        match tokens.iter().find(|token| !is_known(**token)) {
            None => Ok(()),
            Some(token) => Err(TrainerError::Shape(format!(
                "token {token} is outside of the vocabulary of {vocabulary}"
            ))),
        }
    }

    fn other_target(&self, wanted: &str) -> TrainerError {
        let has = match &self.y {
            Target::Labels(_) => "labels",
            Target::Tokens(_) => "tokens",
            Target::Values { .. } => "values",
            Target::Unknown => "none",
        };
        TrainerError::Shape(format!("the task takes {wanted} as targets; the batch has {has}"))
    }
}

fn integers(data: &[i64], count: usize, what: &str, device: &Device) -> Result<Tensor<2, Int>, TrainerError> {
    if count == 0 || data.is_empty() || !data.len().is_multiple_of(count) {
        return Err(TrainerError::Shape(format!("{} {what} for {count} samples", data.len())));
    }
    Ok(Tensor::from_data(TensorData::new(data.to_vec(), [count, data.len() / count]), device))
}
