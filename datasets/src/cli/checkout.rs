//! `datasets checkout`.

use std::path::Path;

use datasets::registry::{Reference, Registry, RegistryError};

use super::progress_bar::BytesBar;
use super::text::counted;

pub(super) fn run(
    registry: &Registry,
    version: &str,
    to: &Path,
    force: bool,
) -> Result<String, RegistryError> {
    let reference: Reference = version.parse()?;
    let manifest = registry.find(&reference)?;
    let path = registry.checkout(&manifest, to, force, &BytesBar::new("checkout"))?;
    let files = counted(manifest.files.len() as u64, "file");
    Ok(format!(
        "{}@{} is in {}: {files}, {} bytes, checked\n",
        manifest.name,
        manifest.version,
        path.display(),
        manifest.bytes
    ))
}
