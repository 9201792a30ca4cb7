//! The journal: the records that are a run's history, and their encoding. Pure: bytes in, bytes out.
//!
//! A record is framed as `len u32 | check of len u32 | xxh3-64 of the payload u64 | payload`, little-endian. The
//! check of the length distinguishes a torn tail (the file ends inside a frame) from a damaged middle (the length is
//! wrong), so that no good record behind a damaged one is ever silently cut off.

mod codec;

pub use codec::{Decoded, JournalError, decode, encode};

use crate::ids::RunId;
pub use crate::messages::CommitRecord;
use crate::messages::{EndReason, View};

/// A coordinator took a term on the run. The first record of every incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TermRecord {
    /// The term; terms only grow.
    pub term: u32,
    /// The run's id.
    pub run: RunId,
    /// Digest of the trajectory keys of the configuration.
    pub config_digest: String,
    /// Digest of the dataset version.
    pub data_digest: String,
}

/// A view was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewRecord {
    /// The membership.
    pub view: View,
    /// The numerics fingerprint that all members share; `None` when they differ.
    pub fingerprint: Option<[u8; 32]>,
    /// Why the membership changed.
    pub reason: String,
}

/// The run ended in this term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndRecord {
    /// How the run ended.
    pub reason: EndReason,
    /// Process exit code, of the table at [`Failure::code`](crate::messages::Failure::code).
    pub code: u8,
    /// Explanation, for display.
    pub message: String,
    /// The last committed step.
    pub step: u64,
}

/// A journal entry.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A term was taken.
    Term(TermRecord),
    /// A view was opened.
    View(ViewRecord),
    /// A step was committed.
    Commit(CommitRecord),
    /// A step was committed in an earlier term; the journal lost its record with the host, and a member that had
    /// applied it brought it back.
    Adopted(CommitRecord),
    /// A checkpoint is durable.
    Version {
        /// Step of the checkpoint.
        step: u64,
        /// State digest of the checkpoint.
        digest: [u8; 32],
    },
    /// History is rewound: commits of later steps no longer count. Their replay must produce the same hashes, unless
    /// they are void.
    Rewind {
        /// The step of the state to which the run returns.
        to_step: u64,
        /// A replica deviated: hashes and checkpoints after `to_step` are invalid.
        void: bool,
        /// Why history is rewound.
        reason: String,
    },
    /// The run was asked to stop.
    Stop {
        /// The requester, for display.
        reason: String,
    },
    /// The run ended in this term; a resumed run continues in the next.
    End(EndRecord),
}
