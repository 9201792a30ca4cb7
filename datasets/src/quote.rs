//! What a message repeats of its input: bounded, and without what would steer a terminal.

use std::borrow::Cow;

/// Characters of a quoted text.
const QUOTED_MAX: usize = 60;
/// Characters of a message: a few lines of a terminal.
const MESSAGE_MAX: usize = 1_000;

/// The text in quotes, its beginning if it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// As much of a text as [`quoted`] needs to know.
pub(crate) fn beginning(text: &str) -> &str {
    text.char_indices().nth(QUOTED_MAX + 1).map_or(text, |(end, _)| &text[..end])
}

/// A message as one line of bounded length: its beginning if it is long, and control characters as spaces.
///
/// Whatever a library says of a file may repeat the file.
#[must_use]
pub fn clipped(message: &str) -> Cow<'_, str> {
    match message.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}... (cut)", plain(&message[..end]))),
        None => plain(message),
    }
}

/// The text with control characters as spaces.
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
