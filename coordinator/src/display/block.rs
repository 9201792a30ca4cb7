//! A block of lines at the end of a terminal that is redrawn in place and cleared without a trace.

use std::io::Write;

/// Defaults for a terminal that doesn't report its size.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// The style of a segment, where colours are enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colour {
    Plain,
    Bold,
    Dim,
    Yellow,
    Cyan,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    text: String,
    colour: Colour,
}

/// One line, without its newline.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(pub(super) Vec<Segment>);

impl Segment {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Colour::Plain }
    }

    pub(super) fn in_colour(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }
}

impl Line {
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|piece| piece.text.as_str()).collect()
    }

    /// Cuts the line to the columns; returns its text for a terminal and its width.
    fn drawn(&self, columns: usize, in_colour: bool) -> (String, usize) {
        let (mut text, mut width) = (String::new(), 0);
        for piece in &self.0 {
            let room = columns - width;
            let mut part = String::new();
            let mut part_width = 0;
            for c in piece.text.chars() {
                let wide = width_of(c);
                if part_width + wide > room {
                    break;
                }
                part_width += wide;
                part.push(c);
            }
            width += part_width;
            let code = match piece.colour {
                Colour::Plain => "",
                Colour::Bold => "1",
                Colour::Dim => "2",
                Colour::Yellow => "33",
                Colour::Cyan => "36",
            };
            if in_colour && !code.is_empty() && !part.is_empty() {
                text.push_str(&format!("\x1b[{code}m{part}\x1b[0m"));
            } else {
                text.push_str(&part);
            }
        }
        (text, width)
    }
}

/// Columns of a character: the maximum for most non-ASCII characters, so that no line is ever too long.
fn width_of(c: char) -> usize {
    match c {
        c if c.is_ascii_control() => 0,
        '\u{2500}'..='\u{257f}' => 1,
        c if c.is_ascii() => 1,
        _ => 2,
    }
}

/// The block, and the layout that was last drawn.
pub(super) struct Block {
    in_colour: bool,
    /// Widths of the drawn lines, on a terminal of `columns` columns.
    drawn: Vec<usize>,
    columns: usize,
}

impl Block {
    /// A block on standard output, which must be a terminal.
    pub(super) fn of_stdout() -> Self {
        Self { in_colour: crate::colours_are_wanted(), drawn: Vec::new(), columns: size().0 }
    }

    /// Whether the terminal's width has changed since the lines were drawn.
    pub(super) fn is_resized(&self) -> bool {
        size().0 != self.columns
    }

    /// Replaces the drawn lines.
    pub(super) fn draw(&mut self, lines: impl FnOnce(usize) -> Vec<Line>) {
        let (columns, rows) = size();
        let mut out = self.erased(columns);
        // The last column stays free: terminals differ in whether a full row wraps the cursor.
        let room = columns.saturating_sub(1).max(1);
        let mut lines = lines(room);
        let rows_max = rows.saturating_sub(1).max(1);
        if lines.len() > rows_max {
            let hidden = lines.len() - (rows_max - 1);
            lines.truncate(rows_max - 1);
            lines.push(Line(vec![Segment::plain(format!("... and {hidden} more"))]));
        }
        for line in lines {
            let (text, width) = line.drawn(room, self.in_colour);
            out.push_str(&text);
            out.push('\n');
            self.drawn.push(width);
        }
        self.columns = columns;
        write(&out);
    }

    /// Prints a line above the block, which the next `draw` restores.
    pub(super) fn print_above(&mut self, text: &str) {
        let mut out = self.erased(size().0);
        out.push_str(text);
        out.push('\n');
        write(&out);
    }

    /// The escape sequence that clears the drawn lines, from the row below them. Terminals rewrap lines when they get
    /// narrower, so that a line may take several rows by now.
    fn erased(&mut self, columns: usize) -> String {
        let columns = columns.max(1);
        let rows: usize = self.drawn.drain(..).map(|width| width.div_ceil(columns).max(1)).sum();
        if rows == 0 { String::new() } else { format!("\r\x1b[{rows}A\x1b[J") }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let erased = self.erased(size().0);
        if !erased.is_empty() {
            write(&erased);
        }
    }
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_col > 0);
    size.map_or((COLUMNS, ROWS), |size| (usize::from(size.ws_col), usize::from(size.ws_row).max(1)))
}

/// A closed terminal is no reason to fail the run.
fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_its_columns_whatever_is_in_it() {
        let line = Line(vec![Segment::plain("ab").in_colour(Colour::Bold), Segment::plain("漢字c")]);
        assert_eq!(line.drawn(3, false), ("ab".to_owned(), 2));
        assert_eq!(line.drawn(5, false), ("ab漢".to_owned(), 4));
        assert_eq!(line.drawn(9, true), ("\x1b[1mab\x1b[0m漢字c".to_owned(), 7));
        assert_eq!(line.drawn(0, true), (String::new(), 0));
    }

    #[test]
    fn what_got_narrower_is_cleared_in_all_its_rows() {
        let mut block = Block { in_colour: false, drawn: vec![79, 30, 0], columns: 80 };
        assert_eq!(block.erased(40), "\r\x1b[4A\x1b[J");
        assert_eq!(block.erased(40), "", "once");
    }
}
