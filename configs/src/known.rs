//! Reports unknown keys and values of the wrong kind.

use toml::{Table, Value};

use crate::error::{likeness, nearest, shown};
use crate::key_positions::Report;
use crate::keys::{KEYS, Key, Kind, MODEL_KEYS, RESERVED, of_model, sections};

/// Reports all unknown keys and wrong values.
pub(crate) fn check_keys(table: &Table, report: &mut Report) {
    let sections = sections();
    for (section, value) in table {
        match value.as_table() {
            _ if !sections.contains(&section.as_str()) => {
                report.add(&[section], unknown_section(section, value, &sections));
            }
            None => {
                let value = shown(&value.to_string());
                report.add(&[section], format!("{section} = {value}: expected a section, [{section}]"));
            }
            Some(keys) => {
                for (name, value) in keys {
                    check_key(Section { name: section, keys }, name, value, report);
                }
            }
        }
    }
}

/// A section of the file.
#[derive(Clone, Copy)]
struct Section<'a> {
    name: &'a str,
    keys: &'a Table,
}

impl Section<'_> {
    /// The built-in model whose keys this section takes, with the default if no kind is set; `None` for other models.
    fn model(self) -> Option<&'static str> {
        if self.name != "model" {
            return None;
        }
        let kind = self.keys.get("kind").map_or(Some("mlp"), Value::as_str)?;
        MODEL_KEYS.iter().map(|key| key.model).find(|model| *model == kind)
    }

    fn kind_of(self, name: &str) -> Option<Kind> {
        let own = KEYS.iter().find(|key| key.section() == self.name && key.name() == name);
        let of_model = || self.model().and_then(|model| of_model(model).find(|key| key.name == name));
        own.map(|key| key.kind).or_else(|| of_model().map(|key| key.kind))
    }
}

fn check_key(section: Section<'_>, name: &str, value: &Value, report: &mut Report) {
    let path = format!("{}.{}", section.name, shown(name));
    match section.kind_of(name) {
        Some(Kind::Table(words)) if value.is_table() => {
            for (inner, value) in value.as_table().into_iter().flatten() {
                let path = format!("{path}.{}", shown(inner));
                check_value(&[section.name, name, inner], &path, Kind::Word(words), value, report);
            }
        }
        Some(kind) => check_value(&[section.name, name], &path, kind, value, report),
        // Custom tasks check their own keys.
        None if section.name == "model" && section.model().is_none() => {}
        None => {
            let value = shown(&value.to_string());
            let message = RESERVED.iter().find(|(reserved, _)| *reserved == path).map_or_else(
                || format!("unknown key {path} (= {value}): {}", hint(section, name)),
                |(_, instead)| format!("{path} = {value}: {instead}"),
            );
            report.add(&[section.name, name], message);
        }
    }
}

fn check_value(place: &[&str], path: &str, kind: Kind, value: &Value, report: &mut Report) {
    if kind.admits(value) {
        return;
    }
    let hint = match kind.nearest_word(value) {
        Some(word) => format!("; did you mean \"{word}\"?"),
        None if matches!(kind, Kind::Text | Kind::Path) => ", in quotes".to_owned(),
        None => String::new(),
    };
    let shown = shown(&value.to_string());
    report.add(place, format!("{path} = {shown}: expected {}{hint}", kind.allowed()));
}

/// A suggestion for an unknown key of a section.
fn hint(section: Section<'_>, name: &str) -> String {
    /// Similar enough to be a typo, even if another section has a key of exactly this name.
    const TYPO: f64 = 0.9;
    if section.name == "model" {
        let owners = MODEL_KEYS.iter().filter(|key| key.name == name);
        let owners: Vec<String> = owners.map(|key| format!("\"{}\"", key.model)).collect();
        if !owners.is_empty() {
            return format!("it belongs to model.kind = {}", owners.join(" or "));
        }
    }
    let own = KEYS.iter().filter(|key| key.section() == section.name).map(Key::name);
    let of_model = section.model().into_iter().flat_map(of_model).map(|key| key.name);
    let candidates: Vec<&str> = own.chain(of_model).collect();
    match (nearest(name, candidates.iter().copied()), elsewhere(name)) {
        (Some(near), _) if likeness(name, near) >= TYPO => format!("did you mean {}.{near}?", section.name),
        (_, Some(path)) => format!("did you mean {path}?"),
        (Some(near), None) => format!("did you mean {}.{near}?", section.name),
        (None, None) => format!("keys of [{}] are {}", section.name, candidates.join(", ")),
    }
}

/// The key of this name, if it is unique across sections.
fn elsewhere(name: &str) -> Option<&'static str> {
    let mut found = KEYS.iter().filter(|key| key.name() == name).map(|key| key.path);
    found.next().filter(|_| found.next().is_none())
}

fn unknown_section(name: &str, value: &Value, sections: &[&'static str]) -> String {
    let near = nearest(name, sections.iter().copied());
    if value.is_table() {
        let hint = near.map_or_else(
            || format!("sections are {}", sections.join(", ")),
            |section| format!("did you mean [{section}]?"),
        );
        return format!("unknown section [{}]: {hint}", shown(name));
    }
    outside(name)
}

/// Error message for a key outside of all sections.
pub(crate) fn outside(name: &str) -> String {
    let meant = elsewhere(name).or_else(|| nearest(name, KEYS.iter().map(Key::name)).and_then(elsewhere));
    let hint = meant.map_or_else(String::new, |path| format!("; did you mean {path}?"));
    format!("unknown key {} outside of a section{hint}", shown(name))
}
