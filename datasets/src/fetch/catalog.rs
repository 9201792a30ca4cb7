//! The table of public datasets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;

use super::unpack::Unpack;
use crate::registry::RegistryError;

/// Maximum size of a table in bytes: ten thousand files.
const TABLE_BYTES_MAX: u64 = 4 << 20;
const BUILT_IN: &str = include_str!("catalog.toml");

/// Public datasets by name.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(transparent)]
pub struct Catalog {
    /// Datasets by name.
    pub datasets: BTreeMap<String, PublicDataset>,
}

/// A public dataset.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicDataset {
    /// One-line description.
    #[serde(default)]
    pub about: String,
    /// Licence of the dataset.
    #[serde(default)]
    pub licence: String,
    /// Where the hashes come from, and which of them were checked.
    #[serde(default)]
    pub source: String,
    /// Files to download.
    pub files: Vec<PublicFile>,
}

/// A file of a public dataset.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicFile {
    /// Path relative to the target folder.
    pub path: String,
    /// Size in bytes, if known.
    pub bytes: Option<u64>,
    /// MD5 in hexadecimal, if known; without it the file can't be verified.
    pub md5: Option<String>,
    /// Download URLs (`https://` or `http://`), preferred first.
    pub addresses: Vec<String>,
    /// How to unpack it, if runs can't read it as it is.
    pub unpack: Option<Unpack>,
}

impl Catalog {
    /// Loads the built-in table, overridden by that of a file.
    ///
    /// # Errors
    /// If the file can't be read or is invalid.
    pub fn load(over: Option<&Path>) -> Result<Self, RegistryError> {
        let mut catalog = Self::parse(BUILT_IN, Path::new("the built-in table"))?;
        if let Some(path) = over {
            let file = File::open(path).map_err(RegistryError::at(path))?;
            let mut text = String::new();
            file.take(TABLE_BYTES_MAX + 1).read_to_string(&mut text).map_err(RegistryError::at(path))?;
            if text.len() as u64 > TABLE_BYTES_MAX {
                let problem = format!("a table of more than {TABLE_BYTES_MAX} bytes is not read");
                return Err(RegistryError::Misused(format!("{}: {problem}", path.display())));
            }
            catalog.datasets.extend(Self::parse(&text, path)?.datasets);
        }
        Ok(catalog)
    }

    /// Looks up a dataset by name.
    ///
    /// # Errors
    /// If the table has no such dataset.
    pub fn find(&self, name: &str) -> Result<&PublicDataset, RegistryError> {
        self.datasets.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.datasets.keys().map(String::as_str).collect();
            let names = names.join(", ");
            RegistryError::Misused(format!(
                "{name:?} is not in the table of public datasets, which has {names}; `--table FILE` adds others"
            ))
        })
    }

    fn parse(text: &str, path: &Path) -> Result<Self, RegistryError> {
        let refuse = |problem: String| RegistryError::Misused(format!("{}: {problem}", path.display()));
        let catalog: Self = toml::from_str(text).map_err(|why| {
            let line = why.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            refuse(format!("line {line}: {}", why.message()))
        })?;
        for (name, dataset) in &catalog.datasets {
            if dataset.files.is_empty() {
                return Err(refuse(format!("{name} has no [[{name}.files]]")));
            }
            for file in &dataset.files {
                file.check().map_err(|problem| refuse(format!("{name}: {:?}: {problem}", file.path)))?;
            }
        }
        Ok(catalog)
    }
}

impl PublicFile {
    fn check(&self) -> Result<(), String> {
        let mut parts = Path::new(&self.path).components();
        if self.path.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Err("the path leads out of the folder; expected one such as \"data.csv\"".to_owned());
        }
        if let Some(md5) = self.md5.as_ref().filter(|md5| !crate::registry::is_md5(md5)) {
            return Err(format!("md5 = {md5:?}: expected 32 of 0-9 and a-f, or no md5"));
        }
        if self.addresses.is_empty() {
            return Err("addresses = []: expected at least one".to_owned());
        }
        let is_address = |text: &&String| !text.starts_with("https://") && !text.starts_with("http://");
        match self.addresses.iter().find(is_address) {
            Some(text) => Err(format!("the address {text:?} begins neither with https:// nor with http://")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_right() {
        let catalog = Catalog::load(None).expect("right");
        let names: Vec<&String> = catalog.datasets.keys().collect();
        assert_eq!(names, ["cifar10", "fashion-mnist", "mnist", "tiny-shakespeare"]);
        for dataset in catalog.datasets.values() {
            assert!(!dataset.about.is_empty() && !dataset.source.is_empty() && !dataset.licence.is_empty());
            assert!(dataset.files.iter().all(|file| file.md5.is_some()));
        }
        assert_eq!(catalog.find("mnist").expect("there").files.len(), 4);
        assert!(catalog.find("mnits").expect_err("absent").to_string().contains("fashion-mnist"));
    }

    #[test]
    fn what_a_table_says_wrongly_is_named() {
        let check = |text: &str, says: &str| {
            let error = Catalog::parse(text, Path::new("t.toml")).expect_err(text);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(says) && error.to_string().starts_with("t.toml: "), "{error}");
        };
        let file = |path: &str, md5: &str, addresses: &str| {
            format!("[d]\n[[d.files]]\npath = {path:?}\nmd5 = {md5:?}\naddresses = [{addresses}]\n")
        };
        let md5 = "0".repeat(32);
        Catalog::parse(&file("a/b", &md5, "\"http://h/a\""), Path::new("t.toml")).expect("right");
        check(&file("../a", &md5, "\"http://h/a\""), "leads out");
        check(&file("/a", &md5, "\"http://h/a\""), "leads out");
        check(&file("a", "xyz", "\"http://h/a\""), "expected 32");
        check(&file("a", &md5, ""), "at least one");
        check(&file("a", &md5, "\"ftp://h/a\""), "ftp://");
        check("[d]\nfiles = []\n", "no [[d.files]]");
        check("[d]\nfiles = []\nother = 1\n", "line 3");
        check("[d\n", "line 1");
    }
}
