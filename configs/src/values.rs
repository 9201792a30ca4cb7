//! Values written as strings: durations, intervals and devices.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration, written as "500ms", "3s", "5m" or "2h".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

/// Interval between checkpoints: "10m", "200 steps" or "1 epochs".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Every {
    /// After this duration.
    Time(Span),
    /// After this many steps.
    Steps(u64),
    /// After this many epochs.
    Epochs(u64),
}

impl Span {
    pub(crate) const FORM: &str = "a span of time such as \"500ms\", \"3s\", \"5m\" or \"2h\"";

    /// Whole milliseconds, saturating.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_ms = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(Self::FORM.to_owned()),
        };
        let count: u64 = digits.parse().map_err(|_| Self::FORM.to_owned())?;
        let millis = count.checked_mul(unit_ms).ok_or("a shorter span of time")?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        match millis {
            0 => f.write_str("0s"),
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1_000) => write!(f, "{}s", millis / 1_000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

impl Every {
    pub(crate) const FORM: &str = "a span of time (\"10m\"), \"N steps\" or \"N epochs\"";
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || Self::FORM.to_owned();
        if let Some((count, unit)) = text.trim().split_once(' ') {
            let count: u64 = count.parse().map_err(|_| expected())?;
            return match unit.trim() {
                _ if count == 0 => Err("a count of at least 1".to_owned()),
                "step" | "steps" => Ok(Self::Steps(count)),
                "epoch" | "epochs" => Ok(Self::Epochs(count)),
                _ => Err(expected()),
            };
        }
        text.parse().map(Self::Time).map_err(|_| expected())
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(span) => span.fmt(f),
            Self::Steps(count) => write!(f, "{count} steps"),
            Self::Epochs(count) => write!(f, "{count} epochs"),
        }
    }
}

/// The distinct kinds of devices in `local.devices`. The configuration keeps the text, which is parsed again by the
/// code that opens the devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Devices {
    /// Sorted.
    pub(crate) kinds: Vec<String>,
}

impl Devices {
    pub(crate) const FORM: &str =
        "\"auto\", or a list with commas of cpu, ndarray, wgpu[:N], vulkan[:N], cuda[:N]";
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self { kinds: vec!["auto".to_owned()] });
        }
        let mut kinds = std::collections::BTreeSet::new();
        for device in text.split(',').map(str::trim) {
            let (kind, index) = device.split_once(':').map_or((device, None), |(kind, n)| (kind, Some(n)));
            let is_known = match kind {
                "cpu" | "ndarray" => index.is_none(),
                "wgpu" | "vulkan" | "cuda" => index.is_none_or(|n| n.parse::<usize>().is_ok()),
                _ => false,
            };
            if !is_known {
                return Err(Self::FORM.to_owned());
            }
            kinds.insert(kind.to_owned());
        }
        Ok(Self { kinds: kinds.into_iter().collect() })
    }
}

macro_rules! as_string {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_string!(Span);
as_string!(Every);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_intervals_read_back() {
        for text in ["500ms", "3s", "5m", "2h", "90s"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(text.to_owned()));
        }
        for text in ["10m", "200 steps", "1 epochs"] {
            assert_eq!(text.parse::<Every>().map(|every| every.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "3", "s", "3 s", "-1s", "3d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["0 steps", "x steps", "1 day", "5"] {
            assert!(text.parse::<Every>().is_err(), "{text}");
        }
    }
}
