//! The manifest: what a version holds, and the names, sizes and hashes of its files.

use serde::{Deserialize, Serialize};

/// File name of the manifest.
pub const MANIFEST: &str = "manifest.json";

/// File name of the manifest's signature.
pub const MANIFEST_SIGNATURE: &str = "manifest.json.sig";

/// A file of a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name in the version's folder.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 of the contents, in hexadecimal.
    pub blake3: String,
}

/// Description of a version.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Training step of the state.
    pub step: u64,
    /// Number of complete epochs.
    pub epoch: u64,
    /// BLAKE3 over the model's tensors, in hexadecimal.
    pub digest: String,
    /// BLAKE3 over the tensors of model and optimizer, in hexadecimal.
    pub state_digest: String,
    /// Digest of the configuration keys that change the weights.
    pub config_digest: String,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Creation time, in seconds since 1970.
    pub created: u64,
    /// Files with their hashes.
    pub files: Vec<FileEntry>,
}

/// Separates the contents from their BLAKE3.
const CHECK: &str = ",\n  \"check\": \"";

/// Follows the BLAKE3.
const END: &str = "\"\n}\n";

/// Length of a BLAKE3 in hexadecimal.
const HASH_LEN: usize = 64;

impl Manifest {
    /// Serialises the manifest: indented JSON whose last field `check` is the BLAKE3 of all text before it. So no byte
    /// of a version can change undetected, including those that only people read.
    ///
    /// # Errors
    /// If a value can't be represented in JSON (a manifest has none).
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_string_pretty(self)?;
        // The closing brace comes after the check.
        text.truncate(text.trim_end_matches('}').trim_end().len());
        let check = blake3::hash(text.as_bytes()).to_hex();
        Ok([text.as_str(), CHECK, check.as_str(), END].concat().into_bytes())
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// What is wrong, phrased to follow the file's name in a sentence.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let torn = || "is torn or damaged: it doesn't end with its check".to_owned();
        let text = std::str::from_utf8(bytes).map_err(|_| "is damaged: it is no text".to_owned())?;
        let (said, check) = text
            .strip_suffix(END)
            .and_then(|text| text.split_at_checked(text.len().checked_sub(HASH_LEN)?))
            .and_then(|(text, check)| Some((text.strip_suffix(CHECK)?, check)))
            .ok_or_else(torn)?;
        if blake3::hash(said.as_bytes()).to_hex().as_str() != check {
            return Err("is damaged: its text is not what its check says".to_owned());
        }
        let manifest: Self =
            serde_json::from_str(&format!("{said}\n}}")).map_err(|why| format!("can't be read: {why}"))?;
        match manifest.files.iter().find(|file| !is_file_name(&file.name)) {
            Some(file) => Err(format!("names a file {:?}, which is no plain file name", file.name)),
            None => Ok(manifest),
        }
    }
}

/// Whether this names a file next to the manifest: neither the manifest itself nor its signature, nor a path elsewhere.
pub(super) fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | MANIFEST | MANIFEST_SIGNATURE) && !name.contains(['/', '\\', '\0'])
}
