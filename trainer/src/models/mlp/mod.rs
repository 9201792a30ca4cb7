//! A multilayer perceptron for tables.

mod categories;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Embedding, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

use self::categories::Columns;
use super::head::{self, Activation};
use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch};
use crate::loss::Loss;
use crate::scored::Scored;
use crate::task::{ModelConfig, Task};

#[derive(Deserialize, Debug)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    hidden: Vec<usize>,
    embedding: Option<usize>,
    activation: Activation,
    dropout: f64,
    label_smoothing: f64,
    class_weights: Vec<f64>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            hidden: vec![128],
            embedding: None,
            activation: Activation::Relu,
            dropout: 0.0,
            label_smoothing: 0.0,
            class_weights: Vec::new(),
        }
    }
}

/// `model.kind = "mlp"`: linear layers of `hidden` units, each followed by `activation` and `dropout`, then the
/// outputs. Inputs of any shape are flattened.
///
/// A table's categorical features have an embedding each, appended to the numeric features: `embedding` wide, or
/// min(600, round(1.6 n^0.56)) for n codes (fastai's rule).
#[derive(Debug)]
pub struct Mlp {
    keys: Keys,
    columns: Columns,
    outputs: usize,
    loss: Loss,
}

/// The module: `embeddings.0.weight`, ... (one per categorical column), `hidden.0.weight`, `hidden.0.bias`, ...,
/// `output.weight`, `output.bias`.
#[derive(Module, Debug)]
pub struct MlpModel {
    embeddings: Vec<Embedding>,
    hidden: Vec<Linear>,
    output: Linear,
    dropout: Dropout,
    #[module(skip)]
    activation: Activation,
}

impl Task for Mlp {
    type Model = MlpModel;

    /// 2: categorical features are embedded.
    const SCHEMA: u32 = 2;

    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        let mut keys: Keys = config.keys()?;
        if keys.hidden.contains(&0) {
            return Err(TrainerError::Config(format!(
                "model.hidden = {:?}: every layer needs at least one unit",
                keys.hidden
            )));
        }
        head::check_dropout(keys.dropout)?;
        head::check_data(data)?;
        let loss = Loss::new(keys.label_smoothing, std::mem::take(&mut keys.class_weights), data)?;
        let columns = Columns::new(data, keys.embedding)?;
        Ok(Self { keys, columns, outputs: data.output.width(), loss })
    }

    fn model(&self, device: &Device) -> MlpModel {
        let mut width = self.columns.width();
        let mut layer = |next: usize| {
            let linear = LinearConfig::new(width, next).init(device);
            width = next;
            linear
        };
        MlpModel {
            embeddings: self.columns.embeddings(device),
            hidden: self.keys.hidden.iter().map(|next| layer(*next)).collect(),
            output: layer(self.outputs),
            dropout: DropoutConfig::new(self.keys.dropout).init(),
            activation: self.keys.activation,
        }
    }

    fn forward(&self, model: &MlpModel, batch: &HostBatch, device: &Device) -> Result<Scored, TrainerError> {
        self.loss.score(self.predict(model, batch, device)?, batch)
    }

    fn predict(
        &self,
        model: &MlpModel,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        let mut x = self.columns.rows(&model.embeddings, batch, device)?;
        for layer in &model.hidden {
            x = model.dropout.forward(model.activation.forward(layer.forward(x)));
        }
        Ok(model.output.forward(x))
    }
}
