//! The pure part of a run: messages, arithmetic and the two state machines.
//!
//! This crate owns what a run *means*: the samples of a step, their microbatches, the order in which gradients are
//! added, the membership, and when a step is committed. It never does I/O, never reads a clock, never spawns a
//! thread and has no ambient randomness: time comes in as [`Millis`], effects go out as values. The whole
//! distributed behaviour therefore runs in `sim` from one seed. Begin with [`messages`], then [`coordinator`] and
//! [`worker`].

pub mod accumulate;
pub mod aggregator;
pub mod assignment;
pub mod coordinator;
pub mod early_stopping;
pub mod history;
pub mod ids;
pub mod journal;
pub mod member_step;
pub mod messages;
pub mod order;
pub mod permutation;
pub mod plan;
pub mod reduce;
pub mod reducer;
pub mod schedule;
pub mod step_assembly;
pub mod tree;
pub mod tree_mean;
pub mod worker;

/// Milliseconds on the driver's monotonic clock (virtual time in `sim`). Only differences mean anything.
pub type Millis = u64;

/// Version of the control and data planes; peers of another version are refused at Join.
pub const PROTOCOL_VERSION: u32 = 6;

/// The release of this program. Programs of one protocol version work together; a differing release only logs a
/// warning.
pub const BUILD: &str = concat!("bonfire ", env!("CARGO_PKG_VERSION"));
