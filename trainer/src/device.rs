//! Devices by name: which there are, and opening one.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::TrainerError;

/// What `--device` says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DeviceSpec {
    /// A real GPU if there is one, else the CPU. Software adapters are passed over.
    #[default]
    Auto,
    /// The CPU (burn's flex backend).
    Cpu,
    /// The CPU through burn's ndarray backend: slow at convolutions.
    NdArray,
    /// An adapter of wgpu, by its place in the list; without one, the first real GPU, else the first adapter.
    Wgpu(Option<usize>),
    /// The same through Vulkan and SPIR-V: only in builds with the `vulkan` feature.
    Vulkan(Option<usize>),
    /// An NVIDIA card: only in builds with the `cuda` feature.
    Cuda(Option<usize>),
}

/// One device of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// What opens it.
    pub spec: DeviceSpec,
    /// What it calls itself.
    pub name: String,
    /// Whether it only imitates a GPU on the CPU (llvmpipe and the like).
    pub software: bool,
}

/// A device, opened.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    info: DeviceInfo,
    driver: String,
    device: Device,
}
