//! Positions of keys: a line of the file, or a `--set` flag.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Problem, shown};

/// A position; later ones compare greater, and flags are greater than lines.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Position {
    File,
    Line(usize),
    /// Index of the flag, and its text.
    Flag(usize, String),
}

/// Positions of all keys in a file and its overrides. A key is the path of its names, outermost first.
pub(crate) struct KeyPositions {
    file: String,
    known: BTreeMap<Vec<String>, Position>,
}

impl KeyPositions {
    /// Positions in a file, from its name, text and parsed table.
    pub(crate) fn of(file: &str, text: &str, table: &DeTable<'_>) -> Self {
        let mut places = Self { file: file.to_owned(), known: BTreeMap::new() };
        places.note_table(&[], table, &LineStarts::of(text));
        places
    }

    fn note_table(&mut self, outer: &[String], table: &DeTable<'_>, lines: &LineStarts) {
        for (key, value) in table {
            let path: Vec<String> = outer.iter().cloned().chain([key.get_ref().to_string()]).collect();
            if let DeValue::Table(inner) = value.get_ref() {
                self.note_table(&path, inner, lines);
            }
            self.known.insert(path, Position::Line(lines.line_of(key.span().start)));
        }
    }

    /// Records that a flag set this key.
    pub(crate) fn note_flag(&mut self, number: usize, flag: &str, path: &[String]) {
        let place = Position::Flag(number, flag.to_owned());
        for length in 1..path.len() {
            self.known.entry(path[..length].to_vec()).or_insert_with(|| place.clone());
        }
        self.known.insert(path.to_vec(), place);
    }

    /// Position of a key, or of the innermost enclosing table that has one.
    fn place(&self, path: &[&str]) -> Position {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        let found = (1..=path.len()).rev().find_map(|length| self.known.get(&path[..length]));
        found.cloned().unwrap_or(Position::File)
    }

    fn words(&self, place: &Position) -> String {
        match place {
            Position::File => self.file.clone(),
            Position::Line(line) => format!("{}:{line}", self.file),
            Position::Flag(_, flag) => format!("--set {}", shown(&without_password(flag))),
        }
    }
}

/// Removes the user name and password from an address: messages end up in logs.
fn without_password(flag: &str) -> String {
    let host = flag.find("://").map(|scheme| scheme + 3);
    let end = host.and_then(|from| Some((from, from + flag[from..].split(['/', '?']).next()?.rfind('@')?)));
    end.map_or_else(|| flag.to_owned(), |(from, at)| format!("{}...{}", &flag[..from], &flag[at..]))
}

/// Errors found so far.
pub(crate) struct Report {
    pub(crate) places: KeyPositions,
    found: Vec<(Position, String)>,
}

impl Report {
    pub(crate) fn new(places: KeyPositions) -> Self {
        Self { places, found: Vec::new() }
    }

    /// Adds an error about a key, given as its path.
    pub(crate) fn add(&mut self, path: &[&str], message: String) {
        self.found.push((self.places.place(path), message));
    }

    /// Adds an error about a flag.
    pub(crate) fn add_flag(&mut self, number: usize, flag: &str, message: String) {
        self.found.push((Position::Flag(number, flag.to_owned()), message));
    }

    /// Adds an error about a combination of keys, each as `section.key`, at the position of the last one: it made the
    /// combination invalid.
    pub(crate) fn add_all(&mut self, paths: &[&str], message: String) {
        let places = paths.iter().map(|path| self.places.place(&path.split('.').collect::<Vec<_>>())).max();
        self.found.push((places.unwrap_or(Position::File), message));
    }

    /// All errors, in file order, then those of the flags.
    pub(crate) fn finish(mut self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by(|a, b| a.0.cmp(&b.0));
        let problem = |(place, message)| Problem { place: self.places.words(&place), message };
        Err(ConfigError { problems: self.found.into_iter().map(problem).collect() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// Byte offsets at which lines begin.
pub(crate) struct LineStarts(Vec<usize>);

impl LineStarts {
    pub(crate) fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect())
    }

    /// Line number, from 1, of a byte offset.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}
