//! Residual networks for images.

mod block;
mod keys;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use self::block::{ResidualBlock, Shortcut, convolution, norm, normalisation};
use self::keys::{Depth, Keys};
use super::head;
use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch};
use crate::loss::Loss;
use crate::scored::Scored;
use crate::task::{ModelConfig, Task};

/// `model.kind = "resnet"`: a 3x3 convolution, stages of residual blocks, global average pooling, and the outputs (He
/// et al. 2015, "Deep Residual Learning for Image Recognition").
///
/// Depths 8, 14 and 20 are the paper's networks for CIFAR-10 (section 4.2, depth 6n + 2): three stages of n blocks with
/// `width` (default 16), 2 `width` and 4 `width` channels; the second and third halve the image. Shortcuts have no
/// parameters (option A): where the shape changes, every second pixel is taken and channels of zeros are appended.
///
/// Depth 18 is the paper's network for ImageNet (table 1) with a stem for small images: one 3x3 convolution that
/// preserves the size, instead of 7x7 with stride 2 and pooling. Four stages of two blocks have 1, 2, 4 and 8 times
/// `width` (default 64) channels; shortcuts are 1x1 convolutions where the shape changes (option B).
///
/// Each convolution is followed by GroupNorm with `groups` groups (Wu and He 2018) instead of the paper's BatchNorm,
/// whose running state members can't keep identical. Convolutions are initialised as in He et al. 2015, "Delving Deep
/// into Rectifiers", equation 10 (normal, deviation sqrt(2 / fan-in)), the last layer like a linear layer of PyTorch.
#[derive(Debug)]
pub struct Resnet {
    depth: Depth,
    width: usize,
    groups: usize,
    loss: Loss,
    /// Channels, height, width of the input.
    image: [usize; 3],
    outputs: usize,
}

/// The module: `stem.weight`, `stem_norm.gamma`, `blocks.0.convolution1.weight`, ..., `output.weight`, `output.bias`.
#[derive(Module, Debug)]
pub struct ResnetModel {
    stem: Conv2d,
    stem_norm: GroupNorm,
    blocks: Vec<ResidualBlock>,
    output: Linear,
}

impl Task for Resnet {
    type Model = ResnetModel;

    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        let keys: Keys = config.keys()?;
        let (depth, width) = keys.size()?;
        head::check_data(data)?;
        head::check_numbers(data)?;
        let loss = Loss::new(keys.label_smoothing, keys.class_weights, data)?;
        let &[channels, height, columns] = data.input.as_slice() else {
            return Err(TrainerError::Config(format!(
                "model.kind = \"resnet\" takes images; the dataset gives {:?}: set dataset.image_shape = [channels, \
                 height, width]",
                data.input
            )));
        };
        let (image, outputs) = ([channels, height, columns], data.output.width());
        Ok(Self { depth, width, groups: keys.groups, loss, image, outputs })
    }

    fn model(&self, device: &Device) -> ResnetModel {
        let (stages, blocks_per_stage) = self.depth.stages();
        let shortcut = if self.depth.projects() { Shortcut::Projection } else { Shortcut::Padding };
        let mut channels = self.width;
        let mut blocks = Vec::with_capacity(stages * blocks_per_stage);
        for stage in 0..stages {
            for block in 0..blocks_per_stage {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let next = self.width << stage;
                blocks.push(ResidualBlock::new([channels, next], stride, self.groups, shortcut, device));
                channels = next;
            }
        }
        ResnetModel {
            stem: convolution([self.image[0], self.width], 3, 1, device),
            stem_norm: normalisation(self.groups, self.width, device),
            blocks,
            output: LinearConfig::new(channels, self.outputs).init(device),
        }
    }

    fn forward(
        &self,
        model: &ResnetModel,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Scored, TrainerError> {
        self.loss.score(self.predict(model, batch, device)?, batch)
    }

    fn predict(
        &self,
        model: &ResnetModel,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        let [channels, height, width] = self.image;
        let pixels = head::rows(batch, channels * height * width, device)?;
        let x = pixels.reshape([batch.count, channels, height, width]);
        let mut x = relu(norm(&model.stem_norm, model.stem.forward(x)));
        for block in &model.blocks {
            x = block.forward(x);
        }
        let [count, channels, height, width] = x.dims();
        let means: Tensor<3> = x.reshape([count, channels, height * width]).mean_dim(2);
        Ok(model.output.forward(means.reshape([count, channels])))
    }
}
