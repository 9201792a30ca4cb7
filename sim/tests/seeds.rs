//! A fixed set of seeds, and what a seed is worth.

use sim::{Life, Scenario, World, run_seed};

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
    // The seeds would show nothing if nothing went wrong in them.
    assert!(
        lives > 5_000 && failed > 30 && killed > 60 && interrupted > 60,
        "{lives} {failed} {killed} {interrupted}"
    );
}

/// Seeds that once broke something, in the form that the scenarios had then, and what they found.
const FOUND: &[(u64, &str)] = &[
    (2_399, "a donor was asked for its state while it was still building its model after a rejoin"),
    (2_558, "the broken upload of a lost worker was taken for the failure of its successor's first version"),
    (4_444, "a lost commit was told to members before the journal had it back"),
    (5_202, "a worker that came back was refused for the place that its own dead stream still held"),
    (18_771, "a second donor was asked for a state that it was just about to apply"),
];

#[test]
fn seeds_that_ever_failed_hold() {
    for (seed, found) in FOUND {
        run_seed(*seed, false).unwrap_or_else(|violation| panic!("{found}: {violation}"));
    }
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
    world.live(&Life::quiet(2)).expect("a quiet life");
    assert!(world.trace().len() > 50);
}
