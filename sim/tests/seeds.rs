//! A fixed set of seeds, and their reproducibility.

use sim::{Incarnation, Scenario, World, run_seed};

#[test]
fn two_thousand_seeds_hold_every_invariant() {
    let (mut lives, mut failed, mut killed, mut interrupted) = (0, 0, 0, 0);
    for seed in 0..2_000 {
        match run_seed(seed, false) {
            Ok(report) => {
                lives += report.lives;
                failed += report.failed;
                killed += report.killed;
                interrupted += report.interrupted;
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    // The seeds would prove nothing if nothing went wrong in them.
    assert!(
        lives > 5_000 && failed > 20 && killed > 60 && interrupted > 40,
        "{lives} {failed} {killed} {interrupted}"
    );
}

#[test]
fn a_seed_is_the_same_run_event_for_event() {
    for seed in [1, 7, 19] {
        let scenario = Scenario::of(seed);
        let trace = || {
            let mut world = World::new(&scenario, None, None);
            world.start_trace();
            for life in scenario.lives() {
                world.live(&life).expect("a seed that holds");
            }
            world.trace().to_vec()
        };
        assert!(trace() == trace(), "seed {seed} went two ways");
    }
}

#[test]
fn the_trace_is_of_something() {
    let scenario = Scenario::of(1);
    let mut world = World::new(&scenario, None, None);
    world.start_trace();
    world.live(&Incarnation::quiet(2)).expect("a quiet life");
    assert!(world.trace().len() > 50);
}
