//! Summation on the device in a fixed order.

use burn::tensor::Tensor;

/// The sum of all elements, shape `[1]`, in an order that depends only on the shape.
///
/// Use it for losses instead of burn's `sum()`: on GPUs, that one adds the partial sums of work groups with atomics, in
/// the order of their arrival (seen on wgpu with burn 0.22: the bits of a sum over 144,000 elements differ from call to
/// call), so runs would not be reproducible bit for bit. A sum along a dimension has a fixed order.
pub fn ordered_sum<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    // Rows of about the square root: parallel, with small rounding errors.
    let width = (1..=count.isqrt()).rev().find(|width| count.is_multiple_of(*width)).unwrap_or(1);
    let rows = tensor.reshape([count / width, width]).sum_dim(1);
    rows.sum_dim(0).reshape([1])
}
