//! Text as the tokens of a tokenizer's JSON file, the form that language models are published with.
//!
//! A text is encoded piece by piece, so that the memory for it is bounded whatever its length: a piece ends after the last
//! empty line within a mebibyte, else after the last line, else at the last character. A token never goes over the end of a
//! piece, and whatever a tokenizer puts before a text (a space, say) it puts before each piece. Special tokens that frame a
//! sentence are not added; those that stand in the text are taken as such. Truncation and padding, if the file asks for
//! them, are not done: each piece is encoded whole.

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

/// Bytes of a piece of text that is encoded at once.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that are encoded side by side: memory for so many and their tokens is what a text of any length takes.
const PIECES: usize = 16;
/// Bytes of a tokenizer's file at most: the largest published ones have 34 MB.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// What a tokenizer takes in bytes of its file: the text, what it is parsed to on the way, and maps in both directions.
const FILE_TIMES: u64 = 24;
/// What it takes as long as it lives, likewise.
const KEPT_TIMES: u64 = 8;
/// Numbers that tokens may have: four times the largest published vocabulary. A model's head has a row for each.
const VOCABULARY_MAX: u32 = 1 << 20;
/// Tokens that are looked at together when text is made of them.
const CONTEXT_MAX: usize = 64;

/// A tokenizer.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    vocabulary: u32,
}

/// A tokenizer's file that was read.
pub(crate) struct TokenizerRead {
    pub(crate) tokenizer: TextTokenizer,
    /// Its text.
    pub(crate) json: String,
    /// The MD5 of its bytes.
    pub(crate) md5: String,
    /// How many they are.
    pub(crate) bytes: u64,
}

impl DataPlan {
    /// The tokenizer that the text was encoded with; none where tokens are bytes.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&TokenizerFile> {
        match &self.form {
            Format::Text(text) => text.tokenizer.as_ref(),
            Format::Csv(_) | Format::Parquet(_) | Format::Idx(_) | Format::Images(_) => None,
        }
    }

    /// Reads the plan's tokenizer from a file, which must be the one that the plan was made with: it and the file's text;
    /// none where tokens are bytes.
    ///
    /// # Errors
    /// When the file can't be read, or is another one.
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

    /// Bytes of text that a token stands for on average.
    #[must_use]
    pub fn bytes_per_token(&self) -> f64 {
        match &self.form {
            Format::Text(text) if text.tokenizer.is_some() => text.bytes as f64 / text.tokens.max(1) as f64,
            _ => 1.0,
        }
    }
}

impl TextTokenizer {
    /// Reads a tokenizer's file.
    ///
    /// # Errors
    /// When it can't be read, or is no tokenizer.
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

    /// Reads a tokenizer's JSON.
    ///
    /// # Errors
    /// When it is no tokenizer, in words.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let parsed = guarded(|| Tokenizer::from_bytes(json))?;
        let mut inner = parsed.map_err(|why| format!("this is no tokenizer's JSON file: {why}"))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|why| format!("this tokenizer can't be used: {why}"))?;
        // Numbers of tokens may have gaps: a model has an output for each number all the same.
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

    /// One more than the highest number of a token; 1,048,576 at most.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The tokens of a text, encoded as one piece.
    ///
    /// # Errors
    /// When the tokenizer can't encode it (its model lacks a token for what is unknown, for example).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoded = guarded(|| self.inner.encode_fast(text, false))?;
        encoded
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|why| format!("it can't be encoded: {why}"))
    }

    /// The text of tokens; U+FFFD where they end within a character.
    ///
    /// # Errors
    /// When the tokenizer can't put them together.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        guarded(|| self.inner.decode(tokens, false))?.map_err(|why| format!("tokens can't be decoded: {why}"))
    }

    /// Appends the tokens of a file, and says what its bytes are known by.
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

/// Makes room for so many more tokens, half as many again as there are at a time: a vector that grows by itself doubles, and
/// asks nobody.
fn make_room(tokens: &mut Vec<u32>, more: usize, memory: &MemoryBudget) -> Result<(), OverBudget> {
    if tokens.capacity() - tokens.len() >= more {
        return Ok(());
    }
    let more = more.max(tokens.len() / 2);
    let bytes = |count: usize| (count as u64).saturating_mul(size_of::<u32>() as u64);
    memory.hold(bytes(tokens.len() + more).saturating_sub(bytes(tokens.capacity())))?;
    // While they move, they are there twice.
    drop(memory.holding(bytes(tokens.len()))?);
    tokens.reserve_exact(more);
    Ok(())
}

/// Where the pieces of these bytes end. What stands after the last end is to be continued, unless it is the last.
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

/// Where a piece that begins here ends, given as many of its bytes as it may have.
fn cut(bytes: &[u8]) -> usize {
    let after =
        |end: &[u8]| bytes.windows(end.len()).rposition(|found| found == end).map(|at| at + end.len());
    let paragraph = after(b"\n\n").max(after(b"\r\n\r\n"));
    let line = || after(b"\n");
    // The first byte of a character is none that continues one. Without any this is no UTF-8, which is told elsewhere.
    let character = || bytes.iter().rposition(|byte| byte & 0xc0 != 0x80).filter(|at| *at > 0);
    paragraph.or_else(line).or_else(character).unwrap_or(bytes.len())
}

/// Text that tokens become one after another.
#[derive(Debug)]
pub struct Decoding<'a> {
    tokenizer: &'a TextTokenizer,
    /// Those whose text depends on what follows, with a few before them.
    tokens: Vec<u32>,
    /// Bytes of their text that have been given out.
    given: usize,
}

impl<'a> Decoding<'a> {
    /// Goes on from these tokens, whose text has been given out.
    ///
    /// # Errors
    /// As [`TextTokenizer::decode`].
    pub fn after(tokenizer: &'a TextTokenizer, tokens: &[u32]) -> Result<Self, String> {
        let tokens = tokens[tokens.len().saturating_sub(CONTEXT_MAX / 2)..].to_vec();
        let given = tokenizer.decode(&tokens)?.len();
        Ok(Self { tokenizer, tokens, given })
    }

    /// The text that is there since this token is: nothing while a character is not whole.
    ///
    /// # Errors
    /// As [`TextTokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String, String> {
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens)?;
        // Bytes that are no character even with what follows are given out in the end.
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

/// Nothing that is in a file may end the program: the library asserts what some files don't keep.
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
