//! The pure part of a run: its words, its arithmetic and its two state machines.
//!
//! This crate owns what a run *means*: which samples a step has, how they are cut into microbatches, in which
//! order gradients are added, who is a member, and when a step is committed. It never does I/O, never reads a
//! clock, never spawns a thread and has no ambient randomness: time comes in as [`Millis`], effects go out as
//! values. The whole distributed behaviour therefore runs in `sim` from one seed.

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

/// The release that a program is of. Programs of one protocol version work together; of two releases people are told.
pub const BUILD: &str = concat!("bonfire ", env!("CARGO_PKG_VERSION"));
