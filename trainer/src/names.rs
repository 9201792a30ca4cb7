//! Name patterns that select parameters.

use crate::error::TrainerError;

/// Whether a name matches a pattern, in which * stands for any characters, including none.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The leftmost match is optimal: it leaves the most for the remaining parts.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// For each name, whether any pattern matches it.
///
/// # Errors
/// If a pattern matches no name: it must be misspelt. `key` is the configuration key, for the message.
pub fn matching(key: &str, patterns: &[String], names: &[&str]) -> Result<Vec<bool>, TrainerError> {
    let is_idle = |pattern: &&String| !names.iter().any(|name| matches(pattern, name));
    if let Some(pattern) = patterns.iter().find(is_idle) {
        return Err(TrainerError::Config(format!(
            "{key} has {pattern:?}, which means no parameter; there are {}",
            listed(names)
        )));
    }
    Ok(names.iter().map(|name| patterns.iter().any(|pattern| matches(pattern, name))).collect())
}

/// Maximum number of names in a message.
const SHOWN_MAX: usize = 20;

/// Comma-separated names, clipped if there are many.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).map(AsRef::as_ref).collect();
    let rest = names.len().saturating_sub(SHOWN_MAX);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", ""),
            ("*", "blocks.0.norm.gamma"),
            ("head.*", "head."),
            ("head.*", "head.weight"),
            ("*.bias", "hidden.0.bias"),
            ("blocks.*.norm*.g*", "blocks.11.norm2.gamma"),
            ("a*a", "aa"),
            ("*ab*ab", "abab"),
            ("a*b*c", "abbc"),
        ] {
            assert!(matches(pattern, name), "{pattern:?} means {name:?}");
        }
        for (pattern, name) in [
            ("a", "ab"),
            ("a", ""),
            ("", "a"),
            ("head.*", "ahead.x"),
            ("*.bias", "bias"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
        ] {
            assert!(!matches(pattern, name), "{pattern:?} doesn't mean {name:?}");
        }
    }

    /// Reference implementation: a star takes any number of characters.
    fn slowly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|taken| slowly(rest, &name[taken..])),
            Some((first, rest)) => {
                name.split_first().is_some_and(|(own, name)| own == first && slowly(rest, name))
            }
        }
    }

    proptest! {
        #[test]
        fn as_by_the_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &name), slowly(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn a_pattern_that_means_nothing_is_refused() {
        let names = ["hidden.0.weight", "output.weight"];
        let patterns = |all: &[&str]| all.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        assert_eq!(matching("init.freeze", &patterns(&["hidden*"]), &names).ok(), Some(vec![true, false]));
        assert_eq!(matching("init.freeze", &[], &names).ok(), Some(vec![false, false]));
        let said = matching("init.freeze", &patterns(&["hiden*"]), &names).map_err(|error| error.to_string());
        let expected =
            "init.freeze has \"hiden*\", which means no parameter; there are hidden.0.weight, output.weight";
        assert_eq!(said, Err(expected.to_owned()));
    }
}
