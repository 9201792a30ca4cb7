//! Overviews of non-tabular data, for `datasets show`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use configs::{Dataset as Config, OnBad};
use serde::Serialize;

use crate::error::DataError;
use crate::files::{list, place};
use crate::format::Format;
use crate::formats::images::{is_image, probe, refusal};
use crate::formats::text::is_text;
use crate::parallel::in_parallel;
use crate::plan::DataPlan;

/// Maximum number of frequent tokens listed in an [`Overview`].
const FREQUENT_MAX: usize = 10;
/// Maximum number of image sizes listed in an [`Overview`].
const SIZES_MAX: usize = 10;

/// Overview of images or text.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Overview {
    /// `name@` and the first 8 characters of the digest.
    pub version: String,
    /// `idx`, `images` or `text`.
    pub format: String,
    /// MD5 of the file, or DVC's digest of the folder.
    pub digest: String,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Number of images, or of windows of [`TextSummary::window`] tokens.
    pub samples: u64,
    /// Number of images per label.
    pub labels: Vec<(String, u64)>,
    /// Images that can't be decoded.
    pub bad: Vec<String>,
    /// Present for images.
    pub pixels: Option<PixelsSeen>,
    /// Present for text.
    pub words: Option<TextSummary>,
}

/// Pixel statistics of images.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PixelsSeen {
    /// [channels, height, width] that the images are read with: the shape of the first one.
    pub shape: [usize; 3],
    /// [height, width] and the number of images of this size, most frequent first; at most 10.
    pub sizes: Vec<([usize; 2], u64)>,
    /// Number of distinct sizes.
    pub sizes_count: u64,
    /// Per-channel mean over all images, of pixels from 0 to 1, resized to `shape` where sizes differ.
    pub mean: Vec<f64>,
    /// Per-channel population standard deviation, likewise; 0 for a constant channel.
    pub deviation: Vec<f64>,
}

/// Statistics of a text.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TextSummary {
    /// Newlines, plus a last line without one.
    pub lines: u64,
    /// Length of the longest line in bytes.
    pub longest_line: u64,
    /// Whether all of it is valid UTF-8.
    pub is_utf8: bool,
    /// Number of tokens, which are bytes.
    pub tokens: u64,
    /// Number of possible tokens.
    pub vocabulary: u32,
    /// Number of distinct tokens that occur.
    pub distinct: u64,
    /// The most frequent tokens as text, with their counts; at most 10.
    pub frequent: Vec<(String, u64)>,
    /// Tokens per window.
    pub window: u32,
    /// Tokens at the end that don't fill a window.
    pub tail: u64,
}

impl Overview {
    /// Inspects all data at `config`'s location and in its format. Nothing is held out.
    ///
    /// # Errors
    /// If the data can't be read or planned, and for tables, which have [`crate::Distributions`].
    pub fn of(config: &Config) -> Result<Self, DataError> {
        // Inspected, not trained on: undecodable files are reported, and sizes may differ.
        let is_folder_of_images = config.format == "images";
        let config = Config {
            validation: 0.0,
            normalise: configs::Normalise::Standard,
            on_bad: if is_folder_of_images { OnBad::Skip } else { config.on_bad },
            resize: is_folder_of_images,
            sampling: configs::Sampling::Each,
            ..config.clone()
        };
        let plan = if config.format == "text" { plan_of_text(config)? } else { planned(&config)? };
        let (pixels, words) = match &plan.form {
            Format::Idx(idx) => {
                let shape = plan.image_shape.unwrap_or_default();
                let sizes = vec![([shape[1], shape[2]], plan.rows)];
                (Some(PixelsSeen::of(shape, sizes, &idx.scaling)), None)
            }
            Format::Images(images) => {
                let shape = plan.image_shape.unwrap_or_default();
                (Some(PixelsSeen::of(shape, sizes(&plan)?, &images.scaling)), None)
            }
            Format::Text(text) => (None, Some(TextSummary::of(&plan, text)?)),
            Format::Csv(_) | Format::Parquet(_) => {
                let problem = "this is a table: its columns have distributions".to_owned();
                return Err(DataError::File { file: plan.path, problem });
            }
        };
        Ok(Self {
            version: plan.version(),
            format: plan.form.name().to_owned(),
            digest: plan.digest.clone(),
            bytes: plan.bytes,
            files: plan.files.len() as u64,
            samples: plan.rows,
            labels: plan.labels().iter().cloned().zip(plan.label_counts.iter().copied()).collect(),
            bad: plan.form.skipped().map(|skipped| skipped.listed.clone()).unwrap_or_default(),
            pixels,
            words,
        })
    }
}

/// Makes a data plan without loading all data into memory.
fn planned(config: &Config) -> Result<DataPlan, DataError> {
    DataPlan::prepare_with_profiles(config, None).map(|(plan, _)| plan)
}

/// Plans text, halving the window until the text fills one.
fn plan_of_text(mut config: Config) -> Result<DataPlan, DataError> {
    loop {
        match planned(&config) {
            Err(DataError::File { .. }) if config.window > 1 => config.window /= 2,
            other => return other,
        }
    }
}

impl PixelsSeen {
    fn of(shape: [usize; 3], mut sizes: Vec<([usize; 2], u64)>, scaling: &[crate::format::Scaling]) -> Self {
        let sizes_count = sizes.len() as u64;
        sizes.truncate(SIZES_MAX);
        // A plan divides by 1 where nothing varies; a deviation of values from 0 to 1 never exceeds a half.
        let deviation = |scale: f64| if scale == 1.0 { 0.0 } else { scale };
        let (mean, deviation) =
            scaling.iter().map(|channel| (channel.offset, deviation(channel.scale))).unzip();
        Self { shape, sizes, sizes_count, mean, deviation }
    }
}

/// The sizes of a folder's images, most frequent first.
fn sizes(plan: &DataPlan) -> Result<Vec<([usize; 2], u64)>, DataError> {
    let skipped = plan.form.skipped().map(|skipped| skipped.listed.as_slice()).unwrap_or_default();
    let images: Vec<_> =
        plan.files().iter().filter(|file| is_image(&file.path) && !skipped.contains(&file.path)).collect();
    let root = Path::new(&plan.path);
    let memory = plan.memory();
    let found = in_parallel(&images, |file| {
        let path = place(root, file)?;
        probe(&path, &memory).map_err(|why| refusal(&path, why))
    });
    let mut counts = BTreeMap::new();
    for header in found {
        let header = header?;
        *counts.entry([header.height, header.width]).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(counts)
}

impl TextSummary {
    fn of(plan: &DataPlan, text: &crate::format::Text) -> Result<Self, DataError> {
        let mut seen =
            TextScan { counts: [0; 256], lines: 0, line: 0, longest_line: 0, utf8: Utf8::default() };
        let root = Path::new(&plan.path);
        for file in plan.files().iter().filter(|file| !plan.is_folder() || is_text(&file.path)) {
            let path = if plan.is_folder() { place(root, file)? } else { root.to_owned() };
            seen.read(&path).map_err(|source| DataError::Io { file: path.display().to_string(), source })?;
        }
        let mut frequent: Vec<(u8, u64)> =
            (0..=u8::MAX).zip(seen.counts).filter(|(_, count)| *count > 0).collect();
        let distinct = frequent.len() as u64;
        frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let shown = |(byte, count): &(u8, u64)| (byte.escape_ascii().to_string(), *count);
        Ok(Self {
            lines: seen.lines,
            longest_line: seen.longest_line,
            is_utf8: seen.utf8.is_right(),
            tokens: text.tokens,
            vocabulary: crate::formats::text::VOCABULARY,
            distinct,
            frequent: frequent.iter().take(FREQUENT_MAX).map(shown).collect(),
            window: text.window,
            tail: text.tail,
        })
    }
}

/// Statistics of a text's bytes, collected piece by piece.
struct TextScan {
    counts: [u64; 256],
    lines: u64,
    line: u64,
    longest_line: u64,
    utf8: Utf8,
}

impl TextScan {
    fn read(&mut self, path: &Path) -> std::io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut piece = vec![0; 1 << 16];
        loop {
            let read = reader.read(&mut piece)?;
            if read == 0 {
                break;
            }
            piece[..read].iter().for_each(|byte| self.byte(*byte));
            self.utf8.piece(&piece[..read]);
        }
        // The last line counts even without a newline.
        self.lines += u64::from(self.line > 0);
        self.line = 0;
        self.utf8.end();
        Ok(())
    }

    fn byte(&mut self, byte: u8) {
        self.counts[usize::from(byte)] += 1;
        if byte == b'\n' {
            self.lines += 1;
            self.line = 0;
        } else {
            self.line += 1;
            self.longest_line = self.longest_line.max(self.line);
        }
    }
}

/// Validates UTF-8 in pieces that may end within a character.
#[derive(Default)]
struct Utf8 {
    is_wrong: bool,
    /// An incomplete character, at most 3 bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    fn piece(&mut self, piece: &[u8]) {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(piece);
        if let Err(why) = std::str::from_utf8(&bytes) {
            self.is_wrong |= why.error_len().is_some();
            self.begun = bytes.split_off(why.valid_up_to());
            self.begun.truncate(3);
        }
    }

    fn end(&mut self) {
        self.is_wrong |= !self.begun.is_empty();
        self.begun.clear();
    }

    fn is_right(&self) -> bool {
        !self.is_wrong
    }
}

/// Guesses the format of data from file names: a value of `dataset.format`, or `None` if unrecognised.
///
/// # Errors
/// If the folder can't be read.
pub fn format_of(path: &Path) -> Result<Option<&'static str>, DataError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if path.is_file() {
        return Ok(of_file(&name));
    }
    let files = list(path)?;
    if files.iter().any(|file| crate::formats::idx::is_images_by_name(file)) {
        return Ok(Some("idx"));
    }
    if files.iter().any(|file| is_image(file) && file.contains('/')) {
        return Ok(Some("images"));
    }
    Ok(files.iter().any(|file| is_text(file)).then_some("text"))
}

fn of_file(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let ends = |end: &str| lower.ends_with(end);
    match () {
        () if ends(".csv") || ends(".tsv") => Some("csv"),
        () if ends(".parquet") => Some("parquet"),
        () if crate::formats::idx::is_images_by_name(name) => Some("idx"),
        () if ends(".txt") => Some("text"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_pieces_cut_are_characters() {
        let check = |pieces: &[&[u8]], expected: bool| {
            let mut utf8 = Utf8::default();
            pieces.iter().for_each(|piece| utf8.piece(piece));
            utf8.end();
            assert_eq!(utf8.is_right(), expected, "{pieces:?}");
        };
        check(&[b"abc"], true);
        check(&[b"a\xf0\x9f", b"\x98", b"\x80b"], true);
        check(&[b"a\xc3"], false);
        check(&[b"a\xc3", b"b"], false);
        check(&[b"\xff", b"abc"], false);
    }
}
