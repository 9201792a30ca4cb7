//! Real coordinators and workers under seeded faults: five fixed seeds; the program `chaos` of `sim` runs more by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use sim::real::{ChaosRuns, Programs, kinds_of_evidence, kinds_of_faults};

/// Together these seeds draw every kind of fault several times, and both models.
const SEEDS: [u64; 5] = [258, 196, 105, 83, 310];
/// For how long faults are injected; then the run is left undisturbed to complete.
const STRIKES: Duration = Duration::from_secs(8);

#[test]
fn runs_under_faults_complete_with_the_digest_of_a_quiet_run() {
    let built = Path::new(env!("CARGO_BIN_EXE_coordinator")).parent().expect("it lies in a folder");
    let programs = Programs::within(built).expect("both programs are built");
    let mut storms = ChaosRuns::new(programs, false);
    let mut struck: BTreeMap<&str, u32> = BTreeMap::new();
    let mut evidence = BTreeSet::new();
    for seed in SEEDS {
        let survived = storms.survive(seed, STRIKES).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{survived}");
        evidence.extend(survived.evidence);
        survived.faults.iter().for_each(|(kind, count)| *struck.entry(kind).or_default() += count);
    }
    // Faults without a target would prove nothing, and neither would a record that doesn't report them.
    let missing: Vec<_> = kinds_of_faults().filter(|kind| !struck.contains_key(kind)).collect();
    assert!(missing.is_empty(), "no such fault struck: {missing:?}; those that did: {struck:?}");
    let untold: Vec<_> = kinds_of_evidence().filter(|kind| !evidence.contains(kind)).collect();
    assert!(untold.is_empty(), "no run.json tells of: {untold:?}");
}
