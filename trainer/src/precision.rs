//! Half precision: casts a module's parameters, and keeps some layers in f32.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Embedding;
use burn::tensor::{DType, Int, Tensor};
use configs::Precision;

/// burn's type for this precision.
pub(crate) fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}

/// A copy with cast float parameters: no leaves of the graph themselves, but gradients flow back to the leaves.
pub(crate) fn cast<M: Module>(module: &M, dtype: DType) -> M {
    module.clone().map(&mut Caster(dtype))
}

struct Caster(DType);

impl ModuleMapper for Caster {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

/// Applies a normalisation in f32, and returns the input's type: its statistics are sums over many elements (torch's
/// autocast makes the same exceptions).
pub(crate) fn normalise<M: Module, const D: usize>(
    layer: &M,
    x: Tensor<D>,
    forward: impl FnOnce(&M, Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let dtype = x.dtype();
    if dtype == DType::F32 {
        return forward(layer, x);
    }
    forward(&cast(layer, DType::F32), x.cast(DType::F32)).cast(dtype)
}

/// An embedding of indices `[count, positions]` in its weight's type. The backward pass accumulates the gradients of
/// repeated indices in f32: in half precision, sums of hundreds would lose their addends.
pub(crate) fn embed(embedding: &Embedding, indices: Tensor<2, Int>) -> Tensor<3> {
    let dtype = embedding.weight.val().dtype();
    if dtype == DType::F32 {
        return embedding.forward(indices);
    }
    cast(embedding, DType::F32).forward(indices).cast(dtype)
}

#[cfg(test)]
mod tests {
    use burn::nn::{GroupNorm, GroupNormConfig};
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn a_normalisation_rounds_its_result_and_nothing_before() {
        let device = Device::flex();
        let values: Vec<f32> = (0..240).map(|i| ((i * 37 % 101) as f32 - 20.0) / 16.0).collect();
        let x = Tensor::<3>::from_data(TensorData::new(values, [2, 4, 30]), &device).cast(DType::BF16);
        let layer = GroupNormConfig::new(2, 4).init(&device);
        let host = |x: Tensor<3>| x.cast(DType::F32).into_data().try_to_vec::<f32>().expect("f32");
        let exact = host(layer.forward(x.clone().cast(DType::F32)));
        let greatest_error = |found: Tensor<3>| {
            let errors = host(found).into_iter().zip(&exact).map(|(a, b)| ((a - b) / b).abs());
            errors.fold(0.0, f32::max)
        };
        let half = cast(&layer, DType::BF16);
        let roundoff = 2f32.powi(-8);
        assert!(greatest_error(normalise(&half, x.clone(), GroupNorm::forward)) <= roundoff);
        assert!(greatest_error(half.forward(x)) > roundoff, "or it would need no help");
    }
}
