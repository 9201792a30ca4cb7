//! Runs one seed: the quiet run for the expected results, then the run with all its incarnations.

use std::sync::Arc;

use protocol::coordinator::Outcome;
use protocol::messages::EndReason;

use crate::bug::Bug;
use crate::checkers::Reference;
use crate::incarnation::Incarnation;
use crate::scenario::Scenario;
use crate::world::{LifeEnd, World};

/// A violation that a checker found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed that replays the violation.
    pub seed: u64,
    /// The violated invariant and its evidence.
    pub message: String,
    /// The last events before the violation.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seed = self.seed;
        write!(
            f,
            "seed {seed}: {}\nreplay: cargo run --release -p sim -- --seed {seed} --trace",
            self.message
        )
    }
}

impl std::error::Error for Violation {}

/// Summary of a seed's run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// Committed steps of the run.
    pub steps: u64,
    /// Number of incarnations, the final quiet ones included.
    pub lives: usize,
    /// Incarnations that ended without completing the run.
    pub interrupted: usize,
    /// Failed incarnations.
    pub failed: usize,
    /// Killed coordinators.
    pub killed: usize,
    /// Runs affected by a flipped bit.
    pub tainted: usize,
    /// Tainted runs that can't be completed, as the journal contains effects of a flip; they report it.
    pub given_up: usize,
    /// The longest time without a commit after all faults were over, in virtual milliseconds.
    pub stood_still_ms: u64,
}

/// Results of a quiet single-worker run of the scenario.
///
/// # Errors
/// When a checker finds a violation, or the run doesn't complete.
pub fn reference(scenario: &Scenario) -> Result<Reference, Violation> {
    let mut alone = scenario.clone();
    alone.plan.min_workers = 1;
    let scenario = &alone;
    let mut world = World::new(scenario, None, None);
    let end = world.live(&Incarnation::quiet(1)).map_err(|message| violation(scenario, &message, &world))?;
    match (&end, world.to_reference()) {
        (LifeEnd::Finished(Outcome { reason: EndReason::Completed, .. }), Some(reference)) => Ok(reference),
        _ => Err(violation(scenario, &format!("the quiet run ended with {end:?}"), &world)),
    }
}

/// Runs a scenario through its incarnations against a reference; the last one must complete it.
///
/// # Errors
/// When a checker finds a violation.
pub fn run(
    scenario: &Scenario,
    lives: &[Incarnation],
    reference: Arc<Reference>,
    bug: Option<Bug>,
    trace: bool,
) -> Result<Report, Violation> {
    let mut world = World::new(scenario, Some(reference), bug);
    if trace {
        world.start_trace();
    }
    let mut report = Report { steps: scenario.plan.total_steps, ..Report::default() };
    let mut is_complete = false;
    for life in lives {
        let end = world.live(life).map_err(|message| violation(scenario, &message, &world))?;
        report.lives += 1;
        match end {
            LifeEnd::Killed => report.killed += 1,
            LifeEnd::WasComplete => is_complete = true,
            LifeEnd::Finished(outcome) => match outcome.reason {
                EndReason::Completed => is_complete = true,
                EndReason::Interrupted => report.interrupted += 1,
                EndReason::Failed => report.failed += 1,
            },
        }
    }
    report.tainted = usize::from(world.was_tainted());
    report.given_up = usize::from(!is_complete);
    report.stood_still_ms = world.stood_still_ms();
    // Each incarnation's end was checked already: a failed one had a valid reason.
    if is_complete || world.is_tainted() {
        Ok(report)
    } else {
        Err(violation(scenario, "the last life did not complete the run", &world))
    }
}

/// Runs everything that a seed determines.
///
/// # Errors
/// When a checker finds a violation.
pub fn run_seed(seed: u64, trace: bool) -> Result<Report, Violation> {
    let scenario = Scenario::of(seed);
    let reference = Arc::new(reference(&scenario)?);
    run(&scenario, &scenario.lives(), reference, None, trace)
}

fn violation(scenario: &Scenario, message: &str, world: &World<'_>) -> Violation {
    Violation { seed: scenario.seed, message: message.to_owned(), trace: world.trace().to_vec() }
}
