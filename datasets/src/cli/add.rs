//! `datasets add`.

use std::path::PathBuf;
use std::time::SystemTime;

use datasets::registry::{Registry, RegistryError, Request, utc};

use super::progress_bar::BytesBar;
use super::text::counted;

pub(super) fn run(
    registry: &Registry,
    path: PathBuf,
    name: String,
    message: Option<String>,
) -> Result<String, RegistryError> {
    let request = Request { path, name, message, by: user(), at: utc(SystemTime::now()) };
    let bar = BytesBar::new("add");
    let added = registry.add(&request, &bar)?;
    drop(bar);
    let manifest = &added.manifest;
    let (name, version) = (&manifest.name, manifest.version);
    let size = format!("{}, {} bytes", counted(manifest.files.len() as u64, "file"), manifest.bytes);
    Ok(match (added.is_new, added.same_as) {
        (false, _) => format!(
            "{name}@{version} has these bytes already ({size}, md5 {}); nothing was added\n",
            manifest.digest
        ),
        (true, None) => format!("{name}@{version}  md5 {}, {size}\n", manifest.digest),
        (true, Some(older)) => {
            format!("{name}@{version}  md5 {}, {size}; the same bytes as {name}@{older}\n", manifest.digest)
        }
    })
}

fn user() -> String {
    let named = ["USER", "LOGNAME", "USERNAME"].iter().filter_map(|name| std::env::var(name).ok());
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(uid)
}

#[cfg(unix)]
fn uid() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

#[cfg(not(unix))]
fn uid() -> String {
    "unknown".to_owned()
}
