//! A folder's listing in DVC's format, and its digest.
//!
//! The bytes are those of Python's `json.dumps(entries, sort_keys=True)`, which is how DVC 3 writes a `.dir` object:
//! one line, separators `", "` and `": "`, everything but printable ASCII escaped as UTF-16 units, entries sorted by
//! relpath in code-point order (for UTF-8 that is byte order). `tests/vectors` holds listings written by DVC.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::digest::{Digests, md5_of_bytes};

/// Suffix of a folder's digest.
pub(crate) const FOLDER_SUFFIX: &str = ".dir";

/// One file of a dataset.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path relative to the folder, with `/` on every system; for a single-file dataset, the file's name.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// MD5 in hexadecimal: the key in DVC.
    pub md5: String,
    /// BLAKE3 in hexadecimal, which provides integrity. `None` in records older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

impl FileEntry {
    pub(crate) fn new(path: String, digests: Digests) -> Self {
        Self { path, bytes: digests.bytes, md5: digests.md5, blake3: Some(digests.blake3) }
    }

    /// How `found` differs from this entry; `None` if it matches.
    pub(crate) fn differs(&self, found: &Digests) -> Option<String> {
        if found.md5 != self.md5 {
            return Some(format!("its MD5 is {}, not {}", found.md5, self.md5));
        }
        match &self.blake3 {
            Some(blake3) if *blake3 != found.blake3 => Some(format!(
                "its BLAKE3 is {}, not {blake3}, though its MD5 is the same: somebody made it so on purpose",
                found.blake3
            )),
            _ => None,
        }
    }
}

/// Serialises these files, in any order, as a DVC `.dir` object.
#[must_use]
pub fn listing(files: &[FileEntry]) -> Vec<u8> {
    let mut files: Vec<&FileEntry> = files.iter().collect();
    files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let mut text = String::from("[");
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str("{\"md5\": ");
        push_escaped(&mut text, &file.md5);
        text.push_str(", \"relpath\": ");
        push_escaped(&mut text, &file.path);
        text.push('}');
    }
    text.push(']');
    text.into_bytes()
}

/// Digest of a folder with these files: the MD5 of its listing, with the suffix `.dir`.
#[must_use]
pub fn directory_digest(files: &[FileEntry]) -> String {
    format!("{}{FOLDER_SUFFIX}", md5_of_bytes(&listing(files)))
}

/// A JSON string as Python's encoder writes it with `ensure_ascii`; DEL is escaped too.
fn push_escaped(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, content: &str) -> FileEntry {
        FileEntry::new(path.to_owned(), Digests::of_bytes(content.as_bytes()))
    }

    #[test]
    fn a_folder_has_the_digest_that_dvc_gives_it() {
        // Computed by DVC 3.67.1 from three files.
        let files = [entry("sub/c.txt", "c\n"), entry("a.txt", "a\n"), entry("sub-1.txt", "a\n")];
        assert_eq!(directory_digest(&files), "41f72c8eb3951c08029e91562c1ab389.dir");
        assert_eq!(directory_digest(&[]), "d751713988987e9331980363e24189ce.dir");
    }

    #[test]
    fn names_are_written_as_python_writes_them() {
        // Python 3.11: json.dumps([{"md5": "0", "relpath": NAME}], sort_keys=True)
        let names = [
            ("\u{e9}\"\\\n\u{1}\u{1f600}", r#"\u00e9\"\\\n\u0001\ud83d\ude00"#),
            ("del\u{7f}ete\u{80}~ ", r"del\u007fete\u0080~ "),
        ];
        for (name, written) in names {
            let file = FileEntry { path: name.to_owned(), bytes: 0, md5: "0".to_owned(), blake3: None };
            let expected = format!("[{{\"md5\": \"0\", \"relpath\": \"{written}\"}}]");
            assert_eq!(String::from_utf8(listing(&[file])).expect("ASCII"), expected);
        }
    }

    proptest! {
        #[test]
        fn a_listing_is_json_of_the_same_files(
            names in proptest::collection::btree_set("[^\u{0}/]{1,12}", 0..8)
        ) {
            let files: Vec<FileEntry> = names.iter().rev().map(|name| entry(name, name)).collect();
            let bytes = listing(&files);
            prop_assert!(bytes.iter().all(|byte| (b' '..=b'~').contains(byte)));
            let read: Vec<std::collections::BTreeMap<String, String>> =
                serde_json::from_slice(&bytes).expect("JSON");
            let paths: Vec<&String> = read.iter().map(|file| &file["relpath"]).collect();
            prop_assert_eq!(paths, names.iter().collect::<Vec<_>>());
        }
    }
}
