//! Where each key stands: a line of the file, or a `--set` flag.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Problem, shown};

/// One place; later ones are greater, flags after lines.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Position {
    File,
    Line(usize),
    /// The number of the flag, and what it says.
    Flag(usize, String),
}

/// Where each key of a file and of its overrides stands. A key is its names from the outside in.
pub(crate) struct KeyPositions {
    file: String,
    known: BTreeMap<Vec<String>, Position>,
}

impl KeyPositions {
    /// Of a file: its name and its parsed text.
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

    /// A key was set by a flag.
    pub(crate) fn note_flag(&mut self, number: usize, flag: &str, path: &[String]) {
        let place = Position::Flag(number, flag.to_owned());
        for length in 1..path.len() {
            self.known.entry(path[..length].to_vec()).or_insert_with(|| place.clone());
        }
        self.known.insert(path.to_vec(), place);
    }

    /// Where a key stands, else what is around it.
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

/// An address without the name and password that may stand before its host: messages end up in logs.
fn without_password(flag: &str) -> String {
    let host = flag.find("://").map(|scheme| scheme + 3);
    let end = host.and_then(|from| Some((from, from + flag[from..].split(['/', '?']).next()?.rfind('@')?)));
    end.map_or_else(|| flag.to_owned(), |(from, at)| format!("{}...{}", &flag[..from], &flag[at..]))
}

/// What was found wrong so far.
pub(crate) struct Report {
    pub(crate) places: KeyPositions,
    found: Vec<(Position, String)>,
}

impl Report {
    pub(crate) fn new(places: KeyPositions) -> Self {
        Self { places, found: Vec::new() }
    }

    /// A key, as its names from the outside in, is wrong.
    pub(crate) fn add(&mut self, path: &[&str], message: String) {
        self.found.push((self.places.place(path), message));
    }

    /// A flag is wrong.
    pub(crate) fn add_flag(&mut self, number: usize, flag: &str, message: String) {
        self.found.push((Position::Flag(number, flag.to_owned()), message));
    }

    /// Some keys, each as `section.key`, don't go together: the place is that of the last one, for it is what made the
    /// others wrong.
    pub(crate) fn add_all(&mut self, paths: &[&str], message: String) {
        let places = paths.iter().map(|path| self.places.place(&path.split('.').collect::<Vec<_>>())).max();
        self.found.push((places.unwrap_or(Position::File), message));
    }

    /// All that was found, in the order of the file and then of the flags.
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

/// Where the lines of a text begin.
pub(crate) struct LineStarts(Vec<usize>);

impl LineStarts {
    pub(crate) fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect())
    }

    /// The line of a byte, from 1.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}
