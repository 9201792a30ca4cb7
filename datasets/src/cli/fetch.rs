//! `datasets fetch`.

use std::path::PathBuf;

use configs::Span;
use datasets::fetch::{Catalog, RetryPolicy, fetch, unpack};
use datasets::registry::RegistryError;

use super::progress_bar::BytesBar;
use super::text::aligned;

/// Fetches a public dataset by a table of addresses and hashes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// mnist, fashion-mnist, cifar10, tiny-shakespeare, or what --table adds
    name: Option<String>,
    /// The folder for its files; data/NAME if none is named
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// A table (TOML) over the built-in one: [NAME], then [[NAME.files]] with path, bytes, md5, addresses
    #[arg(long, value_name = "FILE", env = "BONFIRE_FETCH_TABLE")]
    table: Option<PathBuf>,
    /// Time for each file, tries and pauses together
    #[arg(long, default_value = "1h")]
    deadline: Span,
    /// Time without a byte after which a connection counts as cut
    #[arg(long, default_value = "30s")]
    stall: Span,
    /// Tries in a row that may bring nothing
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    tries: u32,
}

pub(super) fn run(arguments: &Arguments) -> Result<String, RegistryError> {
    let catalog = Catalog::load(arguments.table.as_deref())?;
    let Some(name) = &arguments.name else { return Ok(list(&catalog)) };
    let dataset = catalog.find(name)?;
    let folder = arguments.to.clone().unwrap_or_else(|| PathBuf::from("data").join(name));
    let patience =
        RetryPolicy { deadline: arguments.deadline.0, stall: arguments.stall.0, tries: arguments.tries };
    let mut rows = Vec::new();
    for file in &dataset.files {
        let fetched = fetch(file, &folder, patience, &BytesBar::new(&file.path))?;
        let state = match (fetched.is_checked, fetched.was_there) {
            (true, false) => "as in the table",
            (true, true) => "was there, as in the table",
            (false, _) => "WARNING: not checked, the table has no md5 for it",
        };
        let place = fetched.path.display().to_string();
        rows.push([
            place,
            format!("{} bytes", fetched.bytes),
            format!("md5 {}", fetched.md5),
            state.to_owned(),
        ]);
    }
    let mut folder = folder;
    for file in &dataset.files {
        if let Some(how) = file.unpack {
            folder = unpack(how, &folder.join(&file.path))?;
            rows.push([folder.display().to_string(), "unpacked".to_owned(), String::new(), "idx".to_owned()]);
        }
    }
    let folder = folder.display();
    Ok(format!("{}`datasets add {folder} --name {name}` keeps them as a version\n", aligned(&rows)))
}

fn list(catalog: &Catalog) -> String {
    let row = |(name, dataset): (&String, &datasets::fetch::PublicDataset)| {
        let bytes: Option<u64> = dataset.files.iter().map(|file| file.bytes).sum();
        let bytes = bytes.map_or_else(String::new, |bytes| format!("{bytes} bytes"));
        [name.clone(), bytes, dataset.about.clone(), format!("licence: {}", dataset.licence)]
    };
    aligned(&catalog.datasets.iter().map(row).collect::<Vec<_>>())
}
