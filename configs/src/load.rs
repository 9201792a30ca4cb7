//! From a file and overrides to a typed configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::check::check;
use crate::error::{ConfigError, Problem, nearest};
use crate::keys::{KEYS, Kind, MODEL_KEYS};
use crate::types::Config;

/// A checked configuration and where it came from.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The configuration.
    pub config: Config,
    /// The file.
    pub path: PathBuf,
    /// Its name without the ending: what unnamed runs are called.
    pub stem: String,
}

/// Where each key of a file stands: `file:line`.
type Places = BTreeMap<String, String>;

impl Config {
    /// Reads a file and applies `--set` overrides (`section.key=value`).
    ///
    /// # Errors
    /// All that is wrong: unknown keys, wrong types, impossible combinations, each with its place.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Resolved, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|why| ConfigError::one(&name, format!("the configuration can't be read: {why}")))?;
        let config = Self::parse(&text, &name, overrides)?;
        let stem =
            path.file_stem().map_or_else(|| "run".to_owned(), |stem| stem.to_string_lossy().into_owned());
        Ok(Resolved { config, path: path.to_owned(), stem })
    }

    /// Reads a text; `name` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let parsed = DeTable::parse(text).map_err(|why| {
            let line = line_of(text, why.span().map_or(0, |span| span.start));
            ConfigError::one(format!("{name}:{line}"), why.message())
        })?;
        let mut places = Places::new();
        note_places(parsed.get_ref(), "", text, name, &mut places);
        let mut table: toml::Table =
            text.parse().map_err(|why: toml::de::Error| ConfigError::one(name, why.message()))?;
        for setting in overrides {
            apply(&mut table, setting, &mut places)?;
        }
        let mut problems = Vec::new();
        let place = |path: &str| places.get(path).cloned().unwrap_or_else(|| name.to_owned());
        check_keys(&table, &place, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let config: Self = table.try_into().map_err(|why| ConfigError::one(name, why.message()))?;
        check(&config, &mut |path, message| problems.push(Problem { place: place(path), message }));
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    /// The resolved configuration as TOML: parsed again, it is the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// BLAKE3 over the trajectory keys and their values, in hexadecimal: what changes the weights and nothing else.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (path, value) in crate::difference::trajectory(self) {
            hasher.update(format!("{path} = {value}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn note_places(table: &DeTable<'_>, prefix: &str, text: &str, name: &str, places: &mut Places) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        places.insert(path.clone(), format!("{name}:{}", line_of(text, key.span().start)));
        if let DeValue::Table(inner) = value.get_ref() {
            note_places(inner, &format!("{path}."), text, name, places);
        }
    }
}

/// Puts `section.key=value` into the table. The value is read as TOML; what doesn't parse is a string.
fn apply(table: &mut toml::Table, setting: &str, places: &mut Places) -> Result<(), ConfigError> {
    let place = format!("--set {setting}");
    let form = || ConfigError::one(&place, "expected section.key=value, such as train.epochs=5");
    let (path, text) = setting.split_once('=').ok_or_else(form)?;
    let path = path.trim();
    let (section, rest) = path.split_once('.').ok_or_else(form)?;
    let read = format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v").filter(|_| t.is_empty()));
    let value = read.unwrap_or_else(|| toml::Value::String(text.trim().to_owned()));
    let mut inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let mut name = rest;
    if let Some((middle, last)) = rest.split_once('.') {
        let outer = inner.as_table_mut().ok_or_else(form)?;
        inner = outer.entry(middle).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        name = last;
    }
    inner.as_table_mut().ok_or_else(form)?.insert(name.to_owned(), value);
    places.insert(path.to_owned(), place.clone());
    if let Some((outer, _)) = path.rsplit_once('.') {
        places.entry(outer.to_owned()).or_insert(place);
    }
    Ok(())
}

/// Unknown keys and values of a wrong type.
fn check_keys(table: &toml::Table, place: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
    let sections: Vec<&str> = {
        let mut all: Vec<&str> = KEYS.iter().filter_map(|key| key.path.split('.').next()).collect();
        all.dedup();
        all
    };
    for (section, value) in table {
        let Some(keys) = value.as_table() else {
            problems.push(Problem { place: place(section), message: outside(section) });
            continue;
        };
        if !sections.contains(&section.as_str()) {
            let hint = nearest(section, sections.iter().copied()).map_or_else(
                || format!("sections are {}", sections.join(", ")),
                |s| format!("did you mean [{s}]?"),
            );
            problems.push(Problem {
                place: place(section),
                message: format!("unknown section [{section}]: {hint}"),
            });
            continue;
        }
        let kind = keys.get("kind").and_then(toml::Value::as_str).unwrap_or("mlp");
        for (name, value) in keys {
            check_key(section, name, value, kind, place, problems);
        }
    }
}

fn outside(key: &str) -> String {
    let meant = KEYS.iter().find(|known| known.path.ends_with(&format!(".{key}")));
    let hint = meant.map_or_else(String::new, |known| format!("; did you mean {}?", known.path));
    format!("unknown key {key} outside of a section{hint}")
}

fn check_key(
    section: &str,
    name: &str,
    value: &toml::Value,
    model: &str,
    place: &dyn Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) {
    let path = format!("{section}.{name}");
    let known = KEYS.iter().find(|key| key.path == path).map(|key| key.kind);
    let known = known.or_else(|| model_key(section, name, model));
    let message = match known {
        Some(kind) if kind.admits(value) => return,
        Some(kind) => format!("{path} = {value}: expected {}", kind.allowed()),
        None if section == "model" && !is_built_in(model) => return,
        None => {
            let own = KEYS.iter().filter_map(|key| key.path.strip_prefix(section)?.strip_prefix('.'));
            let of_model = MODEL_KEYS.iter().filter(|k| section == "model" && k.0 == model).map(|k| k.1);
            let candidates: Vec<&str> = own.chain(of_model).collect();
            let elsewhere = KEYS.iter().find(|key| key.path.ends_with(&format!(".{name}")));
            let hint = match (nearest(name, candidates.iter().copied()), elsewhere) {
                (_, Some(key)) => format!("did you mean {}?", key.path),
                (Some(near), None) => format!("did you mean {section}.{near}?"),
                (None, None) => format!("keys of [{section}] are {}", candidates.join(", ")),
            };
            format!("unknown key {path} (= {value}): {hint}")
        }
    };
    problems.push(Problem { place: place(&path), message });
}

fn is_built_in(model: &str) -> bool {
    MODEL_KEYS.iter().any(|key| key.0 == model)
}

fn model_key(section: &str, name: &str, model: &str) -> Option<Kind> {
    MODEL_KEYS.iter().find(|key| section == "model" && key.0 == model && key.1 == name).map(|key| key.2)
}
