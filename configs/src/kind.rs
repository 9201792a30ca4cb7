//! Kinds of values.

use std::str::FromStr;

use toml::Value;

use crate::error::nearest;
use crate::values::{Devices, Every, Span};

/// The largest integer that TOML can represent.
pub const ANY: u64 = i64::MAX as u64;

/// The values that a key allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A string.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A path, as a string.
    Path,
    /// A boolean.
    Flag,
    /// An integer from the first to the second, inclusive; [`ANY`] as the second means no upper bound.
    Count(u64, u64),
    /// A finite number, integer or float.
    Number,
    /// A list of strings.
    Texts,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// A list of exactly the first number of integers, each from 1 to the second.
    Counts(usize, u64),
    /// A list of integers of any length, each from 1 to this.
    CountList(u64),
    /// One of these integers.
    Choice(&'static [u64]),
    /// A list of finite numbers, of any length.
    Numbers,
    /// A list of finite numbers, of any length, or one of these words.
    NumbersOr(&'static [&'static str]),
    /// A table from names to these words.
    Table(&'static [&'static str]),
    /// One ASCII character.
    Character,
    /// A duration: "3s".
    Span,
    /// An interval: "1 epochs".
    Every,
    /// One or more devices: "wgpu:0, wgpu:1".
    Devices,
}

impl Kind {
    /// Describes the allowed values.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Word(words) if words.len() == 1 => format!("{} (nothing else yet)", listed(words)),
            Self::Word(words) => format!("one of {}", listed(words)),
            Self::Path => "a path, as a string".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Count(least, ANY) => format!("a whole number, at least {least}"),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Number => "a finite number".to_owned(),
            Self::Texts => "a list of strings".to_owned(),
            Self::Words(words) if words.len() == 1 => {
                format!("a list of {} (nothing else yet)", listed(words))
            }
            Self::Words(words) => format!("a list of any of {}", listed(words)),
            Self::Counts(length, most) => format!("a list of {length} whole numbers, each from 1 to {most}"),
            Self::CountList(most) => format!("a list of whole numbers, each from 1 to {most}"),
            Self::Choice(counts) => {
                format!("one of {}", counts.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Numbers => "a list of finite numbers".to_owned(),
            Self::NumbersOr(words) => format!("a list of finite numbers, or {}", listed(words)),
            Self::Table(words) => format!("a table from names to one of {}", listed(words)),
            Self::Character => "a single ASCII character".to_owned(),
            Self::Span => Span::FORM.to_owned(),
            Self::Every => Every::FORM.to_owned(),
            Self::Devices => Devices::FORM.to_owned(),
        }
    }

    /// Whether a value is allowed.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        let every =
            |admits: &dyn Fn(&Value) -> bool| value.as_array().is_some_and(|list| list.iter().all(admits));
        match self {
            Self::Text | Self::Path => value.is_str(),
            Self::Word(words) => is_word(value, words),
            Self::Flag => value.is_bool(),
            Self::Count(least, most) => is_whole(value, least, most),
            Self::Number => is_number(value),
            Self::Texts => every(&Value::is_str),
            Self::Words(words) => every(&|word| is_word(word, words)),
            Self::Counts(length, most) => {
                every(&|count| is_whole(count, 1, most)) && value.as_array().map(Vec::len) == Some(length)
            }
            Self::CountList(most) => every(&|count| is_whole(count, 1, most)),
            Self::Choice(counts) => counts.iter().any(|count| is_whole(value, *count, *count)),
            Self::Numbers => every(&is_number),
            Self::NumbersOr(words) => every(&is_number) || is_word(value, words),
            Self::Table(words) => {
                value.as_table().is_some_and(|table| table.values().all(|word| is_word(word, words)))
            }
            Self::Character => value.as_str().is_some_and(|text| text.len() == 1),
            Self::Span => reads_as::<Span>(value),
            Self::Every => reads_as::<Every>(value),
            Self::Devices => reads_as::<Devices>(value),
        }
    }

    /// The allowed word closest to an invalid value.
    #[must_use]
    pub fn nearest_word(self, value: &Value) -> Option<&'static str> {
        match self {
            Self::Word(words) | Self::NumbersOr(words) => nearest(value.as_str()?, words.iter().copied()),
            _ => None,
        }
    }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

fn is_word(value: &Value, words: &[&str]) -> bool {
    value.as_str().is_some_and(|word| words.contains(&word))
}

fn is_number(value: &Value) -> bool {
    value.is_integer() || value.as_float().is_some_and(f64::is_finite)
}

fn is_whole(value: &Value, least: u64, most: u64) -> bool {
    value
        .as_integer()
        .and_then(|number| u64::try_from(number).ok())
        .is_some_and(|number| (least..=most).contains(&number))
}

fn reads_as<T: FromStr>(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<T>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, good: &[&str], bad: &[&str]) {
        let admits = |text: &&str| {
            let table: toml::Table = format!("v = {text}").parse().expect("TOML");
            kind.admits(&table["v"])
        };
        for text in good {
            assert!(admits(text), "{kind:?} refuses {text}");
        }
        for text in bad {
            assert!(!admits(text), "{kind:?} admits {text}");
        }
    }

    #[test]
    fn each_kind_admits_what_it_says() {
        check(Kind::Count(1, 9), &["1", "9"], &["0", "10", "-1", "1.0", "\"1\"", "true"]);
        check(Kind::Count(0, ANY), &["0", "9223372036854775807"], &["-1"]);
        check(Kind::Number, &["1", "-0.5", "1e-8"], &["nan", "inf", "\"1\""]);
        check(Kind::Word(&["a", "b"]), &["\"a\""], &["\"c\"", "\"A\"", "1", "[\"a\"]"]);
        check(Kind::Words(&["a"]), &["[]", "[\"a\", \"a\"]"], &["\"a\"", "[\"b\"]", "[1]"]);
        check(Kind::Counts(3, 9), &["[1, 9, 3]"], &["[1, 2]", "[1, 2, 0]", "[1, 2, 10]", "3"]);
        check(Kind::CountList(9), &["[]", "[9]"], &["[0]", "[10]", "[1.5]", "1"]);
        check(Kind::Choice(&[8, 14]), &["8", "14"], &["9", "8.0", "\"8\"", "[8]"]);
        check(Kind::Numbers, &["[]", "[1, 0.5, -2]"], &["[nan]", "[\"1\"]", "1"]);
        check(Kind::NumbersOr(&["x"]), &["[]", "[1, 0.5]", "\"x\""], &["[nan]", "\"y\"", "[\"x\"]", "1"]);
        check(
            Kind::Table(&["x"]),
            &["{}", "{ a = \"x\" }"],
            &["{ a = \"y\" }", "[]", "{ a = { b = \"x\" } }"],
        );
        check(Kind::Character, &["\";\"", "\"\\t\""], &["\"\"", "\";;\"", "\"é\"", "1"]);
        check(
            Kind::Devices,
            &["\"auto\"", "\"cpu\"", "\"wgpu:0, wgpu:1\"", "\"cuda\""],
            &["\"\"", "\"gpu\"", "\"cpu:1\"", "\"wgpu:x\"", "\"cpu,\"", "\"auto, cpu\"", "\"cuda:\"", "1"],
        );
    }
}
