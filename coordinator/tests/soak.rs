//! No growth: after a warm-up no process of a run takes more resources, however long the run is and however many
//! workers join and leave.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use sim::real::Usage;
use support::{Place, until_within, wait, workers_of};

/// The allowed growth of a process from its warm-up to the end. 10,000 steps that each leaked a kilobyte would add up
/// to 10 MiB; glibc returns freed memory late and in part, which shows as a few MiB that come and go.
const GROWTH_MAX: Usage = Usage { resident_bytes: 8 << 20, files: 4, threads: 4 };
/// Steps after which a run has allocated everything that it keeps: buffers, the allocator's arenas, some hundred
/// metrics.
const WARM_UP_STEPS: u64 = 2_000;
const STEPS: u64 = 10_000;
/// For a model of two slices. By then a leak of one buffer per step amounts to gigabytes.
const WIDE_STEPS: u64 = 400;
const WIDE_WARM_UP_STEPS: u64 = 60;
/// Two slice buffers of 4 MiB may be in flight at the end that weren't after the warm-up, at each of two members.
const WIDE_GROWTH_MAX: Usage = Usage { resident_bytes: 32 << 20, ..GROWTH_MAX };
/// Number of workers that join and are killed.
const LOSSES: u64 = 200;
/// Number of concurrent ones.
const AT_ONCE: u64 = 5;
/// The first ones are the warm-up: they allocate threads' arenas and the record's lists.
const WARM_UP_LOSSES: u64 = 40;
/// A lost worker permanently leaves its line in run.json, its machine's facts and the events of its joining and
/// leaving: a few kilobytes, for up to a thousand workers.
const LOSSES_GROWTH_MAX: Usage = Usage { resident_bytes: 12 << 20, ..GROWTH_MAX };

/// Timeout of a goal: ten thousand steps take a minute or two on a busy machine with two cores.
const DEADLINE: Duration = Duration::from_secs(600);

/// Occasional evaluations and checkpoints, as in real runs.
const QUIET: [&str; 6] = [
    "--set",
    "train.evaluate_every=100",
    "--set",
    "checkpoint.every=1000 steps",
    "--set",
    "checkpoint.keep=3",
];

/// The last step in metrics.jsonl; reads only the end, as the file is long by then.
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

/// The usage of the coordinator and its workers, by name.
fn usages(coordinator: u32) -> BTreeMap<String, Usage> {
    let own = [("the coordinator".to_owned(), coordinator)].into_iter();
    let workers = workers_of(coordinator).into_iter().map(|pid| (format!("worker {pid}"), pid));
    own.chain(workers).filter_map(|(name, pid)| Some((name, Usage::of(pid)?))).collect()
}

/// The permanent usage of each process. Fluctuating memory is not growth: the minimum of several samples counts, since
/// a leak shows in all of them. No event reports that an allocator has returned memory, so the samples are spread over
/// a fifth of a second; on a busier machine they are further apart, which can only lower the minimum.
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

/// Compares a run of this many steps after its warm-up with the same run before its end.
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

/// The members of the view, according to `coordinator status`.
fn in_view(place: &Place) -> Vec<String> {
    let output = wait(place.command(&["status", "--output", "json"]).spawn().expect("started"));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let inside = members.into_iter().filter(|member| member["state"] == "in the view");
    inside.filter_map(|member| member["name"].as_str().map(str::to_owned)).collect()
}
