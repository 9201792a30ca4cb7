//! `datasets show`: finds out what kind of data to show.

use std::collections::BTreeMap;
use std::path::Path;

use datasets::compare::is_table;
use datasets::registry::{Manifest, Registry, RegistryError, files_of};
use datasets::{DataError, Overview, format_of};
use serde_json::json;

use super::show::TableSeen;
use super::text::{aligned, counted, path_line};
use super::{DataArguments, DataReference, PrintFormat, show_overview};

const FILES_SHOWN_MAX: usize = 20;

pub(super) fn run(
    registry: &Registry,
    what: &str,
    asked: DataArguments,
    output: PrintFormat,
) -> Result<String, RegistryError> {
    let mut shown = match DataReference::by(what)? {
        DataReference::Path(path) if path.is_dir() => {
            let found = files_of(&path)?;
            let sized = found.into_iter().map(|(relative, own)| {
                let bytes = std::fs::metadata(&own).map_err(|source| io(&own, source))?.len();
                Ok((relative, bytes))
            });
            let files: Vec<(String, u64)> = sized.collect::<Result<_, RegistryError>>()?;
            let mut shown = Shown::default();
            shown.add("path", json!(path.display().to_string()), &format!("{}\n", path.display()));
            shown.files(&files);
            shown.content(&path, &files, None, asked)?;
            shown
        }
        DataReference::Path(path) => {
            let mut shown = Shown::default();
            shown.file(&path, None, asked)?;
            shown
        }
        DataReference::Version(reference) => {
            let manifest = registry.find(&reference)?;
            let path = registry.view(&manifest)?;
            let mut shown = Shown::default();
            shown.add("manifest", json!(manifest), &head(&manifest));
            let files: Vec<(String, u64)> =
                manifest.files.iter().map(|file| (file.path.clone(), file.bytes)).collect();
            match files.as_slice() {
                _ if manifest.is_folder() => {
                    shown.files(&files);
                    shown.content(&path, &files, Some(manifest.name), asked)?;
                }
                // A single file is laid out under its own name, whose extension gives the format.
                [_] if format_of(&path)?.is_some() => shown.file(&path, Some(manifest.name), asked)?,
                _ => shown.files(&files),
            }
            shown
        }
    };
    if output == PrintFormat::Json {
        let json = serde_json::Value::Object(std::mem::take(&mut shown.json));
        return Ok(printable::json(&format!("{json:#}\n")).into_owned());
    }
    Ok(shown.text)
}

/// Output as text and as JSON.
#[derive(Default)]
struct Shown {
    text: String,
    json: serde_json::Map<String, serde_json::Value>,
}

impl Shown {
    fn add(&mut self, key: &str, json: serde_json::Value, text: &str) {
        self.json.insert(key.to_owned(), json);
        self.text.push_str(text);
    }

    fn files(&mut self, files: &[(String, u64)]) {
        let json =
            json!({ "count": files.len(), "bytes": files.iter().map(|(_, bytes)| bytes).sum::<u64>() });
        self.add("files", json, &list(files));
    }

    /// Shows a file; one with an unknown extension is read as a table.
    fn file(&mut self, path: &Path, name: Option<String>, asked: DataArguments) -> Result<(), RegistryError> {
        match format_of(path)? {
            Some(format @ ("idx" | "text")) => self.overview(path, format, name, asked.memory_mb),
            _ => self.table(path, name, asked),
        }
    }

    /// Shows a folder: images, text, or its only table.
    fn content(
        &mut self,
        folder: &Path,
        files: &[(String, u64)],
        name: Option<String>,
        asked: DataArguments,
    ) -> Result<(), RegistryError> {
        let mut tables = files.iter().filter(|(path, _)| is_table(path));
        match (tables.next(), tables.next()) {
            (Some((path, _)), None) => self.table(&folder.join(path), None, asked),
            (Some(_), Some(_)) => Ok(()),
            (None, _) => match format_of(folder)? {
                Some(format) => self.overview(folder, format, name, asked.memory_mb),
                None => Ok(()),
            },
        }
    }

    fn table(
        &mut self,
        path: &Path,
        name: Option<String>,
        asked: DataArguments,
    ) -> Result<(), RegistryError> {
        let seen = TableSeen::of(path, name, asked)?;
        let text = self.parted(seen.text());
        self.add("table", seen.json(), &text);
        Ok(())
    }

    fn overview(
        &mut self,
        path: &Path,
        format: &str,
        name: Option<String>,
        memory_mb: u64,
    ) -> Result<(), RegistryError> {
        let config = configs::Dataset {
            uri: path.display().to_string(),
            format: format.to_owned(),
            name,
            memory_mb,
            ..configs::Dataset::default()
        };
        let shown = match Overview::of(&config) {
            Ok(seen) => (json!(seen), show_overview::text(&seen)),
            Err(why @ DataError::Memory { .. }) => return Err(why.into()),
            // The files themselves are listed already, so data unfit for training are reported but fail nothing.
            Err(why) if !self.text.is_empty() => {
                (json!({ "problem": why.to_string() }), format!("as {format}: {why}\n"))
            }
            Err(why) => return Err(why.into()),
        };
        let text = self.parted(shown.1);
        self.add(format, shown.0, &text);
        Ok(())
    }

    /// The text, preceded by an empty line if there is output above it.
    fn parted(&self, text: String) -> String {
        if self.text.is_empty() { text } else { format!("\n{text}") }
    }
}

fn io(path: &Path, source: std::io::Error) -> RegistryError {
    RegistryError::Io { place: path.display().to_string(), source }
}

/// A version's provenance.
fn head(manifest: &Manifest) -> String {
    let mut text = format!(
        "{}@{}  md5 {}, {} bytes\nadded {} by {} from {}\n",
        manifest.name,
        manifest.version,
        manifest.digest,
        manifest.bytes,
        manifest.at,
        manifest.by,
        path_line(&manifest.from)
    );
    if let Some(parent) = &manifest.parent {
        text.push_str(&format!("after {}@{}\n", manifest.name, parent.version));
    }
    if manifest.is_md5_only() {
        text.push_str("only MD5s vouch for its files: it was added before there was a BLAKE3\n");
    }
    if let Some(message) = &manifest.message {
        text.push_str(&format!("{}\n", path_line(message)));
    }
    text
}

/// Files counted by extension, then the first of them.
fn list(files: &[(String, u64)]) -> String {
    let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (path, bytes) in files {
        let kind = Path::new(path)
            .extension()
            .map_or_else(|| "(none)".to_owned(), |end| path_line(&end.to_string_lossy()));
        let (count, sum) = kinds.entry(kind).or_default();
        *count += 1;
        *sum = sum.saturating_add(*bytes);
    }
    let kind = |(kind, (count, bytes)): (&String, &(u64, u64))| {
        [format!("  {kind}"), counted(*count, "file"), format!("{bytes} bytes")]
    };
    let kinds = aligned(&kinds.iter().map(kind).collect::<Vec<_>>());
    let shown = files.iter().take(FILES_SHOWN_MAX);
    let shown =
        aligned(&shown.map(|(path, bytes)| [format!("  {bytes}"), path_line(path)]).collect::<Vec<_>>());
    let rest = files.len().saturating_sub(FILES_SHOWN_MAX);
    let rest = if rest > 0 { format!("  and {rest} more\n") } else { String::new() };
    format!("{}\n{kinds}\nbytes and paths\n{shown}{rest}", counted(files.len() as u64, "file"))
}
