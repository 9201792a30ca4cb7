//! The state of a simulated coordinator process.

use std::collections::BTreeMap;

use protocol::coordinator::Coordinator;
use protocol::ids::{MemberId, StepKey};
use protocol::journal::Record;
use protocol::messages::Ready;

use crate::aggregator::Aggregator;
use crate::paused_events::PausedEvents;
use crate::toy::State;

/// One incarnation of the coordinator process.
pub(crate) struct CoordinatorNode {
    pub(crate) machine: Coordinator,
    pub(crate) aggregator: Aggregator,
    pub(crate) appending: Option<(Record, bool)>,
    /// When the append began, by the coordinator's clock and by the world's.
    pub(crate) appending_since: (u64, u64),
    /// The record of the run's end is being appended.
    pub(crate) is_ending: bool,
    /// Events of the process while it is paused.
    pub(crate) backlog: PausedEvents,
    /// When each worker was last heard.
    pub(crate) heard: BTreeMap<usize, u64>,
    /// The workers that are members.
    pub(crate) here: BTreeMap<MemberId, usize>,
    /// Since when each worker has been a member without being ready.
    pub(crate) unready: BTreeMap<usize, u64>,
    pub(crate) current: Option<StepKey>,
    /// Number of upload requests so far, and the expected checkpoint with its uploader.
    pub(crate) uploads: (u64, Option<(u64, MemberId)>),
    /// The state digest that the checkpoint must have, if known.
    pub(crate) journalled: Option<[u8; 32]>,
    /// The expected state transfer and its sender.
    pub(crate) shows: Option<(u64, MemberId)>,
    pub(crate) shown: Option<State>,
    pub(crate) tick_at: Option<u64>,
    /// For planted bugs: the first Ready of a step.
    pub(crate) first_ready: Option<Ready>,
}
