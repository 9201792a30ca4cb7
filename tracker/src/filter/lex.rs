//! The lexer: words, quoted strings and operators.

use super::{FilterError, TEXT_MAX};

/// A token and the position of its first character, counted from 1.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
    /// No blank separates it from the previous token.
    pub(super) is_joined: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    /// A run of characters other than blanks, operators and quotes.
    Word(String),
    /// A string and its quote character.
    Quoted(String, char),
    Sign(&'static str),
    Open,
    Close,
    Comma,
}

/// Longest first: `<=` is not `<`.
const SIGNS: [&str; 8] = ["!=", "<>", "<=", ">=", "==", "=", "<", ">"];

const QUOTES: [char; 3] = ['\'', '"', '`'];

pub(super) fn error(text: &str, at: usize, what: impl Into<String>) -> FilterError {
    // Enough of a long text to recognise it.
    FilterError { what: what.into(), at, text: text.chars().take(200).collect() }
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    if text.len() > TEXT_MAX {
        return Err(error(text, 1, format!("the text has {} bytes, more than {TEXT_MAX}", text.len())));
    }
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut is_joined) = (0, false);
    while let Some(&next) = chars.get(at) {
        if next.is_whitespace() {
            at += 1;
            is_joined = false;
            continue;
        }
        let (kind, end) = token(text, &chars, at)?;
        tokens.push(Token { kind, at: at + 1, is_joined });
        at = end;
        is_joined = true;
    }
    Ok(tokens)
}

/// The token that begins at `at`, and the position after it.
fn token(text: &str, chars: &[char], at: usize) -> Result<(Kind, usize), FilterError> {
    let one = match chars[at] {
        '(' => Some(Kind::Open),
        ')' => Some(Kind::Close),
        ',' => Some(Kind::Comma),
        quote if QUOTES.contains(&quote) => return quoted(text, chars, at),
        _ => None,
    };
    if let Some(kind) = one {
        return Ok((kind, at + 1));
    }
    if let Some(sign) = sign(chars, at) {
        return Ok((Kind::Sign(sign), at + sign.len()));
    }
    if chars[at] == '!' {
        return Err(error(text, at + 1, "a lone \"!\" means nothing: \"!=\" is unequal"));
    }
    let is_word = |c: char| !c.is_whitespace() && !QUOTES.contains(&c) && !"(),=<>!".contains(c);
    let word: String = chars[at..].iter().take_while(|c| is_word(**c)).collect();
    let length = word.chars().count();
    Ok((Kind::Word(word), at + length))
}

fn sign(chars: &[char], at: usize) -> Option<&'static str> {
    SIGNS.into_iter().find(|sign| sign.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c)))
}

/// A string up to its closing quote; a doubled quote stands for one.
fn quoted(text: &str, chars: &[char], start: usize) -> Result<(Kind, usize), FilterError> {
    let quote = chars[start];
    let (mut content, mut at) = (String::new(), start + 1);
    while let Some(&next) = chars.get(at) {
        at += 1;
        if next != quote {
            content.push(next);
        } else if chars.get(at) == Some(&quote) {
            content.push(quote);
            at += 1;
        } else {
            return Ok((Kind::Quoted(content, quote), at));
        }
    }
    Err(error(text, start + 1, format!("the quote {quote} is never closed")))
}
