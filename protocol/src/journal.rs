//! The journal: the records that are a run's history, and their encoding. Pure: bytes in, bytes out.
//!
//! A record is framed as `len u32 | check of len u32 | xxh3-64 of the payload u64 | payload`, little-endian. The
//! check of the length tells a torn tail (the file ends inside a frame) from a damaged middle (the length is
//! wrong), so that no good record behind a damaged one is ever cut off in silence.

mod codec;

pub use codec::{Decoded, JournalError, decode, encode};

use crate::ids::{RunId, StepKey};
use crate::messages::{EndReason, Next, Sums, UpdateScalars, Verdict, View};

/// A coordinator took a term on the run. The first record of every incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TermRecord {
    /// The term; terms only grow.
    pub term: u32,
    /// The run.
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
    /// Why.
    pub reason: String,
}

/// A step was decided.
#[derive(Clone, PartialEq, Debug)]
pub struct CommitRecord {
    /// Which step of which view.
    pub key: StepKey,
    /// The members' hash over gradient, presence and scalars.
    pub hash: u64,
    /// Apply or skip.
    pub verdict: Verdict,
    /// Applied steps of the whole history up to and with this one: Adam's t.
    pub applied: u64,
    /// Scalars of the update.
    pub scalars: UpdateScalars,
    /// What comes next.
    pub next: Next,
    /// The reduced sums.
    pub sums: Sums,
    /// Squared norm of the mean gradient.
    pub squared_norm: f64,
    /// What all members said of the state before a training step, or of the state that was evaluated; 0 where that is not
    /// known, as in journals of earlier versions.
    pub state_check: u64,
}

/// The run ended in this term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndRecord {
    /// How.
    pub reason: EndReason,
    /// Exit code of the contract.
    pub code: u8,
    /// For people.
    pub message: String,
    /// The last committed step.
    pub step: u64,
}

/// One record.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A term was taken.
    Term(TermRecord),
    /// A view was opened.
    View(ViewRecord),
    /// A step was committed.
    Commit(CommitRecord),
    /// A step was committed in an earlier term; the journal lost its record with the host, and a member that had applied
    /// it brought it back.
    Adopted(CommitRecord),
    /// A version is durable.
    Version {
        /// Its step.
        step: u64,
        /// Its state digest.
        digest: [u8; 32],
    },
    /// History goes back: commits of later steps no longer count. What was committed must come again with the
    /// same hashes, unless it is void.
    Rewind {
        /// The step of the state that the run goes back to.
        to_step: u64,
        /// A replica was wrong: hashes and versions beyond `to_step` count for nothing.
        void: bool,
        /// Why.
        reason: String,
    },
    /// The run was asked to stop.
    Stop {
        /// Who asked.
        reason: String,
    },
    /// The run ended in this term; a resumed run goes on in the next.
    End(EndRecord),
}
