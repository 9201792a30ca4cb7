//! Configuration errors: the key, its position, its value, what is allowed, and the closest valid key.

use std::fmt;

/// A single error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Position: `run.toml:12`, or `--set train.epochs=x`.
    pub place: String,
    /// The key, its value, and how to fix it.
    pub message: String,
}

/// Why a configuration can't be used: all errors found, in file order, then those of the flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Never empty.
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

/// Case-insensitive similarity of a word and a candidate, from 0 to 1.
pub(crate) fn likeness(word: &str, candidate: &str) -> f64 {
    /// Similarity of a single typo in a short word, which Jaro-Winkler rates too low.
    const SLIP: f64 = 0.85;
    let (word, candidate) = (word.to_lowercase(), candidate.to_lowercase());
    let by_letters = strsim::jaro_winkler(&word, &candidate);
    let is_slip = word.len() > 2 && strsim::damerau_levenshtein(&word, &candidate) == 1;
    if is_slip { by_letters.max(SLIP) } else { by_letters }
}

/// The candidate closest to `word`, if it is close enough to be a typo.
///
/// ```
/// assert_eq!(configs::nearest("hiden", ["hidden", "dropout"].into_iter()), Some("hidden"));
/// assert_eq!(configs::nearest("zzz", ["hidden", "dropout"].into_iter()), None);
/// ```
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: f64 = 0.7;
    // Longer words are no typos, and the comparison takes time proportional to the product of the lengths.
    const CHARS_MAX: usize = 100;
    if word.len() > CHARS_MAX {
        return None;
    }
    candidates
        .map(|candidate| (likeness(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// User input for a message: on one line, and clipped if long.
pub(crate) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut line: String =
        text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        line.push_str("...");
    }
    line
}
