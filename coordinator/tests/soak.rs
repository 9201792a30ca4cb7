//! Nothing grows: after a warm-up no process of a run holds more of its machine, however long the run is and however many
//! workers come and go.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use sim::real::Usage;
use support::{Place, until_within, wait, workers_of};

/// What a process may hold more at the end than after its warm-up. 10,000 steps that each kept no more than a kilobyte
/// would be 10 MiB; glibc gives freed memory back late and in part, which shows as a few MiB that come and go.
const GROWTH_MAX: Usage = Usage { resident_bytes: 8 << 20, files: 4, threads: 4 };
/// Steps after which everything has been taken that a run keeps: buffers, the allocator's arenas, some hundred metrics.
const WARM_UP_STEPS: u64 = 2_000;
const STEPS: u64 = 10_000;
/// Of a model of two slices. A leak of a buffer each step is gigabytes by then.
const WIDE_STEPS: u64 = 400;
const WIDE_WARM_UP_STEPS: u64 = 60;
/// Two slice buffers of 4 MiB may be in flight at the end that weren't after the warm-up, at each of two members.
const WIDE_GROWTH_MAX: Usage = Usage { resident_bytes: 32 << 20, ..GROWTH_MAX };
/// Workers that come and are killed.
const LOSSES: u64 = 200;
/// So many at once.
const AT_ONCE: u64 = 5;
/// The first ones are the warm-up: threads' arenas and the record's lists come with them.
const WARM_UP_LOSSES: u64 = 40;
/// What is kept for good of a worker that was lost is its line in run.json, its machine's facts and the events of its
/// coming and going: a few kilobytes, up to a thousand workers.
const LOSSES_GROWTH_MAX: Usage = Usage { resident_bytes: 12 << 20, ..GROWTH_MAX };

/// Longest that a goal may take: ten thousand steps are a minute or two on a busy machine of two cores.
const DEADLINE: Duration = Duration::from_secs(600);

/// Evaluations and versions now and then, as real runs have them.
const QUIET: [&str; 6] = [
    "--set",
    "train.evaluate_every=100",
    "--set",
    "checkpoint.every=1000 steps",
    "--set",
    "checkpoint.keep=3",
];

/// The last step in metrics.jsonl, of which only the end is read: the file is long by then.
fn step(place: &Place) -> u64 {
    let mut text = Vec::new();
    if let Ok(mut file) = std::fs::File::open(place.run_dir("small").join("metrics.jsonl")) {
        let length = file.metadata().map_or(0, |meta| meta.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(4_096)));
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    last.and_then(|line| line["step"].as_u64()).unwrap_or(0)
}

/// The coordinator and its workers, by name.
fn usages(coordinator: u32) -> BTreeMap<String, Usage> {
    let own = [("the coordinator".to_owned(), coordinator)].into_iter();
    let workers = workers_of(coordinator).into_iter().map(|pid| (format!("worker {pid}"), pid));
    own.chain(workers).filter_map(|(name, pid)| Some((name, Usage::of(pid)?))).collect()
}

/// What each holds for good by now. Memory that comes and goes is none that grows: the least of a few looks counts, as what is
/// leaked is there in all of them. No event says that an allocator has given memory back, so the looks are spread over a
/// fifth of a second; on a busier machine they are further apart, and the least is no greater for that.
fn settled(coordinator: u32) -> BTreeMap<String, Usage> {
    let mut least = usages(coordinator);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        for (name, now) in usages(coordinator) {
            let usage = least.entry(name).or_insert(now);
            *usage = Usage {
                resident_bytes: usage.resident_bytes.min(now.resident_bytes),
                files: usage.files.min(now.files),
                threads: usage.threads.min(now.threads),
            };
        }
    }
    least
}

fn assert_no_growth(before: &BTreeMap<String, Usage>, after: &BTreeMap<String, Usage>, bound: Usage) {
    for (name, after) in after {
        let before = before.get(name).unwrap_or_else(|| panic!("{name} was not there at the warm-up's end"));
        let excess = after.excess(*before, bound);
        assert!(excess.is_empty(), "{name} has grown: {excess}");
    }
}

/// A run of so many steps is looked at after its warm-up and before its end.
fn soak(place: &Place, more: &[&str], (warm_up, steps): (u64, u64), bound: Usage) {
    let epochs = format!("train.epochs={}", steps.div_ceil(5) * 2);
    let arguments = [&["--local-workers", "2", "--set", &epochs][..], &QUIET, more].concat();
    let run = place.coordinator(&arguments).spawn().expect("started");
    let reached = |what: &str, goal| {
        until_within(DEADLINE, what, || step(place) >= goal);
        settled(run.id())
    };
    let before = reached("the warm-up is over", warm_up);
    assert_eq!(before.len(), 3, "{before:?}");
    let after = reached("the run is long enough", steps);
    assert_no_growth(&before, &after, bound);
    support::signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
}

#[test]
fn ten_thousand_steps_keep_nothing() {
    soak(&Place::new(), &[], (WARM_UP_STEPS, STEPS), GROWTH_MAX);
}

/// The reducer's buffers are slices of 4 MiB.
#[test]
fn steps_of_a_model_of_two_slices_keep_nothing() {
    let wide = ["--set", "model.hidden=[1024, 1024]", "--set", "checkpoint.every=100000 steps"];
    soak(&Place::new(), &wide, (WIDE_WARM_UP_STEPS, WIDE_STEPS), WIDE_GROWTH_MAX);
}

#[test]
fn two_hundred_workers_that_come_and_are_killed_leave_nothing_behind() {
    let place = Place::new();
    let arguments = [&["--local-workers", "1", "--set", "train.epochs=1000000"][..], &QUIET].concat();
    let run = place.coordinator(&arguments).spawn().expect("started");
    until_within(DEADLINE, "the run is under way", || step(&place) > 100);
    let mut before = None;
    for first in (0..LOSSES).step_by(AT_ONCE as usize) {
        if first == WARM_UP_LOSSES {
            before = Some(settled(run.id()));
        }
        let names: Vec<String> = (first..first + AT_ONCE).map(|number| format!("guest-{number}")).collect();
        let mut guests: Vec<Child> = names.iter().map(|name| place.guest(name)).collect();
        until_within(DEADLINE, "the guests are in the view", || {
            let inside = in_view(&place);
            names.iter().all(|name| inside.contains(name))
        });
        for guest in &mut guests {
            guest.kill().expect("killed");
            guest.wait().expect("waited for");
        }
    }
    until_within(DEADLINE, "the last ones are gone", || in_view(&place).len() == 1);
    assert_no_growth(&before.expect("the warm-up"), &settled(run.id()), LOSSES_GROWTH_MAX);
    support::signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
}

/// The members of the view, as `coordinator status` says.
fn in_view(place: &Place) -> Vec<String> {
    let output = wait(place.command(&["status", "--output", "json"]).spawn().expect("started"));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let inside = members.into_iter().filter(|member| member["state"] == "in the view");
    inside.filter_map(|member| member["name"].as_str().map(str::to_owned)).collect()
}
