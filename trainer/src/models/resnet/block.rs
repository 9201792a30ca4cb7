//! A residual block.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Initializer, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};

use crate::precision;

/// relu(shortcut(x) + norm(convolution(relu(norm(convolution(x)))))), both convolutions 3x3 (He et al. 2015, figure 2).
#[derive(Module, Debug)]
pub(super) struct ResidualBlock {
    convolution1: Conv2d,
    norm1: GroupNorm,
    convolution2: Conv2d,
    norm2: GroupNorm,
    projection: Option<Projection>,
    #[module(skip)]
    stride: usize,
}

/// A shortcut with parameters.
#[derive(Module, Debug)]
struct Projection {
    convolution: Conv2d,
    norm: GroupNorm,
}

/// Kind of shortcut where the shape changes; elsewhere it is the identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shortcut {
    /// Option A of the paper: every second pixel, and zeros for the new channels.
    Padding,
    /// Option B: a 1x1 convolution, normalised.
    Projection,
}

impl ResidualBlock {
    /// `channels`: input and output channels. A stride of 2 halves the image, rounding up.
    pub(super) fn new(
        channels: [usize; 2],
        stride: usize,
        groups: usize,
        shortcut: Shortcut,
        device: &Device,
    ) -> Self {
        let [inputs, outputs] = channels;
        let changes = stride != 1 || inputs != outputs;
        let new_norm = || normalisation(groups, outputs, device);
        Self {
            convolution1: convolution(channels, 3, stride, device),
            norm1: new_norm(),
            convolution2: convolution([outputs, outputs], 3, 1, device),
            norm2: new_norm(),
            projection: (changes && shortcut == Shortcut::Projection).then(|| Projection {
                convolution: convolution(channels, 1, stride, device),
                norm: new_norm(),
            }),
            stride,
        }
    }

    /// Maps `[count, channels, height, width]` to the same layout, with the block's channels and stride.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch = relu(norm(&self.norm1, self.convolution1.forward(x.clone())));
        let branch = norm(&self.norm2, self.convolution2.forward(branch));
        let shortcut = match &self.projection {
            Some(projection) => norm(&projection.norm, projection.convolution.forward(x)),
            None => pad(x, self.stride, branch.dims()[1]),
        };
        relu(shortcut + branch)
    }
}

/// Takes every `stride`-th pixel, and appends channels of zeros.
fn pad(x: Tensor<4>, stride: usize, channels: usize) -> Tensor<4> {
    // Max pooling over windows of one pixel subsamples.
    let options = MaxPoolOptions::new([1, 1]).with_stride([stride, stride]);
    let x = if stride == 1 { x } else { max_pool2d(x, options) };
    let [count, present, height, width] = x.dims();
    if present == channels {
        return x;
    }
    let zeros = Tensor::zeros([count, channels - present, height, width], (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], 1)
}

/// A square convolution without bias (a normalisation follows), which preserves the image's size at stride 1.
pub(super) fn convolution(channels: [usize; 2], side: usize, stride: usize, device: &Device) -> Conv2d {
    let margin = side / 2;
    Conv2dConfig::new(channels, [side, side])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(margin, margin, margin, margin))
        .with_bias(false)
        .with_initializer(Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: false })
        .init(device)
}

/// Normalises in f32.
pub(super) fn norm(layer: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    precision::normalise(layer, x, GroupNorm::forward)
}

pub(super) fn normalisation(groups: usize, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(groups, channels).init(device)
}
