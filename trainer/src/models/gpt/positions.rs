//! Positional inputs of attention: the causal mask and the rotation of queries and keys.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Context shared by all blocks of a forward pass.
pub(super) struct BlockContext {
    /// Number of samples.
    pub(super) count: usize,
    /// Positions per sample.
    pub(super) window: usize,
    /// Added to the attention scores, `[1, 1, window, window]`, f32.
    pub(super) mask: Tensor<4>,
    /// Set for rotary positions.
    pub(super) rotation: Option<Rotation>,
}

/// Softmax maps it to exactly 0. (A finite value that underflows takes exp's slow path.)
const HIDDEN: f32 = f32::NEG_INFINITY;

/// 0 for keys up to the query's position, [`HIDDEN`] for later ones; `[1, 1, query, key]`.
pub(super) fn causal_mask(window: usize, device: &Device) -> Tensor<4> {
    let entry = |query: usize, key: usize| if key > query { HIDDEN } else { 0.0 };
    let mask: Vec<f32> =
        (0..window).flat_map(|query| (0..window).map(move |key| entry(query, key))).collect();
    Tensor::from_data(TensorData::new(mask, [1, 1, window, window]), device)
}

/// Rotary embedding (Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", equation 34),
/// with features paired as in GPT-NeoX and Llama: feature i with i + size/2 of a head.
pub(super) struct Rotation {
    /// `[1, 1, window, size]`, as is `sin`.
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// Maps each pair (a, b) to (-b, a), `[1, 1, size, size]`. A matrix product costs little compared to attention
    /// itself, while slices would be copied in the backward pass; a sum of zeros and one value is exact.
    quarter: Tensor<4>,
}

/// Rotates position p and pair i by the angle p * 10000^(-2i/size), in the type of the rotated tensors.
pub(super) fn rotation(window: usize, size: usize, options: (&Device, DType)) -> Rotation {
    let half = size / 2;
    // In f64, so that differences between implementations of sine and power hardly ever affect the f32 value.
    let angle = |position: usize, feature: usize| {
        position as f64 * 10_000f64.powf(-((feature % half) as f64) / half as f64)
    };
    let table = |function: fn(f64) -> f64| -> Tensor<4> {
        let values: Vec<f32> = (0..window)
            .flat_map(|position| (0..size).map(move |feature| function(angle(position, feature)) as f32))
            .collect();
        Tensor::from_data(TensorData::new(values, [1, 1, window, size]), options)
    };
    let mut quarter = vec![0.0f32; size * size];
    for i in 0..half {
        quarter[(i + half) * size + i] = -1.0;
        quarter[i * size + i + half] = 1.0;
    }
    let quarter = Tensor::from_data(TensorData::new(quarter, [1, 1, size, size]), options);
    Rotation { cos: table(f64::cos), sin: table(f64::sin), quarter }
}

impl Rotation {
    /// Rotates queries or keys, `[count, heads, window, size]`.
    pub(super) fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let turned = x.clone().matmul(self.quarter.clone());
        x * self.cos.clone() + turned * self.sin.clone()
    }
}
