//! Fits names and values into MLflow's limits (its `utils/validation.py`, release 3.17).

/// Maximum characters of a key.
const KEY_CHARS_MAX: usize = 250;
/// Maximum characters of a parameter's value.
pub(super) const PARAM_CHARS_MAX: usize = 6_000;
/// Maximum characters of a tag's value.
pub(super) const TAG_CHARS_MAX: usize = 8_000;
/// Marks a truncated value.
const CUT: &str = "... (cut)";

/// A key that MLflow accepts: letters, digits, `_-. :/`, a normalised path, at most 250 characters. A changed key ends
/// in a checksum of the original, so that distinct keys stay distinct.
pub(super) fn key(name: &str) -> String {
    let is_allowed = |c: char| c.is_alphanumeric() || "_-. :/".contains(c);
    // A normalised path has no empty components, `.` or `..`.
    let is_path = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if name.chars().all(is_allowed) && is_path && name.chars().count() <= KEY_CHARS_MAX {
        return name.to_owned();
    }
    let suffix = format!("_{:08x}", crc32fast::hash(name.as_bytes()));
    let plain: String = name.chars().map(|c| if is_allowed(c) { c } else { '_' }).collect();
    let parts: Vec<&str> = plain.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    let kept: String = parts.join("/").chars().take(KEY_CHARS_MAX - suffix.len()).collect();
    kept + &suffix
}

/// A value of at most `chars_max` characters, marked if truncated.
pub(super) fn value(text: &str, chars_max: usize) -> String {
    if text.chars().nth(chars_max).is_none() {
        return text.to_owned();
    }
    text.chars().take(chars_max - CUT.len()).chain(CUT.chars()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_allowed_stays_and_what_is_not_stays_apart() {
        for good in ["train/loss", "workers/worker-0/data_ms", "recall/é a:b", "a.b"] {
            assert_eq!(key(good), good);
        }
        let bad = ["a?b", "a!b", "a//b", "/a/b", "a/../b", "", ".", "a/"];
        let keys: BTreeSet<String> = bad.iter().map(|name| key(name)).collect();
        assert_eq!(keys.len(), bad.len(), "{keys:?}");
        assert!(key("a?b").starts_with("a_b_"));
    }

    proptest! {
        #[test]
        fn any_name_becomes_a_key(name in "\\PC{0,400}") {
            let key = key(&name);
            prop_assert!((1..=KEY_CHARS_MAX).contains(&key.chars().count()));
            prop_assert!(key.split('/').all(|part| !matches!(part, "" | "." | "..")), "{}", key);
            prop_assert_eq!(super::key(&key), key);
        }

        #[test]
        fn any_value_fits(text in "\\PC{0,60}") {
            let cut = value(&text, 30);
            prop_assert!(cut.chars().count() <= 30);
            prop_assert_eq!(cut == text, text.chars().count() <= 30);
        }
    }
}
