//! The outcome of a run under faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// Evidence of faults in a run's record: a name, the kind of event (empty for any kind), and a text that the event
/// contains.
const EVIDENCE: [(&str, &str, &str); 7] = [
    ("a stream that ended", "left", "its control stream"),
    ("a lease that ran out", "left", "nothing was heard from it"),
    ("a worker that left", "left", "it leaves: SIGTERM"),
    ("a member that was too late or cut off", "retry", "is gone"),
    ("a guest that joined", "joined", "guest-"),
    ("a coordinator that was paused", "warning", "was paused for"),
    ("a coordinator that was killed", "restart", "started again"),
];

/// All kinds of evidence that run.json files may contain.
pub fn kinds_of_evidence() -> impl Iterator<Item = &'static str> {
    EVIDENCE.iter().map(|(what, ..)| *what)
}

/// The evidence in a run.json.
pub(super) fn evidence(record: &Value) -> BTreeSet<&'static str> {
    let events = record["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let says = |event: &Value, kind: &str, text: &str| {
        (kind.is_empty() || event["event"] == kind)
            && event["text"].as_str().is_some_and(|said| said.contains(text))
    };
    let is_there = |(_, kind, text): &(_, &str, &str)| events.iter().any(|event| says(event, kind, text));
    EVIDENCE.iter().filter(|sought| is_there(sought)).map(|(what, ..)| *what).collect()
}

/// A run that completed with the right digest under faults.
#[derive(Clone, Debug)]
pub struct Survived {
    pub(super) seed: u64,
    pub(super) model: &'static str,
    /// The number of injected faults by kind.
    pub faults: BTreeMap<&'static str, u32>,
    pub(super) views: u64,
    pub(super) retries: u64,
    pub(super) seconds: f64,
    /// The evidence found in run.json, out of [`kinds_of_evidence`].
    pub evidence: BTreeSet<&'static str>,
}

impl fmt::Display for Survived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, model, views, retries, seconds, .. } = self;
        write!(f, "seed {seed} ({model}): {}; ", by_kind(&self.faults))?;
        write!(f, "{views} views, {retries} retries, {seconds:.1} s, digest ok")
    }
}

/// Formats counts such as `3 kill, 1 stop`.
#[must_use]
pub fn by_kind(faults: &BTreeMap<&'static str, u32>) -> String {
    let parts: Vec<String> = faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if parts.is_empty() { "no faults".to_owned() } else { parts.join(", ") }
}

/// A failed run, with everything known about it.
#[derive(Debug)]
pub struct Failure {
    pub(super) seed: u64,
    pub(super) strikes: Duration,
    pub(super) why: String,
    pub(super) events: Vec<String>,
    pub(super) said: String,
    pub(super) folder: String,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} FAILED: {}", self.seed, self.why)?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        write!(f, "{}", self.said)?;
        if !self.folder.is_empty() {
            writeln!(f, "folder: {}", self.folder)?;
        }
        // The moments depend on the machine: reproducing may take several tries.
        let (seed, strikes) = (self.seed, self.strikes.as_secs());
        write!(
            f,
            "again: cargo run --release -p sim --bin chaos -- --bin-dir target/release --seed {seed} --strikes {strikes}"
        )
    }
}

impl Failure {
    pub(super) fn before_strikes(seed: u64, strikes: Duration, why: &anyhow::Error) -> Box<Self> {
        let (events, said, folder) = (Vec::new(), String::new(), String::new());
        Box::new(Self { seed, strikes, why: format!("before any fault: {why:#}"), events, said, folder })
    }
}
