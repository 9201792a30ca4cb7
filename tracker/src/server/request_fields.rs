//! A request's fields: from its JSON body, or from the query of its URL.

use axum::body::Bytes;
use axum::extract::{FromRequest, Query, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Failure, JSON_MAX};
use crate::clients::events::Pair;
use crate::clients::exact_numbers;

/// A request's fields: from the body if it has one, otherwise from the query. Numbers are parsed to the last bit, and
/// may be strings. Unknown fields are ignored, since later versions of the clients send more.
#[derive(Debug)]
pub(super) struct RequestFields<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for RequestFields<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let body = Bytes::from_request(request, state).await.map_err(|why| {
            let why = why.into_response().status();
            if why == StatusCode::PAYLOAD_TOO_LARGE {
                return Failure::invalid(format!("the request has more than {JSON_MAX} bytes"));
            }
            Failure::invalid("the request's body broke off")
        })?;
        let read = if body.is_empty() {
            let query = query.map_err(|why| Failure::invalid(format!("the address's parameters: {why}")))?;
            serde_json::from_value(fields(query.0))
        } else {
            let text =
                std::str::from_utf8(&body).map_err(|why| Failure::invalid(format!("the body: {why}")))?;
            serde_json::from_str(&exact_numbers(text))
        };
        read.map(Self).map_err(|why| Failure::invalid(format!("the request's fields: {why}")))
    }
}

/// Query parameters as JSON; a repeated one becomes a list.
fn fields(query: Vec<(String, String)>) -> Value {
    let mut fields = Map::new();
    for (name, value) in query {
        let value = Value::String(value);
        match fields.get_mut(&name) {
            None => drop(fields.insert(name, value)),
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    Value::Object(fields)
}

/// For serde: one string, or a list of them.
pub(super) fn texts<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
        None(()),
    }
    Ok(match Form::deserialize(from)? {
        Form::One(text) => vec![text],
        Form::Many(texts) => texts,
        Form::None(()) => Vec::new(),
    })
}

/// For serde: null counts as absent.
pub(super) fn or_default<'a, D: Deserializer<'a>, T: Deserialize<'a> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Maximum characters of a key; MLflow's limit.
const KEY_MAX: usize = 250;

/// Maximum characters of a parameter's value; MLflow's limit.
const PARAM_MAX: usize = 6_000;

/// Maximum characters of a tag's value; MLflow's limit.
const TAG_MAX: usize = 8_000;

/// Checks a key's length and characters.
pub(super) fn check_key(what: &str, key: &str) -> Result<(), Failure> {
    let length = key.chars().count();
    if length == 0 || length > KEY_MAX || key.contains(char::is_control) {
        let shown: String = key.chars().take(60).collect();
        return Err(Failure::invalid(format!(
            "Invalid {what} name: {shown:?} has {length} characters; 1 to {KEY_MAX} are possible, none of them a control \
             character"
        )));
    }
    Ok(())
}

pub(super) fn check_param(pair: &Pair) -> Result<(), Failure> {
    check_key("parameter", &pair.key)?;
    check_length("parameter", pair, PARAM_MAX)
}

pub(super) fn check_tag(pair: &Pair) -> Result<(), Failure> {
    check_key("tag", &pair.key)?;
    check_length("tag", pair, TAG_MAX)
}

fn check_length(what: &str, pair: &Pair, most: usize) -> Result<(), Failure> {
    let length = pair.value.chars().count();
    if length <= most {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "the value of {what} '{}' had length {length}, which exceeded length limit of {most}",
        pair.key
    )))
}

/// Checks that a name has 1 to 256 characters, not all blank and none of them a control character.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    const MAX: usize = 256;
    let length = name.chars().count();
    if name.trim().is_empty() || length > MAX || name.contains(char::is_control) {
        let shown: String = name.chars().take(60).collect();
        return Err(Failure::invalid(format!(
            "Invalid {what} name: {shown:?}; it takes 1 to {MAX} characters"
        )));
    }
    Ok(())
}

/// Pairs in the list format of MLflow's clients.
pub(super) fn pairs_json(pairs: &crate::clients::documents::Pairs) -> Value {
    pairs.iter().map(|(key, value)| serde_json::json!({ "key": key, "value": value })).collect()
}

/// A page of the results: skips `token` items and returns at most `max` (1,000 by default), with the next page's token.
pub(super) fn page<T>(items: Vec<T>, token: &str, max: usize) -> Result<(Vec<T>, Option<String>), Failure> {
    let from = page_start(token)?;
    let max = if max == 0 { 1_000 } else { max };
    let next = (items.len() > from.saturating_add(max)).then(|| (from + max).to_string());
    Ok((items.into_iter().skip(from).take(max).collect(), next))
}

/// The offset that a page token stands for.
pub(super) fn page_start(token: &str) -> Result<usize, Failure> {
    if token.is_empty() {
        return Ok(0);
    }
    token.parse().map_err(|_| Failure::invalid(format!("page_token = {token:?} is none of ours")))
}
