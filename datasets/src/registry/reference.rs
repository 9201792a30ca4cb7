//! References to versions: `NAME`, `NAME@3`, `NAME@1e9fc7a9`.

use std::fmt;
use std::str::FromStr;

use super::error::RegistryError;

/// Maximum length of a name, which becomes a folder.
const NAME_MAX: usize = 100;
/// Maximum digits of a version number; longer ones are digest prefixes.
const NUMBER_DIGITS_MAX: usize = 7;
/// Minimum length of a digest prefix, as in a run's record.
const PREFIX_MIN: usize = 8;
/// Length of an MD5 in hexadecimal.
pub(super) const MD5_CHARACTERS: usize = 32;

/// A dataset and one of its versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Name of the dataset.
    pub name: String,
    /// The version, by number, digest or age.
    pub version: Version,
}

/// Selects a version of a dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// The version added last.
    Newest,
    /// By number, from 1.
    Number(u64),
    /// By a digest prefix of at least 8 characters.
    Digest(String),
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        check_name(name)?;
        let version = match version {
            None => Version::Newest,
            Some(version) => version_of(version).ok_or_else(|| {
                RegistryError::Misused(format!(
                    "{text:?}: {version:?} is no version: expected a number such as {name}@1, or the first 8 or more \
                     characters of a digest"
                ))
            })?,
        };
        Ok(Self { name: name.to_owned(), version })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Newest => f.write_str(&self.name),
            Version::Number(number) => write!(f, "{}@{number}", self.name),
            Version::Digest(prefix) => write!(f, "{}@{prefix}", self.name),
        }
    }
}

fn version_of(text: &str) -> Option<Version> {
    let digits = text.strip_prefix('v').unwrap_or(text);
    if !digits.is_empty()
        && digits.len() <= NUMBER_DIGITS_MAX
        && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return digits.parse().ok().filter(|number| *number > 0).map(Version::Number);
    }
    let hex = text.strip_suffix(".dir").unwrap_or(text);
    let is_digest = (PREFIX_MIN..=MD5_CHARACTERS).contains(&hex.len())
        && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && (hex.len() == text.len() || hex.len() == MD5_CHARACTERS);
    is_digest.then(|| Version::Digest(text.to_owned()))
}

/// Checks a dataset's name: it becomes a folder, and precedes an `@`.
pub(crate) fn check_name(name: &str) -> Result<(), RegistryError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= NAME_MAX && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(RegistryError::Misused(format!(
        "{name:?} can't be the name of a dataset: expected 1 to {NAME_MAX} of a-z, A-Z, 0-9, '-', '_' and '.', the \
         first one a letter or a digit"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, name: &str, version: Version) {
        let reference: Reference = text.parse().expect("a reference");
        assert_eq!(reference, Reference { name: name.to_owned(), version }, "{text:?}");
    }

    #[test]
    fn a_version_is_a_number_or_a_digest() {
        check("digits", "digits", Version::Newest);
        check("digits@3", "digits", Version::Number(3));
        check("digits@v3", "digits", Version::Number(3));
        check("digits@1234567", "digits", Version::Number(1_234_567));
        check("digits@12345678", "digits", Version::Digest("12345678".to_owned()));
        check("a.b-c_9@1e9fc7a9", "a.b-c_9", Version::Digest("1e9fc7a9".to_owned()));
        let whole = "41f72c8eb3951c08029e91562c1ab389.dir";
        check(&format!("d@{whole}"), "d", Version::Digest(whole.to_owned()));
    }

    #[test]
    fn what_is_no_reference_says_what_is_expected() {
        for text in
            ["", "@1", "a b", "../x", "-x", ".x", "a/b", "d@", "d@0", "d@1e9f", "d@1E9FC7A9", "d@x", "d@1@2"]
        {
            let error = text.parse::<Reference>().expect_err(text);
            assert_eq!(error.exit_code(), 2, "{text:?}");
            assert!(error.to_string().contains("expected"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_comes_back(text in ".{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().expect("its own text");
                prop_assert_eq!(again, reference);
            }
        }
    }
}
