//! A layer of a gpt.

use burn::module::Module;
use burn::nn::{Dropout, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{DType, Device, Tensor};

use super::positions::{BlockContext, Rotation};
use crate::precision::normalise;

/// x + attention(norm(x)), then x + dense(norm(x)).
#[derive(Module, Debug)]
pub(super) struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    expand: Linear,
    contract: Linear,
    dropout: Dropout,
}

/// Causal multi-head self-attention (Vaswani et al. 2017, section 3.2). Queries, keys and values have separate weights:
/// a fused one would have to be sliced, which is expensive in the backward pass.
#[derive(Module, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    projection: Linear,
    dropout: Dropout,
    #[module(skip)]
    heads: usize,
}

impl Block {
    /// `deviations`: standard deviations of the weights, and of those whose results are added to the residual.
    pub(super) fn new(
        width: usize,
        heads: usize,
        deviations: (f64, f64),
        dropout: &Dropout,
        device: &Device,
    ) -> Self {
        let (plain, residual) = deviations;
        let square = |deviation| linear([width, width], deviation, device);
        Self {
            norm1: LayerNormConfig::new(width).init(device),
            attention: Attention {
                query: square(plain),
                key: square(plain),
                value: square(plain),
                projection: square(residual),
                dropout: dropout.clone(),
                heads,
            },
            norm2: LayerNormConfig::new(width).init(device),
            expand: linear([width, 4 * width], plain, device),
            contract: linear([4 * width, width], residual, device),
            dropout: dropout.clone(),
        }
    }

    /// Maps `[count * window, width]` to the same shape.
    pub(super) fn forward(&self, x: Tensor<2>, around: &BlockContext) -> Tensor<2> {
        let branch = self.attention.forward(&norm(&self.norm1, x.clone()), around);
        let x = x + self.dropout.forward(branch);
        let branch = self.contract.forward(gelu(self.expand.forward(norm(&self.norm2, x.clone()))));
        x + self.dropout.forward(branch)
    }
}

/// Normalises in f32.
fn norm(layer: &LayerNorm, x: Tensor<2>) -> Tensor<2> {
    normalise(layer, x, LayerNorm::forward)
}

/// A layer with normally distributed weights and zero biases.
fn linear([inputs, outputs]: [usize; 2], deviation: f64, device: &Device) -> Linear {
    let normal = Initializer::Normal { mean: 0.0, std: deviation };
    let config = LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(normal);
    Linear { bias: Some(Initializer::Zeros.init([outputs], device)), ..config.init(device) }
}

impl Attention {
    fn forward(&self, x: &Tensor<2>, around: &BlockContext) -> Tensor<2> {
        let [rows, width] = x.dims();
        let size = width / self.heads;
        let split = |linear: &Linear| {
            linear.forward(x.clone()).reshape([around.count, around.window, self.heads, size]).swap_dims(1, 2)
        };
        let turn = |x: Tensor<4>, rotation: &Rotation| rotation.turn(x);
        let (mut query, mut key) = (split(&self.query), split(&self.key));
        if let Some(rotation) = &around.rotation {
            (query, key) = (turn(query, rotation), turn(key, rotation));
        }
        let query = query.mul_scalar(1.0 / (size as f32).sqrt());
        let scores = query.matmul(key.swap_dims(2, 3));
        // The mask, the exponentials and their sums are f32; the attention weights have the values' type again.
        let dtype = scores.dtype();
        let weights = softmax(scores.cast(DType::F32) + around.mask.clone(), 3).cast(dtype);
        let weights = self.dropout.forward(weights);
        let mixed = weights.matmul(split(&self.value)).swap_dims(1, 2).reshape([rows, width]);
        self.projection.forward(mixed)
    }
}
