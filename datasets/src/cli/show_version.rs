//! `datasets show`: what kind of thing it is that is to be shown.

use std::collections::BTreeMap;
use std::path::Path;

use datasets::compare::is_table;
use datasets::registry::{Manifest, Registry, RegistryError, files_of};

use super::text::{aligned, counted, path_line};
use super::{Meant, show};

/// Files that are listed.
const FILES_SHOWN_MAX: usize = 20;

pub(super) fn run(registry: &Registry, what: &str, target: Option<String>) -> Result<String, RegistryError> {
    match Meant::by(what)? {
        Meant::Path(path) if path.is_dir() => {
            let found = files_of(&path)?;
            let sized = found.into_iter().map(|(relative, own)| {
                let bytes = std::fs::metadata(&own).map_err(|source| io(&own, source))?.len();
                Ok((relative, bytes))
            });
            let files: Vec<(String, u64)> = sized.collect::<Result<_, RegistryError>>()?;
            let text = format!("{}\n{}", path.display(), list(&files));
            with_only_table(text, &path, &files, target)
        }
        Meant::Path(path) => Ok(show::table(&path, None, target)?),
        Meant::Version(reference) => {
            let manifest = registry.find(&reference)?;
            let path = registry.view(&manifest)?;
            let text = head(&manifest);
            let files: Vec<(String, u64)> =
                manifest.files.iter().map(|file| (file.path.clone(), file.bytes)).collect();
            if manifest.is_folder() {
                return with_only_table(text + &list(&files), &path, &files, target);
            }
            match files.as_slice() {
                [(name, _)] if is_table(name) => {
                    Ok(format!("{text}\n{}", show::table(&path, Some(manifest.name), target)?))
                }
                _ => Ok(text + &list(&files)),
            }
        }
    }
}

/// The table too, if the folder has just one.
fn with_only_table(
    text: String,
    folder: &Path,
    files: &[(String, u64)],
    target: Option<String>,
) -> Result<String, RegistryError> {
    let mut tables = files.iter().filter(|(path, _)| is_table(path));
    match (tables.next(), tables.next()) {
        (Some((path, _)), None) => Ok(format!("{text}\n{}", show::table(&folder.join(path), None, target)?)),
        _ => Ok(text),
    }
}

fn io(path: &Path, source: std::io::Error) -> RegistryError {
    RegistryError::Io { place: path.display().to_string(), source }
}

/// Where a version comes from.
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
    if let Some(message) = &manifest.message {
        text.push_str(&format!("{}\n", path_line(message)));
    }
    text
}

/// Files by the ends of their names, then the first of them.
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
