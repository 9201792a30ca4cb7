//! Text of others, made safe to show.
//!
//! Names of workers, columns, labels, metrics and files, and the errors of peers, are whatever somebody chose. Written raw they
//! could move a terminal's cursor, set its title, forge lines of a log, or turn a line around. This crate owns which characters
//! those are and how they are shown instead: visibly, as `\u{1b}`. All that the programs write to standard output, standard
//! error and logs goes through it. It never decides what is shown, and imports nothing.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// Whether a character acts on a terminal or on its neighbours rather than being shown: the controls of ASCII (C0), DEL and C1;
/// the line and paragraph separators; Unicode's embeddings, overrides and isolates of direction (UAX #9).
#[must_use]
pub fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name or another piece of a line: line breaks and tabs are escaped, too.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_harmful, |character| character.escape_unicode().to_string())
}

/// A text of lines.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    let is_layout = |character| matches!(character, '\n' | '\t');
    replaced(
        text,
        |character| is_harmful(character) && !is_layout(character),
        |character| character.escape_unicode().to_string(),
    )
}

/// JSON that says the same: what serde_json leaves raw in strings is escaped there, as JSON does. Between values there is nothing
/// to escape but line breaks, which stay.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let is_layout = |character| matches!(character, '\n' | '\t' | '\r');
    replaced(
        text,
        |character| is_harmful(character) && !is_layout(character),
        // All of them lie in the basic plane: one unit of UTF-16 each.
        |character| format!("\\u{:04x}", u32::from(character)),
    )
}

fn replaced(
    text: &str,
    is_meant: impl Fn(char) -> bool,
    replacement: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.chars().any(&is_meant) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_meant(character) {
            out.push_str(&replacement(character));
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// A line on standard output. A reader that went away (`| head`) is no error.
pub fn print_line(shown: impl Display) {
    print(format!("{shown}\n"));
}

/// A text on standard output, as it is.
pub fn print(shown: impl Display) {
    put(&mut io::stdout().lock(), &text(&shown.to_string()));
}

/// Lines of JSON on standard output.
pub fn print_json(shown: impl Display) {
    put(&mut io::stdout().lock(), &json(&format!("{shown}\n")));
}

/// A line on standard error.
pub fn error_line(shown: impl Display) {
    put(&mut io::stderr().lock(), &text(&format!("{shown}\n")));
}

fn put(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// What a log, or text that comes piece by piece, is written to. `colours` lets the escape sequences pass that choose a colour;
/// those in values `tracing` has escaped by then.
#[derive(Debug)]
pub struct Log<W> {
    to: W,
    colours: bool,
    /// The beginning of a character whose rest is still to come.
    begun: Vec<u8>,
}

impl<W> Log<W> {
    /// In front of `to`.
    pub fn new(to: W, colours: bool) -> Self {
        Self { to, colours, begun: Vec::new() }
    }
}

impl<W: Write> Log<W> {
    fn show(&mut self, said: &str) -> io::Result<()> {
        let mut rest = said;
        while self.colours
            && let Some(at) = rest.find('\x1b')
        {
            let (before, sequence) = rest.split_at(at);
            self.to.write_all(text(before).as_bytes())?;
            let length = colour_length(sequence);
            let (colour, after) = sequence.split_at(length.unwrap_or(1));
            let shown = if length.is_some() { Cow::Borrowed(colour) } else { text(colour) };
            self.to.write_all(shown.as_bytes())?;
            rest = after;
        }
        self.to.write_all(text(rest).as_bytes())
    }
}

impl<W: Write> Write for Log<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = std::mem::take(&mut self.begun);
        said.extend_from_slice(bytes);
        let mut rest = &said[..];
        while let Err(why) = std::str::from_utf8(rest) {
            let (good, other) = rest.split_at(why.valid_up_to());
            self.show(&String::from_utf8_lossy(good))?;
            let Some(length) = why.error_len() else {
                self.begun = other.to_vec();
                return Ok(bytes.len());
            };
            self.to.write_all("\u{fffd}".as_bytes())?;
            rest = &other[length..];
        }
        self.show(&String::from_utf8_lossy(rest))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The length of the escape sequence that begins this text and chooses a colour (`ESC [ 1 ; 31 m`).
fn colour_length(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("\x1b[")?;
    let end = digits.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    digits[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
}

/// Quotes a text, if it must be, so that a POSIX shell reads it as one word.
#[must_use]
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_and_the_rest_stays() {
        assert_eq!(line("a\x1b]0;t\x07b"), "a\\u{1b}]0;t\\u{7}b");
        assert_eq!(line("a\nb\tc\r"), "a\\u{a}b\\u{9}c\\u{d}");
        assert_eq!(text("a\nb\tc\r"), "a\nb\tc\\u{d}");
        assert_eq!(line("\u{7f}\u{9b}31m"), "\\u{7f}\\u{9b}31m");
        assert_eq!(line("\u{202e}txt.exe\u{2069}\u{2028}"), "\\u{202e}txt.exe\\u{2069}\\u{2028}");
        for good in ["", "worker-0", "Größe 长度 حجم 🔥", "loss/total"] {
            assert!(matches!(line(good), Cow::Borrowed(same) if same == good));
        }
    }

    fn log(said: &str, colours: bool) -> String {
        let mut written = Vec::new();
        Log::new(&mut written, colours).write_all(said.as_bytes()).expect("memory");
        String::from_utf8(written).expect("text")
    }

    #[test]
    fn a_log_keeps_its_colours_and_nothing_else() {
        let said = "\x1b[1;31mERROR\x1b[0m \x1b[2Jgone \x1b]0;title\x07\n";
        assert_eq!(log(said, true), "\x1b[1;31mERROR\x1b[0m \\u{1b}[2Jgone \\u{1b}]0;title\\u{7}\n");
        assert_eq!(log("\x1b[0mx\x1b", false), "\\u{1b}[0mx\\u{1b}");
        assert_eq!(log("end \x1b[1", true), "end \\u{1b}[1");
    }

    #[test]
    fn characters_may_come_byte_by_byte() {
        let mut written = Vec::new();
        let mut log = Log::new(&mut written, false);
        for byte in b"\xc3\xa9\xff\xc2\x9bm\n" {
            log.write_all(&[*byte]).expect("memory");
        }
        assert_eq!(String::from_utf8(written).expect("text"), "\u{e9}\u{fffd}\\u{9b}m\n");
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(said in any::<String>()) {
            prop_assert!(!line(&said).contains(is_harmful));
            let is_layout = |character| matches!(character, '\n' | '\t');
            for shown in [text(&said).into_owned(), log(&said, false)] {
                prop_assert!(!shown.contains(|character| is_harmful(character) && !is_layout(character)));
            }
        }
    }
}
