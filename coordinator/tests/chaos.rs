//! Real coordinators and workers under seeded faults: five fixed seeds; more by hand with the program `chaos` of
//! `sim`.

use std::path::Path;
use std::time::Duration;

use sim::real::{Programs, Storms};

/// Between them these seeds draw every kind of fault, and both models.
const SEEDS: [u64; 5] = [1, 2, 3, 5, 7];
/// Faults strike for so long; then the run is left in peace to complete.
const STRIKES: Duration = Duration::from_secs(8);

#[test]
fn runs_under_faults_complete_with_the_digest_of_a_quiet_run() {
    let built = Path::new(env!("CARGO_BIN_EXE_coordinator")).parent().expect("it lies in a folder");
    let programs = Programs::within(built).expect("both programs are built");
    let mut storms = Storms::new(programs, false);
    let mut struck = 0;
    for seed in SEEDS {
        let survived = storms.survive(seed, STRIKES).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{survived}");
        struck += survived.faults.values().sum::<u32>();
    }
    assert!(struck > 20, "only {struck} faults struck: the runs are too short to mean anything");
}
