//! Bugs that the checkers must catch, planted around the machines and never in them: the simulation's drivers alter
//! inputs or outputs so that a machine behaves as if a check or a rule were missing.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The coordinator commits at the first Ready (Readies of the other members are forged).
    CommitsWithoutAllReady,
    /// The coordinator accepts an old Ready for the current view and step.
    IgnoresKeyOfReady,
    /// A worker accepts an old term's Commit for the one that it waits for.
    AcceptsOldTerm,
    /// The reducer adds partials in the order of their arrival.
    SumsInArrivalOrder,
    /// The reducer adds in place over a partial that its sender still holds and resends on request.
    SumsInPlace,
    /// An absent child of the tree is added as +0.0 instead of being left out.
    AddsAbsentAsZero,
    /// After a resume the first step's samples are those of the step before.
    RepeatsSamplesOnResume,
    /// The driver appends behind a torn tail.
    LeavesTornTail,
    /// Commits before a rewind are forgotten, so that a deviating replay goes unnoticed.
    IgnoresReplayedHashes,
    /// Adam's t restarts at a resume.
    ForgetsAppliedSteps,
    /// Neither the store nor the loading worker compares a checkpoint with its manifest.
    SkipsVersionChecks,
    /// A checkpoint replaces the one of the same step, whatever digest the journal requires.
    ReplacesVersions,
    /// A rejoining worker doesn't claim its prepared step.
    ForgetsPrepared,
    /// Reduced slices of a step that a member hasn't begun are dropped instead of kept.
    DropsEarlyFrames,
    /// Reduced slices from a view that gave the step up are kept for the next view.
    KeepsSlicesOverAbort,
    /// A paused coordinator processes its deadlines as if it had been awake.
    TrustsTimeAfterPause,
    /// The coordinator treats a silent member as alive.
    KeepsTheSilent,
    /// A member recomputes all of its microbatches when another view retries a step.
    ForgetsPartials,
    /// The coordinator gets the confirmation of a record while the disk still hangs.
    CommitsBeforeItIsWritten,
    /// The coordinator's driver reports failed exports as written.
    ForgetsFailedExports,
    /// A worker claims to have the same numerics as the others.
    HidesNumerics,
    /// A worker reports non-finite values as finite.
    TrustsNan,
    /// The data plane keeps dead connections.
    KeepsDeadConnections,
    /// Members' state checks and hashes are not compared (all are made equal).
    IgnoresDisagreement,
}
