//! What is wrong with a configuration: the key, the place, the value, what is allowed, and the nearest right key.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where: `run.toml:12`, or `--set train.epochs=x`.
    pub place: String,
    /// What, with key, value and the way out.
    pub message: String,
}

/// Why a configuration can't be used. All problems that were found, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(crate) fn one(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { problems: vec![Problem { place: place.into(), message: message.into() }] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let break_before = if index > 0 { "\n" } else { "" };
            write!(f, "{break_before}{}: {}", problem.place, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The nearest of the candidates, if it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: f64 = 0.7;
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
