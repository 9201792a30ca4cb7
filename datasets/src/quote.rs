//! Quotes input in messages: bounded, and without control characters that would affect a terminal.

use std::borrow::Cow;

/// Maximum characters of a quoted text.
const QUOTED_MAX: usize = 60;
/// Maximum characters of a message: a few lines of a terminal.
const MESSAGE_MAX: usize = 1_000;

/// Quotes a text, clipped if it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// As much of a text as [`quoted`] may show, plus a character.
pub(crate) fn beginning(text: &str) -> &str {
    text.char_indices().nth(QUOTED_MAX + 1).map_or(text, |(end, _)| &text[..end])
}

/// A message as one line of bounded length: clipped if it is long, with control characters replaced by spaces.
///
/// Error messages of libraries may repeat file contents.
#[must_use]
pub fn clipped(message: &str) -> Cow<'_, str> {
    match message.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}... (cut)", plain(&message[..end]))),
        None => plain(message),
    }
}

/// Replaces control characters by spaces.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        return Cow::Owned(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect());
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(quoted(&"\u{e9}".repeat(100)), format!("{:?}...", "\u{e9}".repeat(60)));
        assert_eq!(quoted(beginning(&"\u{e9}".repeat(100))), quoted(&"\u{e9}".repeat(100)));
        assert_eq!(quoted(beginning("short")), "\"short\"");
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(clipped("as it\nis\u{1b}[2J"), "as it is [2J");
        assert!(matches!(clipped("as it is"), Cow::Borrowed("as it is")));
        let long = clipped(&"\u{e9}\n".repeat(10_000_000)).into_owned();
        assert_eq!((long.chars().count(), long.ends_with("\u{e9} ... (cut)")), (1_009, true));
    }
}
