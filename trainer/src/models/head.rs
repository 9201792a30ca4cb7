//! Shared parts of the models: inputs on the device, activations, and checks of keys and data.

use burn::tensor::activation;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, HostData, OutputSpec};

/// `model.activation`: the function after each hidden layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(0, x).
    #[default]
    Relu,
    /// x times the standard normal distribution function.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    pub(super) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => activation::relu(x),
            Self::Gelu => activation::gelu(x),
            Self::Tanh => activation::tanh(x),
        }
    }
}

/// Rejects a dropout that is not in [0, 1).
pub(super) fn check_dropout(dropout: f64) -> Result<(), TrainerError> {
    if (0.0..1.0).contains(&dropout) {
        return Ok(());
    }
    Err(TrainerError::Config(format!("model.dropout = {dropout}: allowed are values from 0 to below 1")))
}

/// Rejects data without inputs or outputs.
pub(super) fn check_data(data: &DataSpec) -> Result<(), TrainerError> {
    let inputs: usize = data.input.iter().product();
    if data.input.is_empty() || inputs == 0 {
        return Err(TrainerError::Config("the dataset has no feature columns to learn from".to_owned()));
    }
    match (&data.output, data.output.width()) {
        (OutputSpec::Tokens { .. }, _) => Err(TrainerError::Config(
            "the dataset gives text, whose next token this model can't predict: use model.kind = \"gpt\""
                .to_owned(),
        )),
        (OutputSpec::Classes(_), n @ 0..=1) => Err(TrainerError::Config(format!(
            "a classification needs at least two labels; the dataset's target has {n}"
        ))),
        (OutputSpec::Values(_), 0) => {
            Err(TrainerError::Config("a regression needs at least one target column".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Rejects categorical features, whose codes have no numeric meaning.
pub(super) fn check_numbers(data: &DataSpec) -> Result<(), TrainerError> {
    match data.categories.len() {
        0 => Ok(()),
        count => Err(TrainerError::Config(format!(
            "{count} of the dataset's features are categories, and this model takes numbers alone: use model.kind = \
             \"mlp\", or ignore the columns with dataset.columns"
        ))),
    }
}

/// The batch's inputs, one row of `features` per sample.
pub(super) fn values(batch: &HostBatch, features: usize) -> Result<&[f32], TrainerError> {
    let HostData::F32(data) = &batch.x.data else {
        return Err(TrainerError::Shape("the model takes f32 inputs; the batch has integers".to_owned()));
    };
    if data.len() != batch.count * features {
        return Err(TrainerError::Shape(format!(
            "{} inputs for {} samples of {features} features",
            data.len(),
            batch.count
        )));
    }
    Ok(data)
}

/// The batch's inputs on the device, `[count, features]`.
pub(super) fn rows(batch: &HostBatch, features: usize, device: &Device) -> Result<Tensor<2>, TrainerError> {
    let data = values(batch, features)?.to_vec();
    Ok(Tensor::from_data(TensorData::new(data, [batch.count, features]), (device, batch.dtype(device))))
}
