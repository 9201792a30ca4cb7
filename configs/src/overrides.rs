//! Applies `--set section.key=value`.

use toml::{Table, Value};

use crate::key_positions::Report;
use crate::keys::sections;
use crate::known::outside;

const FORM: &str = "expected section.key=value, such as train.epochs=5";

/// Applies the flags in order.
///
/// A run has a single length, so a flag that sets `train.epochs` or `train.steps` replaces the other one from the file.
pub(crate) fn apply_all(table: &mut Table, flags: &[String], report: &mut Report) {
    let mut lengths_set = [false; 2];
    for (number, flag) in flags.iter().enumerate() {
        match apply(table, flag) {
            Ok(path) => {
                for (length, set) in LENGTHS.iter().zip(&mut lengths_set) {
                    *set |= path == ["train", length];
                }
                report.places.note_flag(number, flag, &path);
            }
            Err(message) => report.add_flag(number, flag, message),
        }
    }
    let replaced = match lengths_set {
        [true, false] => LENGTHS[1],
        [false, true] => LENGTHS[0],
        _ => return,
    };
    if let Some(train) = table.get_mut("train").and_then(Value::as_table_mut) {
        train.remove(replaced);
    }
}

const LENGTHS: [&str; 2] = ["epochs", "steps"];

/// Applies one flag and returns the path of its key.
fn apply(table: &mut Table, flag: &str) -> Result<Vec<String>, String> {
    let (path, text) = split(flag).ok_or_else(|| FORM.to_owned())?;
    let (name, outer) = path.split_last().ok_or_else(|| FORM.to_owned())?;
    if outer.is_empty() {
        let is_section = sections().contains(&name.as_str());
        return Err(if is_section { format!("{name} is a section; {FORM}") } else { outside(name) });
    }
    let mut inner = table;
    for (depth, part) in outer.iter().enumerate() {
        let entry = inner.entry(part.as_str()).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = entry else {
            let whole = outer[..=depth].join(".");
            return Err(format!("{whole} has a value and no keys of its own; {FORM}"));
        };
        inner = next;
    }
    inner.insert(name.clone(), value(text));
    Ok(path)
}

/// Splits a flag into key and value. The key is a TOML key, whose names may be quoted (and then contain `=`);
/// otherwise, for example for names with spaces, it is split at the dots.
fn split(flag: &str) -> Option<(Vec<String>, &str)> {
    /// Maximum number of `=` in a key.
    const EQUALS_MAX: usize = 8;
    let sides = flag.match_indices('=').map(|(at, _)| (&flag[..at], &flag[at + 1..]));
    let as_toml = sides.take(EQUALS_MAX).find_map(|(key, text)| Some((toml_key(key)?, text)));
    as_toml.or_else(|| {
        let (key, text) = flag.split_once('=')?;
        let parts: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        parts.iter().all(|part| !part.is_empty()).then_some((parts, text))
    })
}

fn toml_key(key: &str) -> Option<Vec<String>> {
    let mut value = Value::Table(format!("{key} = true").parse().ok()?);
    let mut path = Vec::new();
    while let Value::Table(table) = value {
        let mut keys = table.into_iter();
        let (name, inner) = keys.next()?;
        if keys.next().is_some() {
            return None;
        }
        path.push(name);
        value = inner;
    }
    (value == Value::Boolean(true)).then_some(path)
}

/// Parses a value as TOML, or else takes it as a string.
fn value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok();
    let only = parsed.and_then(|mut table| table.remove("value").filter(|_| table.is_empty()));
    only.unwrap_or_else(|| Value::String(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_split_at_the_end_of_their_key() {
        let check = |flag: &str, path: &[&str], text: &str| {
            let expected = path.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(split(flag), Some((expected, text)), "{flag}");
        };
        check("train.epochs=5", &["train", "epochs"], "5");
        check("a . b = c=d", &["a", "b"], " c=d");
        check("dataset.columns.\"a.b=c\"=ignore", &["dataset", "columns", "a.b=c"], "ignore");
        check("dataset.columns.my column=ignore", &["dataset", "columns", "my column"], "ignore");
        check("dataset.columns.größe=ignore", &["dataset", "columns", "größe"], "ignore");
        for flag in ["", "train.epochs", "=3", "train.=3", ".epochs=3"] {
            assert_eq!(split(flag), None, "{flag}");
        }
    }

    #[test]
    fn a_value_that_is_no_toml_is_a_string() {
        let check = |text: &str, expected: Value| assert_eq!(value(text), expected, "{text}");
        check("5", Value::Integer(5));
        check(" 1e-3", Value::Float(1e-3));
        check("\"5\"", Value::String("5".to_owned()));
        check("[1, 2]", Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
        check("adamw", Value::String("adamw".to_owned()));
        check("3 steps", Value::String("3 steps".to_owned()));
        check("", Value::String(String::new()));
        check("1\nother = 2", Value::String("1\nother = 2".to_owned()));
    }
}
