//! Sanitises untrusted text for display.
//!
//! Names of workers, columns, labels, metrics and files, and the errors of peers, are arbitrary text. Printed raw, they
//! could move a terminal's cursor, set its title, forge log lines, or reverse the direction of text. This crate owns
//! the set of harmful characters and their visible replacement, such as `\u{1b}`. Everything that the programs write to
//! standard output, standard error and logs passes through it. It never decides what is shown, and imports nothing.
//! Start with [`line()`], [`text()`] and [`json()`], which escape text, and [`Log`], a writer that does so.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// Whether a character acts on a terminal or on its neighbours rather than being displayed: ASCII controls (C0), DEL
/// and C1; the line and paragraph separators; Unicode's directional embeddings, overrides and isolates (UAX #9).
#[must_use]
pub fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes a name or another part of a line, including line breaks and tabs.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_harmful, |character| character.escape_unicode().to_string())
}

/// Escapes multi-line text, keeping line breaks and tabs.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    let is_layout = |character| matches!(character, '\n' | '\t');
    replaced(
        text,
        |character| is_harmful(character) && !is_layout(character),
        |character| character.escape_unicode().to_string(),
    )
}

/// Escapes JSON without changing its meaning: harmful characters that serde_json leaves raw in strings become JSON
/// escapes. Between values, only line breaks and indentation occur, which stay.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let is_layout = |character| matches!(character, '\n' | '\t' | '\r');
    replaced(
        text,
        |character| is_harmful(character) && !is_layout(character),
        // All of them are in the basic multilingual plane: one UTF-16 unit each.
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

/// Prints a line to standard output. Ignores closed pipes (`| head`) and other write errors.
pub fn print_line(shown: impl Display) {
    print(format!("{shown}\n"));
}

/// Prints text to standard output, without adding a line break.
pub fn print(shown: impl Display) {
    put(&mut io::stdout().lock(), &text(&shown.to_string()));
}

/// Prints JSON to standard output, followed by a line break.
pub fn print_json(shown: impl Display) {
    put(&mut io::stdout().lock(), &json(&format!("{shown}\n")));
}

/// Prints a line to standard error.
pub fn error_line(shown: impl Display) {
    put(&mut io::stderr().lock(), &text(&format!("{shown}\n")));
}

fn put(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// A sanitising writer for logs and streamed text. With `colours`, escape sequences that set colours pass through;
/// `tracing` has already escaped those in logged values.
#[derive(Debug)]
pub struct Log<W> {
    to: W,
    colours: bool,
    /// An incomplete UTF-8 character at the end of the last write.
    begun: Vec<u8>,
}

impl<W> Log<W> {
    /// Wraps `to`.
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

/// Length of the colour escape sequence (`ESC [ 1 ; 31 m`) at the start of the text, if there is one.
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
