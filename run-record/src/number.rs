//! Words for the numbers that JSON lacks.

/// The word for a number that is not finite.
pub fn to_word(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

/// A JSON number; NaN and the infinities become words.
#[must_use]
pub fn to_json(value: f64) -> serde_json::Value {
    to_word(value).map_or_else(|| value.into(), Into::into)
}

/// The number that a word stands for.
pub fn from_word(word: &str) -> Option<f64> {
    match word {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// For serde: a number, or its word.
pub fn serialize<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    match to_word(*value) {
        Some(word) => to.serialize_str(word),
        None => to.serialize_f64(*value),
    }
}

/// For serde: a number, its word, or null.
pub fn serialize_some<S: serde::Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serialize(value, to),
        None => to.serialize_none(),
    }
}

/// For serde: a list of numbers or words.
pub fn serialize_list<S: serde::Serializer>(values: &[f64], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(|value| to_json(*value)))
}

/// For serde: numbers or words by name.
pub(crate) mod by_name {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{from_word, to_word};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(f64),
        Word(String),
    }

    pub(crate) fn serialize<S: Serializer>(values: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(values.iter().map(|(name, value)| {
            let form = to_word(*value).map_or(Form::Number(*value), |word| Form::Word(word.to_owned()));
            (name, form)
        }))
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let forms = BTreeMap::<String, Form>::deserialize(from)?;
        let number = |(name, form)| match form {
            Form::Number(value) => Ok((name, value)),
            Form::Word(word) => match from_word(&word) {
                Some(value) => Ok((name, value)),
                None => Err(D::Error::custom(format!("{name} is {word:?}, which is no number"))),
            },
        };
        forms.into_iter().map(number).collect()
    }
}
