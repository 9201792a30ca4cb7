//! A GRU that reads an image row by row, from top to bottom, and then says what it has read.

use burn::module::Module;
use burn::nn::gru::{Gru, GruConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use trainer::{DataSpec, HostBatch, ModelConfig, Registry, Task, TrainerError};

/// The models of this project's worker and trainer: those that are built in, and `model.kind = "rows"`.
#[must_use]
pub fn registry() -> Registry {
    Registry::builtin().with::<Rows>("rows")
}

/// The module, as for any burn program.
#[derive(Module, Debug)]
pub struct RowReader {
    gru: Gru,
    dropout: Dropout,
    output: Linear,
}

impl RowReader {
    /// Images `[samples, rows, columns]` to logits `[samples, labels]`.
    fn forward(&self, images: Tensor<3>) -> Tensor<2> {
        let [samples, rows, _] = images.dims();
        let states = self.gru.forward(images, None);
        let [_, _, hidden] = states.dims();
        let last = states.narrow(1, rows - 1, 1).reshape([samples, hidden]);
        self.output.forward(self.dropout.forward(last))
    }
}

/// The keys of `[model]`, and their defaults. A key that isn't here is refused before the first step.
#[derive(Deserialize)]
#[serde(default)]
struct Keys {
    hidden: usize,
    dropout: f64,
}

impl Default for Keys {
    fn default() -> Self {
        Self { hidden: 64, dropout: 0.0 }
    }
}

/// How the module is built and fed.
pub struct Rows {
    keys: Keys,
    /// Rows and columns of an image.
    image: [usize; 2],
    labels: usize,
}

impl Task for Rows {
    type Model = RowReader;

    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        let &[1, rows, columns] = data.input.as_slice() else {
            let message = format!("\"rows\" reads images of one channel; the dataset gives {:?}", data.input);
            return Err(TrainerError::Config(message));
        };
        Ok(Self { keys: config.keys()?, image: [rows, columns], labels: data.output.width() })
    }

    fn model(&self, device: &Device) -> RowReader {
        RowReader {
            gru: GruConfig::new(self.image[1], self.keys.hidden, true).init(device),
            dropout: DropoutConfig::new(self.keys.dropout).init(),
            output: LinearConfig::new(self.keys.hidden, self.labels).init(device),
        }
    }

    fn predict(
        &self,
        model: &RowReader,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        let [rows, columns] = self.image;
        Ok(model.forward(batch.features([batch.count, rows, columns], device)?))
    }
}
