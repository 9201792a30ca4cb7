//! The manifest: what a version is, and the names, sizes and hashes of its files.

use serde::{Deserialize, Serialize};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";

/// The name of its signature.
pub const MANIFEST_SIGNATURE: &str = "manifest.json.sig";

/// One file of a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the version's folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
}

/// What a version is, beyond its bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The step of the state.
    pub step: u64,
    /// Epochs that are complete.
    pub epoch: u64,
    /// BLAKE3 over the model's tensors, in hexadecimal.
    pub digest: String,
    /// The same over model and optimizer tensors.
    pub state_digest: String,
    /// Digest of the keys that change the weights.
    pub config_digest: String,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The files, hashed.
    pub files: Vec<FileEntry>,
}

/// Between what the manifest says and the BLAKE3 of the text that says it.
const CHECK: &str = ",\n  \"check\": \"";

/// After that.
const END: &str = "\"\n}\n";

/// Hexadecimal digits of a BLAKE3.
const HASH_LEN: usize = 64;

impl Manifest {
    /// The file: indented JSON, with a last field `check` that is the BLAKE3 of all the text before it. So no byte
    /// of a version can change unseen, those that only people read included.
    ///
    /// # Errors
    /// What JSON can't say (there is nothing of that kind in a manifest so far).
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_string_pretty(self)?;
        // The closing brace comes after the check.
        text.truncate(text.trim_end_matches('}').trim_end().len());
        let check = blake3::hash(text.as_bytes()).to_hex();
        Ok([text.as_str(), CHECK, check.as_str(), END].concat().into_bytes())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence that begins with its name.
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

/// Whether this names a file beside the manifest: not the manifest itself nor its signature, nothing elsewhere.
pub(super) fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | MANIFEST | MANIFEST_SIGNATURE) && !name.contains(['/', '\\', '\0'])
}
