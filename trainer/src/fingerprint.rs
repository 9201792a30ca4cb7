//! The numerics fingerprint: equal for devices that compute the same bits.
//!
//! Two CPUs can differ: gemm chooses its split of K by cache size, sums depend on the lane count, and exp is the
//! platform's. The probe hashes the results of such operations, with the names of backend and driver.
//!
//! With the feature `autotune`, burn chooses a card's kernels by timing them: two processes on one card may compute
//! different bits, whatever a probe finds. The fingerprint of such a worker is unique.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData, Transaction};
use configs::Precision;

use crate::device::{DeviceSpec, OpenDevice};
use crate::error::TrainerError;
use crate::guard;
use crate::ordered_sum::ordered_sum;
use crate::precision;

/// Hash of the probe's result bits, backend and driver.
///
/// # Errors
/// If burn panics.
pub fn fingerprint(device: &OpenDevice) -> Result<[u8; 32], TrainerError> {
    let name = device.info().spec.to_string();
    guard::catch("the numerics probe", &name, 0, || {
        let results = probe(&device.device().clone().autodiff())
            .try_execute()
            .map_err(|error| guard::failure("the numerics probe", &name, 0, error.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bonfire numerics probe 3");
        // The kind of device, not its index: two equal cards are equal.
        hasher.update(device.driver().as_bytes());
        hasher.update(device.info().name.as_bytes());
        for data in &results {
            hasher.update(data.as_bytes());
        }
        for half in [Precision::Bf16, Precision::F16] {
            hasher.update(half.to_string().as_bytes());
            if device.computes_in(half) {
                probe_half(device, half, &mut hasher);
            }
        }
        if cfg!(feature = "autotune") && !matches!(device.info().spec, DeviceSpec::Cpu | DeviceSpec::NdArray)
        {
            // The standard library's only source of system randomness.
            hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
        Ok(*hasher.finalize().as_bytes())
    })
}

/// Probes a half-precision type that the device claims to support. If its driver fails nevertheless, the device must
/// remain usable for f32 runs, so the failure itself is hashed.
fn probe_half(device: &OpenDevice, half: Precision, hasher: &mut blake3::Hasher) {
    let name = device.info().spec.to_string();
    let results = guard::catch("the numerics probe in half precision", &name, 0, || {
        let dtype = precision::dtype(half);
        let a: Tensor<2> = noise([16, 500], 6, device.device()).cast(dtype);
        let b: Tensor<2> = noise([500, 24], 7, device.device()).cast(dtype);
        let x: Tensor<4> = noise([2, 3, 9, 9], 8, device.device()).cast(dtype);
        let weight: Tensor<4> = noise([4, 3, 3, 3], 9, device.device()).cast(dtype);
        let y = conv2d(x, weight, None, ConvOptions::new([1, 1], [1, 1], [1, 1], 1));
        Transaction::default()
            .register(a.clone().sum_dim(0).cast(DType::F32))
            .register(a.clone().exp().cast(DType::F32))
            .register(a.matmul(b).cast(DType::F32))
            .register(y.cast(DType::F32))
            .try_execute()
            .map_err(|error| guard::failure("the numerics probe", &name, 0, error.to_string()))
    });
    match results {
        Ok(results) => {
            for data in &results {
                hasher.update(data.as_bytes());
            }
        }
        Err(why) => {
            tracing::warn!(%why, "only runs in f32 are for this device");
            hasher.update(b"failed");
        }
    }
}

fn probe(device: &Device) -> Transaction {
    // Sizes of small real layers: K is large enough for gemm to split it.
    let a: Tensor<2> = noise([48, 3000], 1, device);
    let b: Tensor<2> = noise([3000, 40], 2, device);
    let product = a.clone().matmul(b);
    let total = ordered_sum(a.clone());
    let columns = a.clone().sum_dim(0);
    let exponentials = a.exp();

    let x: Tensor<4> = noise([4, 3, 17, 17], 3, device).require_grad();
    let weight: Tensor<4> = noise([8, 3, 3, 3], 4, device).require_grad();
    let bias: Tensor<1> = noise([8], 5, device).require_grad();
    let y =
        conv2d(x.clone(), weight.clone(), Some(bias.clone()), ConvOptions::new([1, 1], [1, 1], [1, 1], 1));
    let loss = ordered_sum(y.clone() * y.clone());
    let gradients = loss.backward();

    // A transaction takes tensors of one kind, and gradients are without autodiff.
    let mut results = Transaction::default()
        .register(product.without_autodiff())
        .register(total.without_autodiff())
        .register(columns.without_autodiff())
        .register(exponentials.without_autodiff())
        .register(y.without_autodiff())
        .register(loss.without_autodiff());
    if let Some(gradient) = x.grad(&gradients) {
        results = results.register(gradient);
    }
    if let Some(gradient) = weight.grad(&gradients) {
        results = results.register(gradient);
    }
    if let Some(gradient) = bias.grad(&gradients) {
        results = results.register(gradient);
    }
    results
}

/// The same values everywhere: an integer sequence scaled to [-1, 1), without burn's generator.
fn noise<const D: usize>(shape: [usize; D], stream: u64, device: &Device) -> Tensor<D> {
    let mut state = stream.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // 24 bits are exact in f32.
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
