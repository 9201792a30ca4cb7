//! Deterministic simulation of a coordinator and its workers, with faults.
//!
//! It drives the real machines of `protocol` and its real accumulator and reducer with toy gradients, in virtual
//! time, from one seed: the same seed is the same run, event for event. It never opens a socket, never reads a clock
//! and never starts a thread (except in [`real`], which tests real processes). It owns the world around the machines
//! (network, disk, processes, faults) and the checkers of the design's six invariants. Begin with [`run_seed`].

mod aggregator;
mod bug;
mod checkers;
mod coordinator;
mod coordinator_node;
mod disk;
mod event_loop;
mod exchange;
mod inbox;
mod incarnation;
mod inject;
mod link;
mod member;
mod network;
mod node;
mod paused_events;
mod pausing;
mod plane;
mod planted_bugs;
mod progress_check;
mod random;
pub mod real;
mod run;
mod scenario;
mod shrink;
mod silence;
mod sizes;
mod toy;
mod transport;
mod uploads;
mod worker;
mod world;

pub use bug::Bug;
pub use checkers::Reference;
pub use incarnation::{Chaos, ConnectionKind, Incarnation};
pub use run::{Report, Violation, reference, run, run_seed};
pub use scenario::{Scenario, Speeds};
pub use shrink::case;
pub use toy::Toy;
pub use world::{LifeEnd, RunSummary, World};
