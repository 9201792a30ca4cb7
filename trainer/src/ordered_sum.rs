//! A sum on the device whose order is fixed.

use burn::tensor::Tensor;

/// The sum of all elements, shape `[1]`, in an order that the shape alone fixes.
///
/// Use it for a loss, not burn's `sum()`: on GPUs that one adds the parts of the work groups with atomics, in the order
/// in which they arrive (seen on wgpu with burn 0.22: the bits of a sum over 144,000 elements differ from call to
/// call), and then no run repeats another bit for bit. A sum along a dimension has one order.
pub fn ordered_sum<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    // Rows of about the square root: parallel, and small rounding errors.
    let width = (1..=count.isqrt()).rev().find(|width| count.is_multiple_of(*width)).unwrap_or(1);
    let rows = tensor.reshape([count / width, width]).sum_dim(1);
    rows.sum_dim(0).reshape([1])
}
