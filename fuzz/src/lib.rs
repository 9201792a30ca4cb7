//! The fuzzed readers. Each module has a `run(bytes)` that panics if a reader violates its contract; the fuzz targets
//! call it, and so do the crates' own tests, with the kept corpora.

mod memory;

pub mod config;
pub mod convert;
#[cfg(feature = "data")]
pub mod data;
#[cfg(feature = "tracker")]
pub mod filter;
pub mod frames;
pub mod handshake;
pub mod journal;
pub mod metrics;
#[cfg(feature = "tracker")]
pub mod mlflow;
pub mod run_record;
pub mod safetensors;

pub use memory::bounded;

#[global_allocator]
static MEMORY: memory::Counted = memory::Counted;
