//! Conversion from a file and overrides to a typed configuration, and back.

use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use toml::{Table, Value};

use crate::check::check;
use crate::error::{ConfigError, shown};
use crate::key_positions::{KeyPositions, LineStarts, Report};
use crate::keys::{Kind, of_model};
use crate::known::check_keys;
use crate::overrides::apply_all;
use crate::types::{Config, Model};

/// A validated configuration and its origin.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The validated configuration.
    pub config: Config,
    /// Path of the file.
    pub path: PathBuf,
    /// File name without extension: the base name of unnamed runs.
    pub stem: String,
}

/// Maximum size of a file: a configuration is a page of text.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// Reads a file and applies `--set` overrides (`section.key=value`).
    ///
    /// # Errors
    /// All errors, each with its position: unknown keys, wrong types, invalid combinations.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Resolved, ConfigError> {
        let name = path.display().to_string();
        let text = read(path)
            .map_err(|why| ConfigError::one(&name, format!("the configuration can't be read: {why}")))?;
        let config = Self::parse(&text, &name, overrides)?;
        let stem =
            path.file_stem().map_or_else(|| "run".to_owned(), |stem| stem.to_string_lossy().into_owned());
        Ok(Resolved { config, path: path.to_owned(), stem })
    }

    /// Parses a text; `name` is used in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let broken = |why: &toml::de::Error| {
            let line = LineStarts::of(text).line_of(why.span().map_or(0, |span| span.start));
            ConfigError::one(format!("{name}:{line}"), format!("this is no TOML: {}", why.message()))
        };
        let spanned = DeTable::parse(text).map_err(|why| broken(&why))?;
        let mut table: Table = text.parse().map_err(|why| broken(&why))?;
        let mut report = Report::new(KeyPositions::of(name, text, spanned.get_ref()));
        apply_all(&mut table, overrides, &mut report);
        check_keys(&table, &mut report);
        // Don't check combinations of values that are invalid themselves: the errors would be confusing.
        let typed = if report.is_empty() { typed(&table, &mut report) } else { None };
        if let Some(config) = &typed {
            check(config, &mut report);
        }
        report.finish()?;
        typed.ok_or_else(|| ConfigError::one(name, "the configuration can't be read"))
    }

    /// The resolved configuration as TOML, which parses to the same configuration.
    ///
    /// # Panics
    /// If a value can't be represented in TOML: an integer beyond 63 bits, or a path that is not UTF-8.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.to_table()).expect("a table of TOML values is TOML")
    }

    /// BLAKE3 over the trajectory keys and their values, in hexadecimal: it covers exactly what changes the weights.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (path, value) in crate::difference::frozen(self) {
            hasher.update(format!("{path} = {value}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn to_table(&self) -> Table {
        Table::try_from(self).expect("what was read from TOML is TOML")
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Deserialises a table whose keys and values have been checked against the list.
fn typed(table: &Table, report: &mut Report) -> Option<Config> {
    match table.clone().try_into::<Config>() {
        Ok(mut config) => {
            fill_in(&mut config.model);
            Some(config)
        }
        Err(why) => {
            // The list admits something that the types reject: find out which key, to name it.
            for (section, name, value) in each_key(table) {
                let alone = Table::from_iter([(name.to_owned(), value.clone())]);
                let alone = Table::from_iter([(section.to_owned(), Value::Table(alone))]);
                if let Err(why) = alone.try_into::<Config>() {
                    let value = shown(&value.to_string());
                    report.add(&[section, name], format!("{section}.{name} = {value}: {}", why.message()));
                }
            }
            if report.is_empty() {
                report.add(&[], why.message().to_owned());
            }
            None
        }
    }
}

fn each_key(table: &Table) -> impl Iterator<Item = (&str, &str, &Value)> {
    table.iter().flat_map(|(section, keys)| {
        keys.as_table()
            .into_iter()
            .flatten()
            .map(move |(name, value)| (section.as_str(), name.as_str(), value))
    })
}

/// Fills in the missing keys of a built-in model and normalises numbers: `dropout = 0` becomes `dropout = 0.0`, as in
/// the other sections.
fn fill_in(model: &mut Model) {
    for key in of_model(&model.kind) {
        let default = || {
            let parsed: Option<Table> = format!("value = {}", key.default).parse().ok();
            parsed.and_then(|mut table| table.remove("value"))
        };
        match (model.keys.get(key.name), key.kind) {
            (Some(Value::Integer(whole)), Kind::Number) => {
                let number = *whole as f64;
                model.keys.insert(key.name.to_owned(), Value::Float(number));
            }
            (Some(Value::Array(list)), Kind::Numbers | Kind::NumbersOr(_)) => {
                let number = |value: &Value| {
                    value.as_integer().map_or(value.clone(), |whole| Value::Float(whole as f64))
                };
                let numbers = list.iter().map(number).collect();
                model.keys.insert(key.name.to_owned(), Value::Array(numbers));
            }
            (Some(_), _) => {}
            (None, _) => {
                if let Some(default) = default() {
                    model.keys.insert(key.name.to_owned(), default);
                }
            }
        }
    }
}
