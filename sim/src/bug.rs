//! Bugs that the checkers must catch, planted around the machines and never in them: the simulation's drivers
//! alter what goes in or comes out so that a machine behaves as if the check or the rule weren't there.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The coordinator commits at the first Ready (Readies of the other members are forged).
    CommitsWithoutAllReady,
    /// The coordinator takes an old Ready for one of the current view and step.
    IgnoresKeyOfReady,
    /// A worker takes an old term's Commit for the one that it waits for.
    AcceptsOldTerm,
    /// The reducer adds partials in the order of their arrival.
    SumsInArrivalOrder,
    /// The reducer adds in place over a partial that its sender still holds and sends again when asked to.
    SumsInPlace,
    /// An absent child of the tree is added as +0.0 instead of being left out.
    AddsAbsentAsZero,
    /// After a resume the first step's samples are those of the step before.
    RepeatsSamplesOnResume,
    /// The driver appends behind a torn tail.
    LeavesTornTail,
    /// What was committed before a rewind is forgotten, so that another replay goes unnoticed.
    IgnoresReplayedHashes,
    /// Adam's t begins anew at a resume.
    ForgetsAppliedSteps,
    /// Neither the store nor the loading worker holds a version against its manifest.
    SkipsVersionChecks,
    /// A version takes the place of the one of the same step, whatever the journal says that it must be.
    ReplacesVersions,
    /// A worker that joins again doesn't say what it is prepared for.
    ForgetsPrepared,
    /// Reduced slices of a step that a member hasn't begun are dropped instead of kept.
    DropsEarlyFrames,
    /// What was reduced of a step in a view that gave it up is kept for the next view.
    KeepsSlicesOverAbort,
    /// A coordinator that was paused goes through its deadlines as if it had been awake.
    TrustsTimeAfterPause,
    /// The coordinator takes a member that says nothing for one that lives.
    KeepsTheSilent,
    /// A member computes all of its microbatches again when a step is tried again in another view.
    ForgetsPartials,
    /// The coordinator is told that a record is written while the disk still hangs.
    CommitsBeforeItIsWritten,
    /// The coordinator's driver takes exports that failed for those that are in place.
    ForgetsFailedExports,
    /// A worker says that its numerics are those of the others.
    HidesNumerics,
    /// A worker takes what isn't finite for finite.
    TrustsNan,
    /// The data plane keeps connections that are gone.
    KeepsDeadConnections,
    /// Members' state checks and hashes are not compared (all are made equal).
    IgnoresDisagreement,
}
