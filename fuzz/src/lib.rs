//! The readers that fuzzing drives. Each module has one `run(bytes)`, which panics where a reader breaks a promise; the
//! fuzz targets call it, and so do the crates' own tests, with the corpora that are kept.

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
