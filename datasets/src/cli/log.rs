//! `datasets log`.

use datasets::registry::{Manifest, Registry, RegistryError};
use serde_json::json;

use super::PrintFormat;
use super::text::{aligned, path_line};

pub(super) fn run(
    registry: &Registry,
    name: Option<&str>,
    output: PrintFormat,
) -> Result<String, RegistryError> {
    let mut versions = Vec::new();
    match name {
        Some(name) => versions = registry.versions(name)?,
        None => {
            for name in registry.names()? {
                versions.append(&mut registry.versions(&name)?);
            }
        }
    }
    if output == PrintFormat::Json {
        let all: Vec<_> = versions.iter().map(value).collect();
        return Ok(printable::json(&format!("{:#}\n", serde_json::Value::from(all))).into_owned());
    }
    if versions.is_empty() {
        let place = registry.root().display();
        return Ok(format!("there are no datasets in {place}; `datasets add PATH --name NAME` adds one\n"));
    }
    let mut rows = vec![["version", "digest", "files", "bytes", "when", "who", "message"].map(str::to_owned)];
    rows.extend(versions.iter().map(|version| {
        [
            format!("{}@{}", version.name, version.version),
            version.digest.chars().take(8).collect(),
            version.files.len().to_string(),
            version.bytes.to_string(),
            version.at.clone(),
            version.by.clone(),
            path_line(version.message.as_deref().unwrap_or_default()),
        ]
    }));
    Ok(aligned(&rows))
}

/// A manifest as JSON, without its files.
fn value(version: &Manifest) -> serde_json::Value {
    json!({
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "files": version.files.len(),
        "bytes": version.bytes,
        "md5_only": version.is_md5_only(),
        "at": version.at,
        "by": version.by,
        "from": version.from,
        "message": version.message,
        "parent": version.parent,
    })
}
