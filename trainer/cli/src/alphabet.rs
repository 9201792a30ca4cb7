//! Conversion between text and a language model's tokens.

use datasets::{Decoding, TextTokenizer};
use trainer::tensors::Metadata;

use crate::failure::Failure;

/// Number of byte tokens.
const BYTES: usize = 256;

/// Kinds of tokens.
pub(crate) enum Alphabet {
    Bytes,
    /// Boxed: a tokenizer has large tables, while bytes need none.
    Tokenizer(Box<TextTokenizer>),
}

impl Alphabet {
    /// The tokens described by an export's metadata; bytes by default.
    pub(crate) fn of_metadata(metadata: &Metadata) -> Result<Self, String> {
        let normalisation = metadata.get("normalisation").map(|text| serde_json::from_str(text));
        let normalisation: serde_json::Value = normalisation
            .transpose()
            .map_err(|why| format!("its normalisation is no JSON: {why}"))?
            .unwrap_or_default();
        match normalisation["tokens"]["tokenizer"].as_str() {
            Some(json) => {
                TextTokenizer::parse(json.as_bytes()).map(|tokenizer| Self::Tokenizer(Box::new(tokenizer)))
            }
            None => Ok(Self::Bytes),
        }
    }

    /// Vocabulary size.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Bytes => BYTES,
            Self::Tokenizer(tokenizer) => tokenizer.vocabulary() as usize,
        }
    }

    /// Encodes a prompt for a model with this vocabulary size.
    pub(crate) fn prompt(&self, text: &str, vocabulary: usize) -> Result<Vec<i64>, Failure> {
        let tokens: Vec<i64> = match self {
            Self::Bytes => text.bytes().map(i64::from).collect(),
            Self::Tokenizer(tokenizer) => {
                let tokens =
                    tokenizer.encode(text).map_err(|why| Failure::usage(format!("--prompt: {why}")))?;
                tokens.into_iter().map(i64::from).collect()
            }
        };
        if tokens.is_empty() {
            let why = if text.is_empty() { "is empty" } else { "is no token of the model's tokenizer" };
            return Err(Failure::usage(format!(
                "--prompt {why}: the model needs a first token to go on from"
            )));
        }
        if let Some(token) = tokens.iter().find(|token| **token >= vocabulary as i64) {
            let what = if matches!(self, Self::Bytes) { "byte" } else { "token" };
            return Err(Failure::usage(format!(
                "--prompt holds the {what} {token}, the model's vocabulary ends at {}",
                vocabulary - 1
            )));
        }
        Ok(tokens)
    }

    /// A decoder for the tokens that follow `text`.
    pub(crate) fn spelling(&self, text: &[i64]) -> Result<Spelling<'_>, Failure> {
        match self {
            Self::Bytes => Ok(Spelling::Bytes),
            Self::Tokenizer(tokenizer) => {
                let tokens: Vec<u32> = text.iter().map(|token| *token as u32).collect();
                Decoding::after(tokenizer, &tokens).map(Spelling::Tokens).map_err(Failure::data)
            }
        }
    }
}

/// Decodes tokens one by one.
pub(crate) enum Spelling<'a> {
    Bytes,
    Tokens(Decoding<'a>),
}

impl Spelling<'_> {
    /// The bytes that the next token adds to the text; empty while a character is incomplete.
    pub(crate) fn next(&mut self, token: usize) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Bytes => Ok(vec![token as u8]),
            Self::Tokens(decoding) => {
                decoding.push(token as u32).map(String::into_bytes).map_err(Failure::data)
            }
        }
    }
}
