//! Selects a version of a run, by its step or by a word.

use std::str::FromStr;

/// Selects a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionSelector {
    /// The newest intact version.
    Newest,
    /// The version with the best value of the metric `checkpoint.best`.
    Best,
    /// The version of this step.
    Step(u64),
}

impl FromStr for VersionSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => Ok(Self::Newest),
            "best" => Ok(Self::Best),
            step => step.parse().map(Self::Step).map_err(|_| {
                format!("{step:?} is no version; allowed: a step (a whole number), best, newest")
            }),
        }
    }
}
