//! A host batch as tensors on a device.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::error::TrainerError;
use crate::host::{HostBatch, HostData, Target};

impl HostBatch {
    /// The inputs on the device, in a shape of the task's choice, such as `[batch.count, 28, 28]`.
    ///
    /// # Errors
    /// The inputs are tokens, or not so many.
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
        Ok(Tensor::from_data(TensorData::new(data.clone(), shape), device))
    }

    /// The tokens on the device, `[samples, window]`.
    ///
    /// # Errors
    /// The inputs are no tokens.
    pub fn tokens(&self, device: &Device) -> Result<Tensor<2, Int>, TrainerError> {
        let HostData::I64(tokens) = &self.x.data else {
            return Err(TrainerError::Shape("the model takes tokens; the batch has f32 inputs".to_owned()));
        };
        integers(tokens, self.count, "tokens", device)
    }

    /// One label index for each sample, on the device, `[samples]`.
    ///
    /// # Errors
    /// The targets are no labels.
    pub fn labels(&self, device: &Device) -> Result<Tensor<1, Int>, TrainerError> {
        let Target::Labels(labels) = &self.y else { return Err(self.other_target("labels")) };
        Ok(integers(labels, self.count, "labels", device)?.reshape([self.count]))
    }

    /// The values to be predicted, on the device, `[samples, width]`.
    ///
    /// # Errors
    /// The targets are no values.
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

    /// The next token of each position, on the device, `[samples * window, 1]`.
    ///
    /// # Errors
    /// The targets are no tokens.
    pub fn token_targets(&self, device: &Device) -> Result<Tensor<2, Int>, TrainerError> {
        let Target::Tokens(tokens) = &self.y else { return Err(self.other_target("tokens")) };
        let targets = integers(tokens, self.count, "target tokens", device)?;
        Ok(targets.reshape([tokens.len(), 1]))
    }

    /// Refuses target tokens outside of the vocabulary, which would read beyond the row on some backends.
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
