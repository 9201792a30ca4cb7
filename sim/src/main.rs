//! Runs seeds of the simulation; a failure prints the seed that replays it.

use std::time::Instant;

use clap::Parser;

/// Deterministic simulation of a coordinator and its workers, with faults.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed; alone, the only one.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints everything that happened in a run that fails.
    #[arg(long)]
    trace: bool,
    /// Prints a run that fails as values, with as few faults as still make it fail.
    #[arg(long)]
    case: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let is_one =
        arguments.seed.is_some() && !std::env::args().any(|argument| argument.starts_with("--seeds"));
    let first = arguments.seed.unwrap_or(0);
    let count = if is_one { 1 } else { arguments.seeds };
    let begin = Instant::now();
    let (mut lives, mut steps, mut broken) = (0, 0, 0u64);
    let (mut tainted, mut given_up, mut stood_still_ms) = (0, 0, (0, 0));
    for seed in first..first.saturating_add(count) {
        match sim::run_seed(seed, arguments.trace) {
            Ok(report) => {
                lives += report.lives;
                steps += report.steps;
                tainted += report.tainted;
                given_up += report.given_up;
                stood_still_ms = stood_still_ms.max((report.stood_still_ms, seed));
            }
            Err(violation) => {
                broken += 1;
                violation.trace.iter().for_each(|line| println!("{line}"));
                println!("{violation}");
                if let Some(case) = arguments.case.then(|| sim::case(seed)).flatten() {
                    println!("{case}");
                }
            }
        }
    }
    let took = begin.elapsed();
    println!("{count} seeds, {lives} lives, {steps} steps in {took:.1?}; {broken} broken");
    println!("a flipped bit came into {tainted}, of which {given_up} can't be completed and say so");
    let (ms, seed) = stood_still_ms;
    println!("the longest that nothing was committed while nothing was wrong: {ms} ms (seed {seed})");
    anyhow::ensure!(broken == 0, "{broken} of {count} seeds broke an invariant");
    Ok(())
}
