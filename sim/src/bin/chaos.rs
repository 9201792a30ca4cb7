//! Chaos on real processes, from seeds; a failure prints all that happened and keeps the folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sim::real::{ChaosRuns, Programs, by_kind, restart_times};

/// Chaos on real processes: runs of the real programs under random faults must end with the quiet run's digest.
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Arguments {
    /// Begin no further seed after so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// How many seeds to run; without it and without --minutes, one.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the programs coordinator and worker are, if not beside this one.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Keep the folders of runs that went well, too.
    #[arg(long)]
    keep: bool,
    /// How long faults strike in a run, in seconds; then it is left in peace to complete.
    #[arg(long, default_value_t = 15)]
    strikes: u64,
    /// Measure what faults cost on this machine instead, and print a table.
    #[arg(long)]
    figures: bool,
    /// How often each figure is measured.
    #[arg(long, default_value_t = 10, requires = "figures")]
    repetitions: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let programs = match &arguments.bin_dir {
        Some(dir) => Programs::within(dir)?,
        None => Programs::beside_own()?,
    };
    if arguments.figures {
        for line in restart_times(&programs, arguments.repetitions)? {
            println!("{line}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let in_time = || arguments.minutes.is_none_or(|minutes| began.elapsed().as_secs_f64() < 60.0 * minutes);
    let seeds = arguments.seeds.unwrap_or(if arguments.minutes.is_some() { u64::MAX } else { 1 });
    let mut storms = ChaosRuns::new(programs, arguments.keep);
    let mut faults: BTreeMap<&'static str, u32> = BTreeMap::new();
    let (mut survived, mut failed) = (0u64, Vec::new());
    for seed in (arguments.seed..=u64::MAX).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
        if !in_time() {
            break;
        }
        match storms.survive(seed, Duration::from_secs(arguments.strikes)) {
            Ok(run) => {
                println!("{run}");
                survived += 1;
                run.faults.iter().for_each(|(kind, count)| *faults.entry(kind).or_default() += count);
            }
            Err(failure) => {
                println!("{failure}");
                failed.push(seed);
            }
        }
    }
    let took = began.elapsed();
    println!("{survived} seeds survived in {took:.0?}: {}; failed: {failed:?}", by_kind(&faults));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
