//! Text as samples: windows of bytes, file after file, that don't overlap.

use std::path::Path;

use crate::error::DataError;
use crate::files::{FileEntry, place, read_known};
use crate::form::Text;
use crate::plan::Plan;

/// Tokens are bytes.
pub(crate) const VOCABULARY: u32 = 256;

/// Whether a file of a folder is text by its name.
pub(crate) fn is_text(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
}

/// How so many tokens are cut: windows, and the tokens of the tail. The last token of the last window is a target only.
pub(crate) fn windows(tokens: u64, window: u32) -> (u64, u64) {
    let rows = tokens.saturating_sub(1) / u64::from(window.max(1));
    let used = if rows == 0 { 0 } else { rows * u64::from(window) + 1 };
    (rows, tokens - used)
}

/// The tokens of a plan's files.
pub(crate) fn open(plan: &Plan, text: &Text, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut tokens = Vec::new();
    for entry in parts(plan) {
        let path = if plan.is_folder() { place(path, entry)? } else { path.to_owned() };
        let bytes = read_known(&path, entry)?;
        if tokens.is_empty() {
            tokens = bytes;
        } else {
            tokens.extend_from_slice(&bytes);
        }
    }
    let (rows, tail) = windows(tokens.len() as u64, text.window);
    if (tokens.len() as u64, rows, tail) != (text.tokens, plan.rows, text.tail) || text.window == 0 {
        let problem = format!(
            "{} bytes in windows of {}, where the plan has {} in {} windows",
            tokens.len(),
            text.window,
            text.tokens,
            plan.rows
        );
        return Err(DataError::File { file: path.display().to_string(), problem });
    }
    Ok(tokens)
}

/// The files whose bytes are tokens.
fn parts(plan: &Plan) -> impl Iterator<Item = &FileEntry> {
    plan.files.iter().filter(|entry| !plan.is_folder() || is_text(&entry.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_the_tail() {
        let check = |tokens, window, expected| assert_eq!(windows(tokens, window), expected);
        check(0, 4, (0, 0));
        check(4, 4, (0, 4));
        check(5, 4, (1, 0));
        check(8, 4, (1, 3));
        check(9, 4, (2, 0));
        check(10, 4, (2, 1));
    }
}
