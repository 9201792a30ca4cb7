//! Tables and numbers as text.

/// Pads cells to common column widths; the last column isn't padded.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let shown = |cell: &String| printable::line(cell).into_owned();
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(shown)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A field on one line, clipped to fit a table.
pub(crate) fn one_line(text: &str) -> String {
    let plain = printable::line(text);
    match plain.char_indices().nth(32) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain.into_owned(),
    }
}

/// A path on one line, never clipped.
pub(crate) fn path_line(text: &str) -> String {
    printable::line(text).into_owned()
}

/// `1 file`, `2 files`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    let more = if count == 1 { "" } else { "s" };
    format!("{count} {one}{more}")
}

/// A number with at most 5 significant digits.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e7).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = (4 - size.log10().floor() as i64).clamp(0, 8) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Counts as a sparkline, scaled to the largest.
pub(crate) fn blocks(counts: &[u64]) -> String {
    const BLOCKS: [char; 8] =
        ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let block = |count: &u64| match count {
        0 => ' ',
        // Eighths of the maximum, rounded up: the lowest block for 1, the full block for the maximum.
        count => BLOCKS[((u128::from(*count) * 8).div_ceil(u128::from(most)) - 1).min(7) as usize],
    };
    counts.iter().map(block).collect()
}

/// A count as a bar, scaled to the largest, in eighths of a block; any non-zero count shows at least one eighth.
pub(crate) fn bar(count: u64, most: u64) -> String {
    const EIGHTHS: [char; 7] =
        ['\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}'];
    const WIDTH: u128 = 24;
    let eighths = (u128::from(count) * WIDTH * 8).div_ceil(u128::from(most.max(1))).min(WIDTH * 8) as usize;
    let mut bar = "\u{2588}".repeat(eighths / 8);
    bar.extend((eighths % 8).checked_sub(1).map(|part| EIGHTHS[part]));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let check = |value: f64, expected: &str| assert_eq!(short(value), expected, "{value}");
        check(0.0, "0");
        check(3.0, "3");
        check(-2.5, "-2.5");
        check(1.0 / 3.0, "0.33333");
        check(12_345.678, "12346");
        check(1_234_567.0, "1234567");
        check(1e9, "1.000e9");
        check(0.00001, "1.000e-5");
        check(99.999_99, "100");
    }

    #[test]
    fn bars_are_as_long_as_their_counts() {
        assert_eq!((bar(0, 9).as_str(), bar(1, 24).as_str()), ("", "\u{2588}"));
        assert_eq!(bar(24, 24).chars().count(), 24);
        assert_eq!(bar(1, u64::MAX), "\u{258f}", "what there is shows");
        assert_eq!(bar(3, 48), "\u{2588}\u{258c}");
    }

    #[test]
    fn every_count_has_its_block() {
        assert_eq!(blocks(&[0, 1, 50, 100]), " \u{2581}\u{2584}\u{2588}");
        assert_eq!(blocks(&[0, 0]), "  ");
        assert_eq!(blocks(&[u64::MAX, 1]).chars().count(), 2);
    }
}
