//! The list of keys, the types and KEYS.md agree.

use std::collections::BTreeSet;

use configs::keys::{KEYS, Key, Kind, MODEL_KEYS, RESERVED};
use configs::{Config, page};
use toml::{Table, Value};

fn value(text: &str) -> Value {
    let mut table: Table = format!("value = {text}").parse().expect("TOML");
    table.remove("value").expect("a value")
}

/// A configuration that sets every key of the list.
fn full() -> Table {
    let sample = |key: &Key| match (key.path, key.kind) {
        _ if !key.default.is_empty() => value(key.default),
        (_, Kind::Count(least, _)) => value(&least.to_string()),
        (_, Kind::Number) => value("1.0"),
        (_, Kind::Counts(length, _)) => Value::Array(vec![value("8"); length]),
        (_, Kind::Word(words)) => Value::String(words[0].to_owned()),
        (_, Kind::Text | Kind::Path) => value("\"x\""),
        (path, kind) => panic!("{path}: a sample of {kind:?}"),
    };
    KEYS.iter().fold(Table::new(), |mut table, key| {
        let (section, name) = key.path.split_once('.').expect("section.key");
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().expect("a table").insert(name.to_owned(), sample(key));
        table
    })
}

/// Every `section.key` of a table with its value.
fn each_key(table: &Table) -> Vec<(String, Value)> {
    let keys = |section: &Value| section.as_table().expect("sections only").clone();
    table
        .iter()
        .flat_map(|(section, inner)| {
            keys(inner).into_iter().map(move |(name, value)| (format!("{section}.{name}"), value))
        })
        .collect()
}

#[test]
fn every_key_of_the_list_is_a_field_and_admits_its_default() {
    full().try_into::<Config>().expect("each key of the list is a field");
    for key in KEYS {
        for (path, value) in each_key(&full()).iter().filter(|(path, _)| path == key.path) {
            assert!(key.kind.admits(value), "{path} = {value}");
        }
    }
    for key in MODEL_KEYS.iter().filter(|key| !key.default.is_empty()) {
        assert!(key.kind.admits(&value(key.default)), "model.{} of {}", key.name, key.model);
    }
}

/// The fields of a section, including those absent by default: serde lists them when it rejects an unknown one.
fn fields(section: &str) -> BTreeSet<String> {
    let text = format!("[{section}]\nno_such_field = 1");
    let refusal = toml::from_str::<Config>(&text).expect_err("refused");
    let (_, expected) = refusal.message().split_once("expected ").expect("what was expected");
    let fields: BTreeSet<String> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!fields.is_empty(), "{section}: {expected}");
    fields
}

#[test]
fn every_field_is_in_the_list() {
    let listed: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(listed.len(), KEYS.len(), "no key is listed twice");
    let of_types: BTreeSet<String> = Table::try_from(Config::default())
        .expect("a table")
        .keys()
        // The other keys of a model belong to its task.
        .flat_map(|section| {
            let fields = if section == "model" { ["kind".to_owned()].into() } else { fields(section) };
            fields.into_iter().map(move |name| format!("{section}.{name}"))
        })
        .collect();
    assert_eq!(of_types, listed);
    for (reserved, _) in RESERVED {
        assert!(!listed.contains(*reserved), "{reserved} is here now");
    }
}

#[test]
fn defaults_of_the_types_are_those_of_the_list() {
    let of_types: Vec<(String, Value)> = each_key(&Table::try_from(Config::default()).expect("a table"));
    let of_types: BTreeSet<(String, String)> =
        of_types.into_iter().map(|(path, value)| (path, value.to_string())).collect();
    let with_default = KEYS.iter().filter(|key| !key.default.is_empty());
    let of_list: BTreeSet<(String, String)> =
        with_default.map(|key| (key.path.to_owned(), value(key.default).to_string())).collect();
    assert_eq!(of_types, of_list);
}

#[test]
fn a_built_in_model_gets_the_defaults_of_the_list() {
    for model in ["mlp", "cnn", "resnet", "gpt"] {
        let text = format!(
            "[dataset]\nuri = \"a\"\nimage_shape = [1, 8, 8]\n[train]\nepochs = 1\n[model]\nkind = \"{model}\""
        );
        let config = Config::parse(&text, "x", &[]).expect("right");
        let expected: Table = MODEL_KEYS
            .iter()
            .filter(|key| key.model == model && !key.default.is_empty())
            .map(|key| (key.name.to_owned(), value(key.default)))
            .collect();
        assert_eq!(config.model.keys, expected);
    }
}

/// Parses the rows of KEYS.md, as (section.key, row).
fn rows_of_the_page(text: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## `[").and_then(|rest| rest.strip_suffix("]`")) {
            section = name.to_owned();
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        if let (Some(name), 5) = (cells[0].strip_prefix("| `"), cells.len()) {
            let path = format!("{section}.{}", name.trim_end_matches('`'));
            rows.push((path, cells[2].trim_matches('`').to_owned()));
        }
    }
    rows
}

#[test]
fn the_page_has_every_key_with_its_default_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/KEYS.md");
    if std::env::var_os("BONFIRE_WRITE_PAGES").is_some() {
        std::fs::write(path, page()).expect("written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let advice = "configs/KEYS.md is not the list of keys: BONFIRE_WRITE_PAGES=1 cargo test -p configs";
    assert!(written == page(), "{advice}");

    let default = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut expected: Vec<(String, String)> =
        KEYS.iter().map(|key| (key.path.to_owned(), default(key.default))).collect();
    expected.extend(MODEL_KEYS.iter().map(|key| (format!("model.{}", key.name), default(key.default))));
    let mut found = rows_of_the_page(&written);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}
