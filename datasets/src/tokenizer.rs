//! Tokenisation by a tokenizer's JSON file, the format in which language models are published.
//!
//! Text is encoded in pieces, so memory is bounded regardless of length: a piece ends after the last empty line within
//! a mebibyte, else after the last line, else at the last character. Tokens never span pieces, and prefixes that a
//! tokenizer adds (a space, say) precede each piece. Special tokens that frame a sentence are not added; those in the
//! text are recognised. Truncation and padding are disabled, even if the file asks for them: each piece is encoded in
//! full.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tokenizers::Tokenizer;

use crate::digest::{Digests, Hashed, md5_of_bytes};
use crate::error::DataError;
use crate::format::{Format, TokenizerFile};
use crate::memory_budget::{MemoryBudget, OverBudget, read_whole};
use crate::parallel::in_parallel;
use crate::plan::DataPlan;

/// Maximum size of a piece in bytes.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces encoded in parallel: bounds the memory for text of any length.
const PIECES: usize = 16;
/// Maximum size of a tokenizer's file in bytes: the largest published ones have 34 MB.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Memory for loading a tokenizer, in multiples of its file size: the text, its parsed form, and maps both ways.
const FILE_TIMES: u64 = 24;
/// Memory for a loaded tokenizer, likewise.
const KEPT_TIMES: u64 = 8;
/// Maximum vocabulary size: four times the largest published one. A model's head has a row per token.
const VOCABULARY_MAX: u32 = 1 << 20;
/// Maximum tokens decoded together.
const CONTEXT_MAX: usize = 64;

/// A tokenizer loaded from a JSON file.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    vocabulary: u32,
}

/// A tokenizer together with its file's contents and digest.
pub(crate) struct TokenizerRead {
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) json: String,
    pub(crate) md5: String,
    pub(crate) bytes: u64,
}

impl DataPlan {
    /// The tokenizer of the text; `None` for byte tokens.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&TokenizerFile> {
        match &self.form {
            Format::Text(text) => text.tokenizer.as_ref(),
            Format::Csv(_) | Format::Parquet(_) | Format::Idx(_) | Format::Images(_) => None,
        }
    }

    /// Loads the plan's tokenizer and its file's contents from a matching file; `None` for byte tokens.
    ///
    /// # Errors
    /// If the file can't be read, or doesn't match.
    pub fn read_tokenizer(&self, path: &Path) -> Result<Option<(TextTokenizer, String)>, DataError> {
        self.read_tokenizer_within(path, &self.memory())
    }

    pub(crate) fn read_tokenizer_within(
        &self,
        path: &Path,
        memory: &MemoryBudget,
    ) -> Result<Option<(TextTokenizer, String)>, DataError> {
        let Some(expected) = self.tokenizer() else { return Ok(None) };
        let read = TextTokenizer::read(path, memory)?;
        if read.md5 != expected.md5 {
            let (file, expected) = (path.display().to_string(), expected.md5.clone());
            return Err(DataError::Changed { file, found: read.md5, expected });
        }
        Ok(Some((read.tokenizer, read.json)))
    }

    /// Mean number of bytes per token.
    #[must_use]
    pub fn bytes_per_token(&self) -> f64 {
        match &self.form {
            Format::Text(text) if text.tokenizer.is_some() => text.bytes as f64 / text.tokens.max(1) as f64,
            _ => 1.0,
        }
    }
}

impl TextTokenizer {
    /// Loads a tokenizer's file.
    ///
    /// # Errors
    /// If it can't be read, or isn't a tokenizer.
    pub(crate) fn read(path: &Path, memory: &MemoryBudget) -> Result<TokenizerRead, DataError> {
        let refuse = |problem| DataError::File { file: path.display().to_string(), problem };
        if crate::files::length(path)? > FILE_BYTES_MAX {
            return Err(refuse(format!("a tokenizer of more than {FILE_BYTES_MAX} bytes is not read")));
        }
        let (bytes, parsed) = read_whole(path, memory, FILE_TIMES)?;
        let tokenizer = Self::parse(&bytes).map_err(refuse)?;
        let (md5, length) = (md5_of_bytes(&bytes), bytes.len() as u64);
        drop(parsed);
        memory.hold(length.saturating_mul(KEPT_TIMES)).map_err(|why| why.of(path))?;
        let json = String::from_utf8(bytes).map_err(|_| refuse("this is no text".to_owned()))?;
        Ok(TokenizerRead { tokenizer, json, md5, bytes: length })
    }

    /// Parses a tokenizer's JSON.
    ///
    /// # Errors
    /// If it isn't a tokenizer; the error is a message.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let parsed = guarded(|| Tokenizer::from_bytes(json))?;
        let mut inner = parsed.map_err(|why| format!("this is no tokenizer's JSON file: {why}"))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|why| format!("this tokenizer can't be used: {why}"))?;
        // Token numbers may have gaps, but a model has an output for each number.
        let last = inner.get_vocab(true).into_values().max();
        match last.and_then(|last| last.checked_add(1)) {
            Some(vocabulary @ 2..=VOCABULARY_MAX) => Ok(Self { inner, vocabulary }),
            Some(vocabulary) if vocabulary > VOCABULARY_MAX => Err(format!(
                "this tokenizer has a token of number {}, and a model has an output for each number: at most {} are taken",
                vocabulary - 1,
                VOCABULARY_MAX
            )),
            _ => Err("this tokenizer knows fewer than two tokens".to_owned()),
        }
    }

    /// Highest token number plus one; at most 1,048,576.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Encodes a text as one piece.
    ///
    /// # Errors
    /// If the tokenizer can't encode it, for example because its model lacks an unknown token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoded = guarded(|| self.inner.encode_fast(text, false))?;
        encoded
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|why| format!("it can't be encoded: {why}"))
    }

    /// Decodes tokens; U+FFFD marks incomplete characters.
    ///
    /// # Errors
    /// If the tokenizer can't decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        guarded(|| self.inner.decode(tokens, false))?.map_err(|why| format!("tokens can't be decoded: {why}"))
    }

    /// Appends the tokens of a file, and returns the file's digests.
    pub(crate) fn encode_file(
        &self,
        path: &Path,
        tokens: &mut Vec<u32>,
        memory: &MemoryBudget,
    ) -> Result<Digests, DataError> {
        let io = |source| DataError::Io { file: path.display().to_string(), source };
        let mut source = Hashed::new(File::open(path).map_err(io)?);
        let (mut rest, mut offset): (Vec<u8>, u64) = (Vec::new(), 0);
        loop {
            let before = rest.len();
            let wanted = (PIECES * PIECE_BYTES - before) as u64;
            let read = source.by_ref().take(wanted).read_to_end(&mut rest).map_err(io)?;
            let is_last = (read as u64) < wanted;
            let pieces = pieces(&rest, is_last);
            let texts: Vec<(u64, &[u8])> = pieces
                .iter()
                .scan(0, |start, end| Some((std::mem::replace(start, *end), *end)))
                .map(|(start, end)| (offset + start as u64, &rest[start..end]))
                .collect();
            let encoded = in_parallel(&texts, |(at, bytes)| {
                let wrong =
                    |offset, problem| DataError::Byte { file: path.display().to_string(), offset, problem };
                let text = std::str::from_utf8(bytes).map_err(|why| {
                    let problem = "the text is not UTF-8 here, which dataset.tokenizer needs";
                    wrong(at + why.valid_up_to() as u64, problem.to_owned())
                })?;
                self.encode(text).map_err(|problem| wrong(*at, problem))
            });
            for piece in encoded {
                let piece = piece?;
                make_room(tokens, piece.len(), memory).map_err(|why| why.of(path))?;
                tokens.extend_from_slice(&piece);
            }
            let done = pieces.last().copied().unwrap_or(0);
            rest.drain(..done);
            offset += done as u64;
            if is_last {
                return Ok(source.digests());
            }
        }
    }
}

/// Reserves room for `more` tokens, growing by half: a vector grown by itself doubles, bypassing the memory budget.
fn make_room(tokens: &mut Vec<u32>, more: usize, memory: &MemoryBudget) -> Result<(), OverBudget> {
    if tokens.capacity() - tokens.len() >= more {
        return Ok(());
    }
    let more = more.max(tokens.len() / 2);
    let bytes = |count: usize| (count as u64).saturating_mul(size_of::<u32>() as u64);
    memory.hold(bytes(tokens.len() + more).saturating_sub(bytes(tokens.capacity())))?;
    // While they move, they are in memory twice.
    drop(memory.holding(bytes(tokens.len()))?);
    tokens.reserve_exact(more);
    Ok(())
}

/// End offsets of the pieces in these bytes. Bytes after the last end continue in the next buffer, unless `is_last`.
fn pieces(bytes: &[u8], is_last: bool) -> Vec<usize> {
    let (mut ends, mut start) = (Vec::new(), 0);
    while bytes.len() - start > PIECE_BYTES {
        start += cut(&bytes[start..start + PIECE_BYTES]);
        ends.push(start);
    }
    if is_last && start < bytes.len() {
        ends.push(bytes.len());
    }
    ends
}

/// End of the piece that begins here; `bytes` has the maximum length of a piece.
fn cut(bytes: &[u8]) -> usize {
    let after =
        |end: &[u8]| bytes.windows(end.len()).rposition(|found| found == end).map(|at| at + end.len());
    let paragraph = after(b"\n\n").max(after(b"\r\n\r\n"));
    let line = || after(b"\n");
    // A character starts at a non-continuation byte. Without any, this isn't UTF-8, which is reported elsewhere.
    let character = || bytes.iter().rposition(|byte| byte & 0xc0 != 0x80).filter(|at| *at > 0);
    paragraph.or_else(line).or_else(character).unwrap_or(bytes.len())
}

/// Incremental decoding, token by token.
#[derive(Debug)]
pub struct Decoding<'a> {
    tokenizer: &'a TextTokenizer,
    /// Tokens whose text may depend on what follows, with a few before them as context.
    tokens: Vec<u32>,
    /// Number of bytes of their text returned so far.
    given: usize,
}

impl<'a> Decoding<'a> {
    /// Continues after these tokens, whose text has been returned already.
    ///
    /// # Errors
    /// As [`TextTokenizer::decode`].
    pub fn after(tokenizer: &'a TextTokenizer, tokens: &[u32]) -> Result<Self, String> {
        let tokens = tokens[tokens.len().saturating_sub(CONTEXT_MAX / 2)..].to_vec();
        let given = tokenizer.decode(&tokens)?.len();
        Ok(Self { tokenizer, tokens, given })
    }

    /// Returns the text completed by this token: empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`TextTokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String, String> {
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens)?;
        // Bytes that never become a character are returned eventually.
        if text.ends_with('\u{fffd}') && self.tokens.len() < CONTEXT_MAX {
            return Ok(String::new());
        }
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        if self.tokens.len() >= CONTEXT_MAX {
            self.tokens.drain(..CONTEXT_MAX / 2);
            self.given = self.tokenizer.decode(&self.tokens)?.len();
        } else {
            self.given = text.len();
        }
        Ok(new)
    }
}

/// Turns the tokenizers crate's panics, for example on violated assertions about a file, into errors.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .map_err(|_| "the tokenizer's library gave up on it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_a_text_does_pause() {
        assert_eq!(cut(b"a\n\nb\nc"), 3);
        assert_eq!(cut(b"a\r\n\r\nb\r\nc"), 5);
        assert_eq!(cut(b"a\nb\nc"), 4);
        assert_eq!(cut("ab\u{e9}".as_bytes()), 2, "the last character may go on");
        assert_eq!(cut(b"\x80\x80"), 2, "no UTF-8");
        let text = "line of a text\n".repeat(200_000);
        let ends = pieces(text.as_bytes(), true);
        assert_eq!(ends.last(), Some(&text.len()));
        let sizes = ends.iter().scan(0, |start, end| Some(end - std::mem::replace(start, *end)));
        assert!(sizes.into_iter().all(|size| size <= PIECE_BYTES && size.is_multiple_of(15)));
        assert!(pieces(b"short", false).is_empty());
    }
}
