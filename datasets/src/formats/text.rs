//! Text as samples: consecutive, non-overlapping windows of tokens. Tokens are bytes or come from a tokenizer.

use std::ops::Range;
use std::path::Path;

use crate::error::DataError;
use crate::files::{changed, place, read_known};
use crate::format::{Text, TokenizerFile};
use crate::listing::FileEntry;
use crate::memory_budget::MemoryBudget;
use crate::plan::DataPlan;

/// Vocabulary size of byte tokens.
pub(crate) const VOCABULARY: u32 = 256;

/// Whether the file extension is that of text.
pub(crate) fn is_text(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
}

/// Splits a number of tokens into windows and a tail. The last token of the last window serves only as a target.
pub(crate) fn windows(tokens: u64, window: u32) -> (u64, u64) {
    let rows = tokens.saturating_sub(1) / u64::from(window.max(1));
    let used = if rows == 0 { 0 } else { rows * u64::from(window) + 1 };
    (rows, tokens - used)
}

#[derive(Debug)]
pub(crate) enum Tokens {
    /// Byte tokens.
    Bytes(Vec<u8>),
    /// Token numbers from a tokenizer.
    Numbers(Vec<u32>),
}

impl Tokens {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Numbers(numbers) => numbers.len(),
        }
    }

    /// Appends a range of tokens to `out`.
    pub(crate) fn extend(&self, range: Range<usize>, out: &mut Vec<u32>) {
        match self {
            Self::Bytes(bytes) => out.extend(bytes[range].iter().copied().map(u32::from)),
            Self::Numbers(numbers) => out.extend_from_slice(&numbers[range]),
        }
    }
}

/// XXH3-64 of tokens, in hexadecimal.
pub(crate) fn hash(tokens: &[u32]) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    tokens.iter().for_each(|token| hasher.update(&token.to_le_bytes()));
    format!("{:016x}", hasher.digest())
}

/// Reads the tokens of a plan's files, and the contents of the tokenizer's file, if there is one.
pub(crate) fn open(
    plan: &DataPlan,
    text: &Text,
    path: &Path,
    memory: &MemoryBudget,
) -> Result<(Tokens, Option<String>), DataError> {
    let (tokens, json) = match &text.tokenizer {
        None => (Tokens::Bytes(read(plan, path, memory)?), None),
        Some(tokenizer) => {
            let (numbers, json) = encode(plan, tokenizer, path, memory)?;
            (Tokens::Numbers(numbers), Some(json))
        }
    };
    let (rows, tail) = windows(tokens.len() as u64, text.window);
    if (tokens.len() as u64, rows, tail) != (text.tokens, plan.rows, text.tail) || text.window == 0 {
        let problem = format!(
            "{} tokens in windows of {}, where the plan has {} in {} windows",
            tokens.len(),
            text.window,
            text.tokens,
            plan.rows
        );
        return Err(DataError::File { file: path.display().to_string(), problem });
    }
    Ok((tokens, json))
}

fn read(plan: &DataPlan, path: &Path, memory: &MemoryBudget) -> Result<Vec<u8>, DataError> {
    let all = parts(plan).fold(0u64, |all, entry| all.saturating_add(entry.bytes));
    memory.hold(all).map_err(|why| why.of(path))?;
    let mut tokens = Vec::new();
    for entry in parts(plan) {
        let path = if plan.is_folder() { place(path, entry)? } else { path.to_owned() };
        let is_only = entry.bytes == all;
        let _beside = memory.holding(if is_only { 0 } else { entry.bytes }).map_err(|why| why.of(&path))?;
        let bytes = read_known(&path, entry)?;
        if tokens.is_empty() && is_only {
            tokens = bytes;
        } else {
            tokens.reserve_exact(usize::try_from(all).unwrap_or(0).saturating_sub(tokens.len()));
            tokens.extend_from_slice(&bytes);
        }
    }
    Ok(tokens)
}

/// Encodes a plan's files with its tokenizer.
fn encode(
    plan: &DataPlan,
    file: &TokenizerFile,
    path: &Path,
    memory: &MemoryBudget,
) -> Result<(Vec<u32>, String), DataError> {
    // Try the coordinator's path, valid on the same machine; else the folder of the data, where workers keep fetched
    // files under their digests.
    let beside = path.with_file_name(&file.md5);
    let read = match plan.read_tokenizer_within(Path::new(&file.path), memory) {
        Err(_) if beside.is_file() => plan.read_tokenizer_within(&beside, memory),
        read => read,
    };
    let refuse = |problem: String| DataError::File { file: path.display().to_string(), problem };
    let (tokenizer, json) = read?.ok_or_else(|| refuse("the plan has no tokenizer".to_owned()))?;
    let mut tokens = Vec::new();
    for entry in parts(plan) {
        let path = if plan.is_folder() { place(path, entry)? } else { path.to_owned() };
        let found = tokenizer.encode_file(&path, &mut tokens, memory)?;
        if entry.differs(&found).is_some() {
            return Err(changed(&path, entry, &found));
        }
    }
    // Consumers index embedding tables with these tokens.
    let is_within = tokens.iter().all(|token| *token < file.vocabulary);
    if !is_within || hash(&tokens) != file.tokens_hash {
        return Err(refuse(
            "the tokenizer makes other tokens of this text here than where the run was started: are the programs of \
             another version?"
                .to_owned(),
        ));
    }
    Ok((tokens, json))
}

/// The entries that are text and not skipped.
pub(crate) fn parts(plan: &DataPlan) -> impl Iterator<Item = &FileEntry> {
    let skipped = plan.form.skipped().map(|skipped| skipped.listed.as_slice()).unwrap_or_default();
    let is_text = |entry: &FileEntry| !plan.is_folder() || is_text(&entry.path);
    plan.files.iter().filter(move |entry| is_text(entry) && !skipped.contains(&entry.path))
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
