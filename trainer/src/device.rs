//! Lists and opens devices by name.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use configs::Precision;

use crate::error::TrainerError;
use crate::precision;

/// Value of `--device`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DeviceSpec {
    /// A hardware GPU if there is one, else the CPU. Software adapters are skipped.
    #[default]
    Auto,
    /// The CPU (burn's flex backend).
    Cpu,
    /// The CPU through burn's ndarray backend: slow at convolutions.
    NdArray,
    /// A wgpu adapter by its index in the list; without an index, the first hardware GPU, else the first adapter.
    Wgpu(Option<usize>),
    /// As `Wgpu`, but through Vulkan and SPIR-V: only in builds with the `vulkan` feature.
    Vulkan(Option<usize>),
    /// An NVIDIA card: only in builds with the `cuda` feature.
    Cuda(Option<usize>),
}

/// An available device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// Identifies the device for [`open`].
    pub spec: DeviceSpec,
    /// Name reported by the device.
    pub name: String,
    /// Whether it is a software adapter that emulates a GPU on the CPU (llvmpipe and the like).
    pub software: bool,
}

/// A device ready for use, with its name and driver.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    info: DeviceInfo,
    driver: String,
    device: Device,
    /// Number of cards of this kind on the machine; 0 for a CPU.
    cards: usize,
}

/// Maximum threads that share a step's host work: memory bandwidth limits beyond a few.
const HOST_THREADS_MAX: usize = 8;

const FORMS: &str = "auto, cpu, ndarray, wgpu[:N], vulkan[:N], cuda[:N]";

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            None => (text, None),
            Some((kind, index)) => {
                let number = index.parse().map_err(|_| {
                    format!("device {text:?}: {index:?} is not a whole number; allowed: {FORMS}")
                })?;
                (kind, Some(number))
            }
        };
        match (kind, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("ndarray", None) => Ok(Self::NdArray),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("vulkan", index) => Ok(Self::Vulkan(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            ("auto" | "cpu" | "ndarray", Some(_)) => {
                Err(format!("device {text:?}: {kind} takes no number; allowed: {FORMS}"))
            }
            _ => Err(format!("device {text:?} is not known; allowed: {FORMS}")),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, index) = match self {
            Self::Auto => ("auto", &None),
            Self::Cpu => ("cpu", &None),
            Self::NdArray => ("ndarray", &None),
            Self::Wgpu(index) => ("wgpu", index),
            Self::Vulkan(index) => ("vulkan", index),
            Self::Cuda(index) => ("cuda", index),
        };
        match index {
            None => f.write_str(kind),
            Some(index) => write!(f, "{kind}:{index}"),
        }
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.spec, self.name)?;
        if self.software { f.write_str(" (software)") } else { Ok(()) }
    }
}

impl OpenDevice {
    /// Description of the device; its spec is never `Auto` and always has an index.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Backend and driver: part of the fingerprint and the run's record.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether the device supports storage, conversion and arithmetic in this type.
    #[must_use]
    pub fn computes_in(&self, precision: Precision) -> bool {
        self.device.supports_dtype(precision::dtype(precision))
    }

    /// Rejects a type in which the device doesn't compute.
    pub(crate) fn check_precision(&self, precision: Precision) -> Result<(), TrainerError> {
        if self.computes_in(precision) {
            return Ok(());
        }
        let others = [Precision::Bf16, Precision::F16, Precision::F32].into_iter();
        let there: Vec<String> =
            others.filter(|p| self.computes_in(*p)).map(|p| format!("\"{p}\"")).collect();
        Err(TrainerError::Device(format!(
            "train.precision = \"{precision}\", but the device {} doesn't compute in it: set train.precision to {}, or \
             give the worker another --device",
            self.info,
            there.join(" or ")
        )))
    }

    /// Number of threads that may share a step's host work, mainly the update. With a GPU, the machine's processors are
    /// idle while it waits, but shared with the workers of its other cards; on a CPU there is one worker per processor,
    /// with one thread each.
    #[must_use]
    pub fn host_threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        processors.checked_div(self.cards).unwrap_or(1).clamp(1, HOST_THREADS_MAX)
    }

    /// burn's device, without autodiff.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// The devices that this build can use on this machine: the CPU first, then the cards.
///
/// Opens each of them, which takes a moment for a GPU.
#[must_use]
pub fn list_devices() -> Vec<DeviceInfo> {
    let mut all: Vec<DeviceInfo> = [cpu(), ndarray()].into_iter().map(|open| open.info).collect();
    all.extend(cards().into_iter().map(|open| open.info));
    all
}

/// Opens a device.
///
/// # Errors
/// If it doesn't exist, this build doesn't support it, or its driver fails; the message lists the available devices.
pub fn open(spec: &DeviceSpec) -> Result<OpenDevice, TrainerError> {
    match spec {
        DeviceSpec::Cpu => Ok(cpu()),
        DeviceSpec::NdArray => Ok(ndarray()),
        DeviceSpec::Auto => Ok(choose_auto(cards())),
        DeviceSpec::Wgpu(_) => pick(spec, wgpu_cards()),
        DeviceSpec::Vulkan(_) => pick(spec, built_for(spec, vulkan_cards())?),
        DeviceSpec::Cuda(_) => pick(spec, built_for(spec, cuda_cards())?),
    }
}

fn cpu() -> OpenDevice {
    let info = DeviceInfo { spec: DeviceSpec::Cpu, name: "CPU (flex)".to_owned(), software: false };
    OpenDevice { info, driver: "flex".to_owned(), device: Device::flex(), cards: 0 }
}

#[allow(deprecated)] // Deprecated by burn 0.22, still wanted for comparisons.
fn ndarray() -> OpenDevice {
    let info = DeviceInfo { spec: DeviceSpec::NdArray, name: "CPU (ndarray)".to_owned(), software: false };
    OpenDevice { info, driver: "ndarray".to_owned(), device: Device::ndarray(), cards: 0 }
}

/// The first hardware GPU, else the CPU.
fn choose_auto(cards: Vec<OpenDevice>) -> OpenDevice {
    cards.into_iter().find(|card| !card.info.software).unwrap_or_else(cpu)
}

/// All cards, listing the fastest backend for each first.
fn cards() -> Vec<OpenDevice> {
    let mut all = cuda_cards().unwrap_or_default();
    all.extend(vulkan_cards().unwrap_or_default());
    all.extend(wgpu_cards());
    all
}

fn pick(spec: &DeviceSpec, cards: Vec<OpenDevice>) -> Result<OpenDevice, TrainerError> {
    let place = match spec {
        DeviceSpec::Wgpu(Some(n)) | DeviceSpec::Vulkan(Some(n)) | DeviceSpec::Cuda(Some(n)) => *n,
        _ => cards.iter().position(|card| !card.info.software).unwrap_or(0),
    };
    cards.into_iter().nth(place).ok_or_else(|| missing(spec, "is not there"))
}

fn built_for(spec: &DeviceSpec, cards: Option<Vec<OpenDevice>>) -> Result<Vec<OpenDevice>, TrainerError> {
    cards.ok_or_else(|| missing(spec, "needs a worker built with that cargo feature"))
}

fn missing(spec: &DeviceSpec, why: &str) -> TrainerError {
    let there: Vec<String> =
        list_devices().iter().map(|info| format!("{} ({})", info.spec, info.name)).collect();
    TrainerError::Device(format!("device {spec} {why}; there are: {}", there.join(", ")))
}

fn wgpu_cards() -> Vec<OpenDevice> {
    open_all(burn::tensor::DeviceType::Wgpu, |index| DeviceSpec::Wgpu(Some(index)))
}

#[cfg(feature = "vulkan")]
fn vulkan_cards() -> Option<Vec<OpenDevice>> {
    Some(open_all(burn::tensor::DeviceType::Vulkan, |index| DeviceSpec::Vulkan(Some(index))))
}

#[cfg(not(feature = "vulkan"))]
fn vulkan_cards() -> Option<Vec<OpenDevice>> {
    None
}

#[cfg(feature = "cuda")]
fn cuda_cards() -> Option<Vec<OpenDevice>> {
    Some(open_all(burn::tensor::DeviceType::Cuda, |index| DeviceSpec::Cuda(Some(index))))
}

#[cfg(not(feature = "cuda"))]
fn cuda_cards() -> Option<Vec<OpenDevice>> {
    None
}

/// Opens all devices of a kind. A failing driver hides only its own device.
fn open_all(kind: burn::tensor::DeviceType, spec: fn(usize) -> DeviceSpec) -> Vec<OpenDevice> {
    let found = std::panic::catch_unwind(|| Device::enumerate(kind).into_vec()).unwrap_or_default();
    let mut opened = Vec::with_capacity(found.len());
    for (index, device) in found.into_iter().enumerate() {
        let identity = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.identity()));
        let Ok(Some(identity)) = identity else {
            tracing::warn!(device = %spec(index), "can't be opened; left out of the list");
            continue;
        };
        let info =
            DeviceInfo { spec: spec(index), name: identity.name, software: identity.physical.is_none() };
        opened.push(OpenDevice { info, driver: identity.fingerprint, device, cards: 1 });
    }
    let cards = opened.iter().filter(|card| !card.info.software).count();
    for card in &mut opened {
        card.cards = if card.info.software { 0 } else { cards };
    }
    opened
}

/// Makes the calling thread the only one that burn's CPU kernels use, unless RAYON_NUM_THREADS asks for more. Call it
/// once, before the first tensor is created.
///
/// Sums of 4 Mi elements depend on the number of threads, and one worker per core beats one worker with two threads.
pub fn use_one_thread() {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse::<usize>().ok());
    let threads = asked.filter(|count| *count > 0).unwrap_or(1);
    if threads > 1 {
        tracing::warn!(
            "RAYON_NUM_THREADS={threads}: bit-exact results are claimed for one compute thread only"
        );
    }
    // As a member of the pool, this thread runs parallel sections itself instead of waking another.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global();
    if let Err(error) = pool {
        tracing::warn!("the number of compute threads could not be set: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read_and_written_alike() {
        for text in ["auto", "cpu", "ndarray", "wgpu", "wgpu:1", "vulkan", "vulkan:0", "cuda", "cuda:7"] {
            assert_eq!(text.parse::<DeviceSpec>().map(|spec| spec.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["", "gpu", "cpu:0", "auto:1", "wgpu:", "wgpu:-1", "wgpu:x", "CPU", "cuda:0:0"] {
            let message = wrong.parse::<DeviceSpec>().err().unwrap_or_default();
            assert!(message.contains(FORMS), "{wrong:?} gave {message:?}");
        }
    }

    #[test]
    fn auto_passes_over_software() {
        let card = |index, software| {
            let info = DeviceInfo { spec: DeviceSpec::Wgpu(Some(index)), name: "card".to_owned(), software };
            OpenDevice { info, driver: String::new(), device: Device::flex(), cards: 1 }
        };
        assert_eq!(choose_auto(vec![]).info.spec, DeviceSpec::Cpu);
        assert_eq!(choose_auto(vec![card(0, true)]).info.spec, DeviceSpec::Cpu);
        assert_eq!(choose_auto(vec![card(0, true), card(1, false)]).info.spec, DeviceSpec::Wgpu(Some(1)));
        let named = pick(&DeviceSpec::Wgpu(None), vec![card(0, true), card(1, false)]);
        assert_eq!(named.map(|open| open.info.spec).ok(), Some(DeviceSpec::Wgpu(Some(1))));
        let only = pick(&DeviceSpec::Wgpu(None), vec![card(0, true)]);
        assert_eq!(only.map(|open| open.info.spec).ok(), Some(DeviceSpec::Wgpu(Some(0))));
    }

    #[test]
    fn a_device_that_is_not_there_lists_those_that_are() {
        let message = open(&DeviceSpec::Wgpu(Some(99))).expect_err("no machine has it").to_string();
        assert!(message.contains("wgpu:99") && message.contains("cpu (CPU (flex))"), "{message}");
        let message = open(&DeviceSpec::Cuda(None)).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(cfg!(feature = "cuda") || message.contains("cargo feature"), "{message}");
    }
}
