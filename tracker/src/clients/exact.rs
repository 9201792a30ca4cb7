//! JSON numbers parsed to the last bit, and numbers that arrive as strings.
//!
//! `serde_json`'s fast path may miss a number's last bit, and MLflow's clients send integers and words (`"NaN"`) as
//! strings wherever they like. So numbers are quoted first and parsed by Rust's own parser.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use run_record::number;

/// The same JSON with every number in quotes.
pub(crate) fn exact_numbers(json: &str) -> String {
    let mut quoted = String::with_capacity(json.len() + json.len() / 4);
    let (mut in_text, mut in_number, mut is_escaped, mut from) = (false, false, false, 0);
    for (at, byte) in json.bytes().enumerate() {
        if in_text {
            in_text = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        let is_number_now = byte.is_ascii_digit() || byte == b'-' || in_number && b"+.eE".contains(&byte);
        if is_number_now != in_number {
            quoted.push_str(&json[from..at]);
            quoted.push('"');
            from = at;
            in_number = is_number_now;
        }
        in_text = byte == b'"';
    }
    quoted.push_str(&json[from..]);
    if in_number {
        quoted.push('"');
    }
    quoted
}

/// A number, or one of the words for values that JSON numbers can't express.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Float(pub(crate) f64);

/// An integer, given as a number or as a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Int(pub(crate) i64);

impl Serialize for Float {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match number::to_word(self.0) {
            Some(word) => to.serialize_str(word),
            None => to.serialize_f64(self.0),
        }
    }
}

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(self.0)
    }
}

struct FloatForm;

impl Visitor<'_> for FloatForm {
    type Value = Float;

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Float, E> {
        Ok(Float(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Float, E> {
        Ok(Float(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Float, E> {
        Ok(Float(value as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Float, E> {
        let is_number = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
        let value = if is_number { text.parse().ok() } else { number::from_word(text) };
        value.map(Float).ok_or_else(|| E::custom(format!("{text:?} is no number")))
    }
}

impl<'a> Deserialize<'a> for Float {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FloatForm)
    }
}

struct IntForm;

impl Visitor<'_> for IntForm {
    type Value = Int;

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("a whole number of at most 64 bits")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Int, E> {
        Ok(Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Int, E> {
        i64::try_from(value).map(Int).map_err(|_| E::custom(format!("{value} has more than 64 bits")))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Int, E> {
        if value.fract() == 0.0 && value.abs() < 9.0e18 {
            return Ok(Int(value as i64));
        }
        Err(E::custom(format!("{value} is no whole number of at most 64 bits")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Int, E> {
        if let Ok(value) = text.parse() {
            return Ok(Int(value));
        }
        match text.parse::<f64>() {
            Ok(value) => self.visit_f64(value),
            Err(_) => Err(E::custom(format!("{text:?} is no whole number"))),
        }
    }
}

impl<'a> Deserialize<'a> for Int {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(IntForm)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_numbers_get_quotes() {
        for (json, expected) in [
            ("{\"a\":-1.5e+3,\"b\":[1,2]}", "{\"a\":\"-1.5e+3\",\"b\":[\"1\",\"2\"]}"),
            ("{\"1\": \"2\", \"\\\"3\": true}", "{\"1\": \"2\", \"\\\"3\": true}"),
            ("{\"\\\\\":1}", "{\"\\\\\":\"1\"}"),
            ("7", "\"7\""),
            ("", ""),
        ] {
            assert_eq!(exact_numbers(json), expected);
        }
    }

    #[test]
    fn texts_are_numbers_where_they_say_one() {
        let ints: Vec<Int> = serde_json::from_str("[1, \"-2\", 3.0, \"4.0\"]").expect("whole numbers");
        assert_eq!(ints, [1, -2, 3, 4].map(Int));
        for no in ["[\"x\"]", "[1.5]", "[1e30]", "[\"inf\"]", "[18446744073709551615]"] {
            assert!(serde_json::from_str::<Vec<Int>>(no).is_err(), "{no}");
        }
        let floats: Vec<Float> = serde_json::from_str("[1, \"2.5\", \"-Infinity\"]").expect("numbers");
        assert_eq!(floats, [1.0, 2.5, f64::NEG_INFINITY].map(Float));
        for no in ["[\"infinity\"]", "[\"nan\"]", "[\"\"]", "[null]", "[\"1e\"]"] {
            assert!(serde_json::from_str::<Vec<Float>>(no).is_err(), "{no}");
        }
    }

    proptest! {
        #[test]
        fn floats_come_back_to_the_last_bit(bits: u64) {
            let value = Float(f64::from_bits(bits));
            let text = serde_json::to_string(&[value]).expect("written");
            let back: Vec<Float> = serde_json::from_str(&exact_numbers(&text)).expect("read");
            prop_assert!(back[0].0.to_bits() == bits || value.0.is_nan() && back[0].0.is_nan());
        }

        #[test]
        fn any_text_passes(text in "\\PC{0,40}") {
            let _ = exact_numbers(&text);
        }
    }
}
