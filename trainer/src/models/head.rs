//! What both models share: inputs and targets on the device, activations, losses as sums.

use burn::tensor::activation;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, HostData, OutputSpec, Target};
use crate::task::Scored;

/// `model.activation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(0, x).
    #[default]
    Relu,
    /// x times the normal distribution's integral.
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

/// Refuses a dropout that is no probability below 1.
pub(super) fn check_dropout(dropout: f64) -> Result<(), TrainerError> {
    if (0.0..1.0).contains(&dropout) {
        return Ok(());
    }
    Err(TrainerError::Config(format!("model.dropout = {dropout}: allowed are values from 0 to below 1")))
}

/// Refuses data without inputs or outputs.
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

/// The batch's inputs on the device, one row of `features` for each sample.
pub(super) fn rows(batch: &HostBatch, features: usize, device: &Device) -> Result<Tensor<2>, TrainerError> {
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
    Ok(Tensor::from_data(TensorData::new(data.clone(), [batch.count, features]), device))
}

/// The sum of the losses: cross entropy of labels, mean squared error of a sample's values.
pub(super) fn score(outputs: Tensor<2>, batch: &HostBatch) -> Result<Scored, TrainerError> {
    let [count, width] = outputs.dims();
    let device = outputs.device();
    let loss = match &batch.y {
        Target::Labels(labels) => {
            check_labels(labels, count, width)?;
            let labels: Tensor<2, Int> =
                Tensor::from_data(TensorData::new(labels.clone(), [count, 1]), &device);
            activation::log_softmax(outputs.clone(), 1).gather(1, labels).sum().neg()
        }
        Target::Values { width: given, data } => {
            if *given != width || data.len() != count * width {
                return Err(TrainerError::Shape(format!(
                    "{} target values, {given} a sample, for {count} samples of {width} outputs",
                    data.len()
                )));
            }
            let values = Tensor::from_data(TensorData::new(data.clone(), [count, width]), &device);
            let errors: Tensor<2> = outputs.clone() - values;
            (errors.clone() * errors).sum().div_scalar(width as f32)
        }
        Target::Tokens(_) => {
            return Err(TrainerError::Shape(
                "the model takes labels or values; the batch has tokens".to_owned(),
            ));
        }
        Target::Unknown => {
            return Err(TrainerError::Shape("the batch has no targets to compute a loss from".to_owned()));
        }
    };
    Ok(Scored { loss, weight: count as f64, outputs })
}

/// A label outside of the outputs would read beyond the row on some backends.
fn check_labels(labels: &[i64], count: usize, classes: usize) -> Result<(), TrainerError> {
    if labels.len() != count {
        return Err(TrainerError::Shape(format!("{} labels for {count} samples", labels.len())));
    }
    let wrong = labels.iter().find(|label| usize::try_from(**label).map_or(true, |label| label >= classes));
    match wrong {
        None => Ok(()),
        Some(label) => {
            Err(TrainerError::Shape(format!("label index {label} is outside of the {classes} labels")))
        }
    }
}

/// The sum of the tokens' cross entropies. `targets` is `[tokens, 1]`, each within the vocabulary.
pub(super) fn score_tokens(logits: Tensor<2>, targets: Tensor<2, Int>) -> Scored {
    let [rows, _] = logits.dims();
    let plain = logits.clone().detach();
    let of_target = plain.clone().gather(1, targets.clone());
    let hits = plain.max_dim(1).equal(of_target).float();
    let loss = activation::log_softmax(logits, 1).gather(1, targets).sum().neg();
    Scored { loss, weight: rows as f64, outputs: hits }
}
