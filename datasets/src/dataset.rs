//! A data plan applied to its files: samples by ordinal, gathered into reused buffers.

use std::ops::Range;
use std::path::{Path, PathBuf};

use configs::Sampling;

use crate::augment::AugmentKey;
use crate::batch::Batch;
use crate::digest::Digests;
use crate::error::DataError;
use crate::files::{changed, length, place, read_known};
use crate::format::{Format, Idx, Images};
use crate::formats::idx::LabelledImages;
use crate::formats::images;
use crate::formats::text::{self, Tokens};
use crate::listing::{FileEntry, directory_digest};
use crate::memory_budget::MemoryBudget;
use crate::parallel::in_parallel;
use crate::pixels::{Pixels, Store, tables};
use crate::plan::DataPlan;
use crate::quote::quoted;
use crate::rows::{ReadTable, read_rows};
use crate::sampler::{Sampler, balanced};
use crate::split::split;

/// The samples of a dataset.
#[derive(Debug)]
pub struct Dataset {
    samples: Samples,
    training: Rows,
    validation: Rows,
    /// Set if training rows are drawn with replacement.
    sampler: Option<Sampler>,
    /// Contents of the tokenizer's JSON file.
    tokenizer: Option<String>,
}

/// Samples of both splits.
#[derive(Debug)]
enum Samples {
    Table { width: usize, rows: Batch },
    Pixels(Pixels),
    Text { window: usize, tokens: Tokens },
}

/// Row numbers of a split, by ordinal.
#[derive(Debug)]
enum Rows {
    Listed(Vec<u64>),
    Range(Range<u64>),
}

impl Dataset {
    /// Opens a data plan's file or folder. The digests must match the plan's. Other files in the folder are ignored.
    ///
    /// # Errors
    /// If a file can't be read, has changed, or doesn't fit the plan.
    pub fn open(plan: &DataPlan, path: &Path) -> Result<Self, DataError> {
        // For idx images, `path` may be the file of images, with the labels' file next to it.
        let is_within = plan.is_folder() && path.is_file();
        let path = if is_within { path.parent().unwrap_or(path) } else { path };
        let refuse = |problem: String| DataError::File { file: path.display().to_string(), problem };
        if plan.is_folder() {
            let expected = directory_digest(&plan.files);
            if expected != plan.digest {
                return Err(refuse(format!(
                    "the plan's files have the digest {expected}, its own is {}",
                    plan.digest
                )));
            }
        } else if !matches!(plan.files.as_slice(), [file] if file.md5 == plan.digest && file.bytes == plan.bytes)
        {
            return Err(refuse("the plan names another file than its digest is of".to_owned()));
        }
        let memory = plan.memory();
        let (mut weights, mut tokenizer) = (Vec::new(), None);
        let (samples, rows) = match &plan.form {
            Format::Csv(_) | Format::Parquet(_) => {
                let (samples, rows, found) = open_table(plan, path, &memory)?;
                weights = found;
                (samples, rows)
            }
            Format::Idx(idx) => open_idx(plan, idx, path, &memory)?,
            Format::Images(images) => open_images(plan, images, path, &memory)?,
            Format::Text(text) => {
                let (tokens, json) = text::open(plan, text, path, &memory)?;
                tokenizer = json;
                (Samples::Text { window: text.window as usize, tokens }, plan.rows)
            }
        };
        if rows != plan.rows {
            return Err(refuse(format!("{rows} rows, where the plan has {}", plan.rows)));
        }
        let (training, validation) = split_rows(plan);
        let sampler = sampler(plan, &samples, &training, &weights).map_err(refuse)?;
        Ok(Self { samples, training, validation, sampler, tokenizer })
    }

    /// Contents of the tokenizer's JSON file, if the text is tokenised by one.
    #[must_use]
    pub fn tokenizer_json(&self) -> Option<&str> {
        self.tokenizer.as_deref()
    }

    /// Number of training samples.
    #[must_use]
    pub fn training_len(&self) -> u64 {
        self.training.len()
    }

    /// Number of validation samples.
    #[must_use]
    pub fn evaluation_len(&self) -> u64 {
        self.validation.len()
    }

    /// Gathers the training samples with these ordinals into a reused batch. Allocates only until the batch has reached
    /// its largest size, except for images that are not cached. Images are augmented as planned, by `key`. If the plan
    /// draws rows with replacement ([`DataPlan::sampling`]), an ordinal is the number of a draw, and `key` selects its
    /// row.
    ///
    /// # Errors
    /// If an image that is not cached can no longer be read, or has changed.
    ///
    /// # Panics
    /// If an ordinal is not below [`Dataset::training_len`]: a bug in the caller.
    pub fn gather_training(
        &self,
        key: AugmentKey,
        ordinals: &[u64],
        out: &mut Batch,
    ) -> Result<(), DataError> {
        self.gather(&self.training, Some(key), ordinals, out)
    }

    /// Gathers the validation samples with these ordinals into a reused batch, as [`Dataset::gather_training`] does,
    /// but never augmented.
    ///
    /// # Errors
    /// As [`Dataset::gather_training`].
    ///
    /// # Panics
    /// If an ordinal is not below [`Dataset::evaluation_len`]: a bug in the caller.
    pub fn gather_evaluation(&self, ordinals: &[u64], out: &mut Batch) -> Result<(), DataError> {
        self.gather(&self.validation, None, ordinals, out)
    }

    fn gather(
        &self,
        split: &Rows,
        key: Option<AugmentKey>,
        ordinals: &[u64],
        out: &mut Batch,
    ) -> Result<(), DataError> {
        out.clear();
        out.count = ordinals.len();
        let drawn = key.zip(self.sampler.as_ref());
        // Each row comes with its augmentation number: a row drawn twice is augmented differently each time.
        let numbered = ordinals.iter().map(|ordinal| match drawn {
            None => {
                let row = split.at(*ordinal);
                (row, row as u64)
            }
            Some((key, sampler)) => {
                assert!(*ordinal < split.len(), "draw {ordinal} of {}", split.len());
                (split.at(sampler.draw(key, *ordinal)), *ordinal)
            }
        });
        let rows = numbered.clone().map(|(row, _)| row);
        match &self.samples {
            Samples::Table { width, rows: table } => {
                for row in rows {
                    out.features.extend_from_slice(&table.features[row * width..(row + 1) * width]);
                    out.labels.extend(table.labels.get(row));
                    out.values.extend(table.values.get(row));
                }
            }
            Samples::Pixels(pixels) => pixels.gather(key, numbered, out)?,
            Samples::Text { window, tokens } => {
                for row in rows {
                    let start = row * window;
                    tokens.extend(start..start + window, &mut out.tokens);
                    tokens.extend(start + 1..start + window + 1, &mut out.labels);
                }
            }
        }
        Ok(())
    }
}

impl Rows {
    fn len(&self) -> u64 {
        match self {
            Self::Listed(rows) => rows.len() as u64,
            Self::Range(rows) => rows.end - rows.start,
        }
    }

    fn at(&self, ordinal: u64) -> usize {
        match self {
            Self::Listed(rows) => rows[ordinal as usize] as usize,
            Self::Range(rows) => {
                assert!(ordinal < rows.end - rows.start, "ordinal {ordinal} of {rows:?}");
                (rows.start + ordinal) as usize
            }
        }
    }
}

/// Splits the rows. For text, the end is held out, since windows in between would overlap training windows; otherwise
/// the validation rows are spread over the whole dataset.
fn split_rows(plan: &DataPlan) -> (Rows, Rows) {
    if matches!(plan.form, Format::Text(_)) {
        let (training, _) = plan.split_lengths();
        return (Rows::Range(0..training), Rows::Range(training..plan.rows));
    }
    let (training, validation) = split(plan.rows, plan.validation, plan.split_seed);
    (Rows::Listed(training), Rows::Listed(validation))
}

/// Builds the sampler of training rows, if the plan uses one.
fn sampler(
    plan: &DataPlan,
    samples: &Samples,
    training: &Rows,
    weights: &[f64],
) -> Result<Option<Sampler>, String> {
    let labels: &[u32] = match samples {
        Samples::Table { rows, .. } => &rows.labels,
        Samples::Pixels(pixels) => &pixels.labels,
        Samples::Text { .. } => &[],
    };
    let of_rows = match plan.sampling {
        Sampling::Each => return Ok(None),
        Sampling::Balanced if labels.is_empty() => return Err("there are no labels to balance".to_owned()),
        Sampling::Balanced => balanced(labels, &plan.label_counts),
        Sampling::Weighted => weights.to_vec(),
    };
    if of_rows.len() as u64 != plan.rows {
        return Err(format!("{} rows have a weight, where there are {}", of_rows.len(), plan.rows));
    }
    let of_training: Vec<f64> = (0..training.len()).map(|place| of_rows[training.at(place)]).collect();
    Sampler::new(&of_training).map(Some)
}

fn open_table(
    plan: &DataPlan,
    path: &Path,
    memory: &MemoryBudget,
) -> Result<(Samples, u64, Vec<f64>), DataError> {
    let [entry] = plan.files.as_slice() else {
        let problem = "the plan of a table has one file".to_owned();
        return Err(DataError::File { file: path.display().to_string(), problem });
    };
    if length(path)? != entry.bytes {
        return Err(changed(path, entry, &Digests::of_file(path)?));
    }
    let (rows, weights) = match read_rows(plan, path, true, plan.rows, memory) {
        // The digests are of the very bytes that were parsed, so the file can't change in between.
        Ok(ReadTable { rows, weights, digests }) if entry.differs(&digests).is_none() => (rows, weights),
        Ok(ReadTable { digests, .. }) => return Err(changed(path, entry, &digests)),
        Err(why) => {
            let digests = Digests::of_file(path)?;
            return Err(if entry.differs(&digests).is_none() { why } else { changed(path, entry, &digests) });
        }
    };
    let count = rows.count as u64;
    Ok((Samples::Table { width: plan.features(), rows }, count, weights))
}

fn open_idx(
    plan: &DataPlan,
    idx: &Idx,
    path: &Path,
    memory: &MemoryBudget,
) -> Result<(Samples, u64), DataError> {
    let read = |name: &str| {
        let Some(entry) = plan.files.iter().find(|entry| entry.path == name) else {
            let problem = format!("the plan's files lack {}", quoted(name));
            return Err(DataError::File { file: path.display().to_string(), problem });
        };
        let path = place(path, entry)?;
        let holding = memory.holding(entry.bytes).map_err(|why| why.of(&path))?;
        read_known(&path, entry).map(|bytes| (path, bytes, holding))
    };
    let (images, labels) = (read(&idx.images)?, read(&idx.labels)?);
    let found = LabelledImages::parse((&images.0, &images.1), (&labels.0, &labels.1), memory)?;
    let shape = found.shape;
    if plan.image_shape != Some(shape) || found.names != plan.labels() || idx.scaling.len() != shape[0] {
        let problem = format!("images of {shape:?} with {} labels: not those of the plan", found.names.len());
        return Err(DataError::File { file: images.0.display().to_string(), problem });
    }
    let rows = found.labels.len() as u64;
    let pixels = Pixels {
        shape,
        store: Store::Memory(found.pixels),
        labels: found.labels,
        scaled: tables(&idx.scaling),
        augment: plan.augment,
    };
    Ok((Samples::Pixels(pixels), rows))
}

fn open_images(
    plan: &DataPlan,
    form: &Images,
    path: &Path,
    memory: &MemoryBudget,
) -> Result<(Samples, u64), DataError> {
    let refuse = |problem: String| DataError::File { file: path.display().to_string(), problem };
    let shape = plan.image_shape.filter(|shape| {
        shape[0] == form.scaling.len() && images::CHANNELS.contains(&shape[0]) && !shape.contains(&0)
    });
    let shape = shape.ok_or_else(|| refuse(format!("the plan's image_shape is {:?}", plan.image_shape)))?;
    let skipped: std::collections::HashSet<&str> = form.skipped.listed.iter().map(String::as_str).collect();
    let mut files: Vec<(PathBuf, FileEntry)> = Vec::new();
    let mut labels = Vec::new();
    for entry in &plan.files {
        if skipped.contains(entry.path.as_str()) {
            continue;
        }
        let (true, Some(class)) = (images::is_image(&entry.path), images::class(&entry.path)) else {
            continue;
        };
        let label = plan.labels().iter().position(|label| label == class);
        let label =
            label.ok_or_else(|| refuse(format!("{} is in no class of the plan", quoted(&entry.path))))?;
        labels.push(u32::try_from(label).unwrap_or(u32::MAX));
        files.push((place(path, entry)?, entry.clone()));
    }
    let bytes = shape.iter().try_fold(files.len(), |all, side| all.checked_mul(*side));
    let size = shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side));
    let size = size.ok_or_else(|| refuse(format!("the plan's image_shape is {shape:?}")))?;
    let at_once = images::at_once(size, memory).map_err(|why| why.of(path))?;
    // Half of the budget is for decoding: images that don't fit in the cache are decoded as they are read.
    let kept_max = form.cache_mb.saturating_mul(1_000_000).min(memory.limit() / 2);
    let store = if let Some(bytes) = bytes.filter(|bytes| *bytes as u64 <= kept_max) {
        memory.hold(bytes as u64).map_err(|why| why.of(path))?;
        let mut pixels = Vec::with_capacity(bytes);
        for files in files.chunks(at_once) {
            let decoded = in_parallel(files, |(path, entry)| {
                images::decode_known(path, entry, shape, form.resize, memory)
            });
            for image in decoded {
                pixels.extend_from_slice(&image?);
            }
        }
        Store::Memory(pixels)
    } else {
        // Check the files now, so that a run doesn't start with changed ones; each is checked again when it is decoded.
        let check = |(path, entry): &(PathBuf, FileEntry)| {
            let found = Digests::of_file(path)?;
            if entry.differs(&found).is_none() { Ok(()) } else { Err(changed(path, entry, &found)) }
        };
        for checked in in_parallel(&files, check) {
            checked?;
        }
        Store::Files { files, resize: form.resize, at_once, memory: memory.clone() }
    };
    let rows = labels.len() as u64;
    let pixels = Pixels { shape, store, labels, scaled: tables(&form.scaling), augment: plan.augment };
    Ok((Samples::Pixels(pixels), rows))
}
