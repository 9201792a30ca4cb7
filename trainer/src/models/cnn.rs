//! A small convolutional network for images.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

use super::head;
use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch};
use crate::loss::Loss;
use crate::scored::Scored;
use crate::task::{ModelConfig, Task};

#[derive(Deserialize, Debug)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    channels: Vec<usize>,
    hidden: usize,
    dropout: f64,
    label_smoothing: f64,
    class_weights: Vec<f64>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            channels: vec![16, 32],
            hidden: 64,
            dropout: 0.0,
            label_smoothing: 0.0,
            class_weights: Vec::new(),
        }
    }
}

/// `model.kind = "cnn"`: for each of `channels` a 3x3 convolution (same size), ReLU and 2x2 max pooling; then a layer
/// of `hidden` units with ReLU, `dropout` before and after it, and the outputs.
///
/// Weights and biases are initialised uniformly within ±1/sqrt(fan-in), burn's default for both kinds of layers, and
/// PyTorch's too (`nn.Linear`, `nn.Conv2d`: He et al. 2015, "Delving Deep into Rectifiers", with a = sqrt(5)).
#[derive(Debug)]
pub struct Cnn {
    keys: Keys,
    /// Channels, height, width of the input.
    image: [usize; 3],
    /// Number of features after the last pooling.
    flat: usize,
    outputs: usize,
    loss: Loss,
}

/// The module: `convolutions.0.weight`, ..., `hidden.weight`, `output.weight` and their biases.
#[derive(Module, Debug)]
pub struct CnnModel {
    convolutions: Vec<Conv2d>,
    hidden: Linear,
    output: Linear,
    pool: MaxPool2d,
    dropout: Dropout,
}

impl Task for Cnn {
    type Model = CnnModel;

    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        let mut keys: Keys = config.keys()?;
        head::check_dropout(keys.dropout)?;
        head::check_data(data)?;
        head::check_numbers(data)?;
        let loss = Loss::new(keys.label_smoothing, std::mem::take(&mut keys.class_weights), data)?;
        let &[channels, height, width] = data.input.as_slice() else {
            return Err(TrainerError::Config(format!(
                "model.kind = \"cnn\" takes images; the dataset gives {:?}: set dataset.image_shape = [channels, \
                 height, width]",
                data.input
            )));
        };
        if keys.channels.is_empty() || keys.channels.contains(&0) || keys.hidden == 0 {
            return Err(TrainerError::Config(format!(
                "model.channels = {:?}, model.hidden = {}: at least one convolution, and at least one unit in each \
                 layer",
                keys.channels, keys.hidden
            )));
        }
        let halvings = keys.channels.len().min(63) as u32;
        let (last_height, last_width) = (height >> halvings, width >> halvings);
        if last_height == 0 || last_width == 0 {
            return Err(TrainerError::Config(format!(
                "model.channels = {:?} halves the image {} times, more than {height} x {width} pixels allow",
                keys.channels,
                keys.channels.len()
            )));
        }
        let flat = keys.channels[keys.channels.len() - 1] * last_height * last_width;
        Ok(Self { keys, image: [channels, height, width], flat, outputs: data.output.width(), loss })
    }

    fn model(&self, device: &Device) -> CnnModel {
        let mut channels = self.image[0];
        let convolutions = self
            .keys
            .channels
            .iter()
            .map(|next| {
                let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
                let convolution =
                    Conv2dConfig::new([channels, *next], [3, 3]).with_padding(padding).init(device);
                channels = *next;
                convolution
            })
            .collect();
        CnnModel {
            convolutions,
            hidden: LinearConfig::new(self.flat, self.keys.hidden).init(device),
            output: LinearConfig::new(self.keys.hidden, self.outputs).init(device),
            pool: MaxPool2dConfig::new([2, 2]).init(),
            dropout: DropoutConfig::new(self.keys.dropout).init(),
        }
    }

    fn forward(&self, model: &CnnModel, batch: &HostBatch, device: &Device) -> Result<Scored, TrainerError> {
        self.loss.score(self.predict(model, batch, device)?, batch)
    }

    fn predict(
        &self,
        model: &CnnModel,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        let [channels, height, width] = self.image;
        let mut x = head::rows(batch, channels * height * width, device)?.reshape([
            batch.count,
            channels,
            height,
            width,
        ]);
        for convolution in &model.convolutions {
            x = model.pool.forward(relu(convolution.forward(x)));
        }
        let x = model.dropout.forward(x.reshape([batch.count, self.flat]));
        let x = model.dropout.forward(relu(model.hidden.forward(x)));
        Ok(model.output.forward(x))
    }
}
