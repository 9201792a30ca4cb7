//! Deserialises `[model]` into a task's own type, with messages that name the key, its value and the closest valid key.

use std::cell::{Cell, RefCell};

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};
use serde_json::{Map, Value};

use crate::error::TrainerError;

/// Deserialises the table. Unknown keys are rejected even if the type lacks `deny_unknown_fields`: a typo must not
/// train with a default.
pub(crate) fn read<T: DeserializeOwned>(kind: &str, keys: &Map<String, Value>) -> Result<T, TrainerError> {
    let seen = KeyContext::default();
    T::deserialize(Section { kind, keys, seen: &seen }).map_err(|error| {
        let refused = seen.refused.take();
        let wrong = || seen.at.get().map(|key| format!("model.{key} = {}: {error}", shown(&keys[key])));
        let message = refused.or_else(wrong);
        TrainerError::Config(message.unwrap_or_else(|| format!("[model] of kind {kind:?}: {error}")))
    })
}

/// Context missing from serde's own errors.
#[derive(Default)]
struct KeyContext<'a> {
    /// The key whose value is being deserialised.
    at: Cell<Option<&'a str>>,
    /// Why the keys are rejected.
    refused: RefCell<Option<String>>,
}

#[derive(Clone, Copy)]
struct Section<'a, 's> {
    kind: &'a str,
    keys: &'a Map<String, Value>,
    seen: &'s KeyContext<'a>,
}

impl Section<'_, '_> {
    fn unknown(&self, key: &str, known: &[&str]) -> String {
        let hint = match configs::nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean model.{near}?"),
            None if known.is_empty() => format!("model.kind = {:?} has no keys of its own", self.kind),
            None => format!("model.kind = {:?} has {}", self.kind, known.join(", ")),
        };
        format!("unknown key model.{key} (= {}): {hint}", shown(&self.keys[key]))
    }
}

impl<'de> Deserializer<'de> for Section<'de, '_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Entries { rest: self.keys.iter(), value: None, seen: self.seen })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if let Some(key) = self.keys.keys().find(|key| !fields.contains(&key.as_str())) {
            self.seen.refused.replace(Some(self.unknown(key, fields)));
            return Err(Error::custom("unknown key"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Iterates over the table's entries.
struct Entries<'a, 's> {
    rest: serde_json::map::Iter<'a>,
    value: Option<&'a Value>,
    seen: &'s KeyContext<'a>,
}

impl<'a> MapAccess<'a> for Entries<'a, '_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        self.seen.at.set(Some(key));
        let key: StrDeserializer<'_, Self::Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        let value = self.value.take().ok_or_else(|| Error::custom("a value was read before its key"))?;
        let value = seed.deserialize(value)?;
        self.seen.at.set(None);
        Ok(value)
    }
}

/// A value for a message, clipped if long.
fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default)]
    struct Keys {
        hidden: usize,
        rates: Vec<f64>,
        #[serde(rename = "kind-of-cell")]
        cell: Option<Cell>,
    }

    #[derive(Deserialize, Debug, PartialEq, Clone, Copy)]
    #[serde(rename_all = "lowercase")]
    enum Cell {
        Gru,
        Lstm,
    }

    fn keys<T: DeserializeOwned>(table: &Value) -> Result<T, String> {
        let table = table.as_object().expect("a table");
        read("rows", table).map_err(|error| error.to_string())
    }

    #[test]
    fn right_keys_are_read_and_absent_ones_have_their_defaults() {
        let read: Keys = keys(&json!({ "hidden": 3, "kind-of-cell": "lstm" })).expect("right");
        assert_eq!(read, Keys { hidden: 3, rates: Vec::new(), cell: Some(Cell::Lstm) });
        assert_eq!(keys::<Keys>(&json!({})).expect("right"), Keys::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_key_and_value() {
        let check = |table: &Value, expected: &str| {
            assert_eq!(keys::<Keys>(table).expect_err("wrong"), expected);
        };
        check(&json!({ "hiden": 3 }), "unknown key model.hiden (= 3): did you mean model.hidden?");
        check(
            &json!({ "zzz": [1] }),
            "unknown key model.zzz (= [1]): model.kind = \"rows\" has hidden, rates, kind-of-cell",
        );
        check(&json!({ "hidden": "x" }), "model.hidden = \"x\": invalid type: string \"x\", expected usize");
        check(
            &json!({ "rates": [0.5, true] }),
            "model.rates = [0.5,true]: invalid type: boolean `true`, expected f64",
        );
        check(
            &json!({ "hidden": 1, "kind-of-cell": "rnn" }),
            "model.kind-of-cell = \"rnn\": unknown variant `rnn`, expected `gru` or `lstm`",
        );
        check(&json!({ "hidden": -1 }), "model.hidden = -1: invalid value: integer `-1`, expected usize");
    }

    #[test]
    fn a_key_without_a_default_must_be_there() {
        #[derive(Deserialize, Debug)]
        struct Needed {
            #[expect(dead_code, reason = "only its absence matters")]
            depth: usize,
        }
        let message = keys::<Needed>(&json!({})).expect_err("absent");
        assert_eq!(message, "[model] of kind \"rows\": missing field `depth`");
    }

    #[test]
    fn a_type_without_keys_takes_none() {
        #[derive(Deserialize, Debug)]
        struct Nothing {}
        assert!(keys::<Nothing>(&json!({})).is_ok());
        let message = keys::<Nothing>(&json!({ "hidden": 3 })).expect_err("unknown");
        assert_eq!(message, "unknown key model.hidden (= 3): model.kind = \"rows\" has no keys of its own");
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "ä".repeat(500);
        let message = keys::<Keys>(&json!({ "hidden": long })).expect_err("wrong");
        assert!(message.starts_with("model.hidden = \"äää") && message.contains("ä...: "), "{message}");
    }
}
