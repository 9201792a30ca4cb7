//! `datasets show` of images and text.

use datasets::{Overview, PixelsSeen, TextSummary};

use super::text::{aligned, bar, counted, one_line, path_line, short};

const LABELS_SHOWN_MAX: usize = 50;
/// Undecodable files that are listed.
const BAD_SHOWN_MAX: usize = 10;

pub(super) fn text(seen: &Overview) -> String {
    let what = if seen.words.is_some() { "window" } else { "image" };
    let mut text = format!(
        "{}  md5 {}, {} bytes in {}\n{}: {}",
        seen.version,
        seen.digest,
        seen.bytes,
        counted(seen.files, "file"),
        seen.format,
        counted(seen.samples, what)
    );
    if let Some(pixels) = &seen.pixels {
        text.push_str(&of_pixels(pixels));
    }
    if let Some(words) = &seen.words {
        text.push_str(&of_words(words));
    }
    if !seen.bad.is_empty() {
        text.push_str(&format!("\n{} that can't be decoded\n", counted(seen.bad.len() as u64, "image")));
        seen.bad
            .iter()
            .take(BAD_SHOWN_MAX)
            .for_each(|path| text.push_str(&format!("  {}\n", path_line(path))));
        if seen.bad.len() > BAD_SHOWN_MAX {
            text.push_str(&format!("  and {} more\n", seen.bad.len() - BAD_SHOWN_MAX));
        }
    }
    if !seen.labels.is_empty() {
        text.push_str(&format!("\nlabels\n{}", histogram(&seen.labels, LABELS_SHOWN_MAX)));
    }
    text
}

fn of_pixels(pixels: &PixelsSeen) -> String {
    let [channels, height, width] = pixels.shape;
    let mut text = format!(" of {}, {height} x {width}\n", counted(channels as u64, "channel"));
    if pixels.sizes_count > 1 {
        let sizes: Vec<_> =
            pixels.sizes.iter().map(|([h, w], count)| (format!("{h} x {w}"), *count)).collect();
        let of = counted(pixels.sizes_count, "size");
        text.push_str(&format!(
            "\n{of} (height x width): dataset.resize is needed\n{}",
            histogram(&sizes, sizes.len())
        ));
    }
    let mut rows = vec![["pixels (0 to 1)", "mean", "std"].map(str::to_owned)];
    for (channel, (mean, deviation)) in pixels.mean.iter().zip(&pixels.deviation).enumerate() {
        rows.push([format!("  channel {channel}"), short(*mean), short(*deviation)]);
    }
    text.push_str(&format!("\n{}", aligned(&rows)));
    text
}

fn of_words(words: &TextSummary) -> String {
    let coding = if words.is_utf8 { "UTF-8" } else { "not UTF-8" };
    let mut text = format!(
        " of {}, {} of {} at the end in none\n{}, the longest of {}; {coding}\n{} of {} different ones, {} possible\n",
        counted(u64::from(words.window), "token"),
        words.tail,
        words.tokens,
        counted(words.lines, "line"),
        counted(words.longest_line, "byte"),
        counted(words.tokens, "token"),
        words.distinct,
        words.vocabulary,
    );
    text.push_str(&format!("\nmost frequent tokens\n{}", histogram(&words.frequent, words.frequent.len())));
    text
}

/// One line per label: count, share of the total, and a bar.
pub(super) fn histogram(counts: &[(String, u64)], shown_max: usize) -> String {
    let all = counts.iter().map(|(_, count)| count).sum::<u64>().max(1);
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let row = |(label, count): &(String, u64)| {
        let percent = 100.0 * *count as f64 / all as f64;
        [format!("  {}", one_line(label)), count.to_string(), format!("{percent:.1} %"), bar(*count, most)]
    };
    let shown: Vec<_> = counts.iter().take(shown_max).map(row).collect();
    let rest = counts.len() - shown.len();
    let rest = if rest > 0 { format!("  and {rest} more\n") } else { String::new() };
    format!("{}{rest}", aligned(&shown))
}
