//! Reads files of samples that are not part of the run, for prediction or evaluation.

use std::path::Path;

use crate::batch::Batch;
use crate::digest::Digests;
use crate::encode::Encoder;
use crate::error::DataError;
use crate::format::Format;
use crate::formats::idx;
use crate::formats::images;
use crate::memory_budget::{MemoryBudget, OverBudget, read_whole};
use crate::pixels::tables;
use crate::plan::DataPlan;
use crate::table::Table;

impl DataPlan {
    /// Reads samples for prediction.
    ///
    /// - A table: columns are found by name, and the target may be absent. A csv file without a header has all columns
    ///   in the order of the training data, or all but the target.
    /// - Images: a PNG or JPEG file, a folder of such files, sorted by name, or an idx file.
    ///
    /// # Errors
    /// If the file can't be read, lacks a feature, or has a row that doesn't fit the plan; for text, which is continued
    /// rather than predicted row by row.
    pub fn read_for_prediction(&self, path: &Path) -> Result<Batch, DataError> {
        match &self.form {
            Format::Csv(_) | Format::Parquet(_) => {
                read_rows(self, path, false, 0, &self.memory()).map(|read| read.rows)
            }
            Format::Idx(form) => read_idx(self, path, &tables(&form.scaling)),
            Format::Images(form) => read_images(self, path, form.resize, &tables(&form.scaling)),
            Format::Text(_) => Err(no_rows(path, "a text is continued, not predicted row by row")),
        }
    }

    /// Image files of [`DataPlan::read_for_prediction`], in row order: paths below the folder, or the name of the only
    /// file. Empty for tables and idx images, whose rows have no names.
    ///
    /// # Errors
    /// If the folder can't be read, or has no images.
    pub fn files_for_prediction(&self, path: &Path) -> Result<Vec<String>, DataError> {
        match &self.form {
            Format::Images(_) => image_files(path),
            Format::Csv(_) | Format::Parquet(_) | Format::Idx(_) | Format::Text(_) => Ok(Vec::new()),
        }
    }

    /// Reads all rows of a table with its target, also from a file outside the run.
    ///
    /// # Errors
    /// As [`DataPlan::read_for_prediction`], and if a target is missing, not a number, or an unknown label; for data
    /// that are no table.
    pub fn read_for_evaluation(&self, path: &Path) -> Result<Batch, DataError> {
        match &self.form {
            Format::Csv(_) | Format::Parquet(_) => {
                read_rows(self, path, true, 0, &self.memory()).map(|read| read.rows)
            }
            _ => Err(no_rows(path, "only tables are read with their targets from elsewhere")),
        }
    }
}

fn no_rows(path: &Path, problem: &str) -> DataError {
    DataError::File { file: path.display().to_string(), problem: problem.to_owned() }
}

/// Memory per row in addition to its values: its place in a split and in a sampler.
pub(crate) const ROW_BYTES: u64 = 40;

pub(crate) struct ReadTable {
    /// All rows as samples.
    pub(crate) rows: Batch,
    /// Sampling weight of each row, if the plan has weights.
    pub(crate) weights: Vec<f64>,
    /// Digests of the file, over exactly the bytes that were parsed.
    pub(crate) digests: Digests,
}

/// Reads all rows of a table as samples; `expected` is the number of rows, if known, else 0.
pub(crate) fn read_rows(
    plan: &DataPlan,
    path: &Path,
    with_target: bool,
    expected: u64,
    memory: &MemoryBudget,
) -> Result<ReadTable, DataError> {
    let mut table = Table::open(&plan.form, path, with_target, memory)?;
    let encoder = Encoder::new(plan, table.names(), with_target)
        .map_err(|problem| DataError::File { file: path.display().to_string(), problem })?;
    let (mut rows, mut weights) = (Batch::default(), Vec::new());
    let width = plan.features();
    let mut room = make_room(&mut rows, width, expected, memory).map_err(|why| why.of(path))?;
    while table.advance()? {
        if rows.count == room {
            // A vector that grows by itself doubles, bypassing the memory budget.
            let more = (room as u64 / 2).max(64);
            room = make_room(&mut rows, width, more, memory).map_err(|why| why.of(path))?;
        }
        encoder.encode(&table, &mut rows).map_err(|problem| table.error(problem))?;
        weights.extend(encoder.weight(&table));
    }
    let (_, digests) = table.finish()?;
    Ok(ReadTable { rows, weights, digests })
}

/// Reserves room for `more` rows, and returns the new capacity in rows.
fn make_room(rows: &mut Batch, width: usize, more: u64, memory: &MemoryBudget) -> Result<usize, OverBudget> {
    let bytes = (width as u64).saturating_mul(4).saturating_add(ROW_BYTES);
    memory.hold(bytes.saturating_mul(more))?;
    // While they move, the existing rows are in memory twice.
    drop(memory.holding((rows.features.len() as u64).saturating_mul(4))?);
    let more = usize::try_from(more).unwrap_or(0);
    rows.features.reserve_exact(width.saturating_mul(more));
    Ok(rows.count + more)
}

fn read_idx(plan: &DataPlan, path: &Path, tables: &[[f32; 256]]) -> Result<Batch, DataError> {
    let memory = plan.memory();
    let (bytes, _file) = read_whole(path, &memory, 1)?;
    let images = idx::Idx::parse(path, &bytes, idx::Dimensions::Images, &memory)?;
    // Each byte becomes a number of four bytes.
    memory.hold((images.numbers.len() as u64).saturating_mul(4)).map_err(|why| why.of(path))?;
    let found = images.shape();
    let shape = plan.image_shape.filter(|shape| *shape == found && tables.len() == shape[0]);
    let Some(shape) = shape else {
        let problem = format!("images of {found:?}, where the model takes {:?}", plan.image_shape);
        return Err(DataError::Byte { file: path.display().to_string(), offset: 8, problem });
    };
    let planes = images.numbers.chunks((shape[1] * shape[2]).max(1)).zip(tables.iter().cycle());
    let scaled = planes.flat_map(|(plane, table)| plane.iter().map(|value| table[usize::from(*value)]));
    let mut features: Vec<f32> = Vec::with_capacity(images.numbers.len());
    features.extend(scaled);
    let count = features.len() / shape.iter().product::<usize>().max(1);
    Ok(Batch { count, features, ..Batch::default() })
}

/// The images below a folder, sorted, or the single image.
fn image_files(path: &Path) -> Result<Vec<String>, DataError> {
    if !path.is_dir() {
        return Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()).into_iter().collect());
    }
    let mut files = crate::files::list(path)?;
    files.retain(|file| images::is_image(file));
    if files.is_empty() {
        return Err(no_rows(path, "there is no .png, .jpg or .jpeg file in this folder"));
    }
    Ok(files)
}

fn read_images(
    plan: &DataPlan,
    path: &Path,
    resize: bool,
    tables: &[[f32; 256]],
) -> Result<Batch, DataError> {
    let Some(shape) = plan.image_shape else { return Err(no_rows(path, "the plan has no image_shape")) };
    let root = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let paths: Vec<_> = image_files(path)?.iter().map(|file| root.join(file)).collect();
    let memory = plan.memory();
    let size = shape.iter().try_fold(paths.len(), |all, side| all.checked_mul(*side));
    let numbers = size.ok_or_else(|| no_rows(path, "the images have more pixels than can be counted"))?;
    memory.hold((numbers as u64).saturating_mul(4)).map_err(|why| why.of(path))?;
    let mut batch = Batch { count: paths.len(), ..Batch::default() };
    batch.features.reserve_exact(numbers);
    let at_once = images::at_once(shape.iter().product(), &memory).map_err(|why| why.of(path))?;
    for paths in paths.chunks(at_once) {
        let decoded =
            crate::parallel::in_parallel(paths, |path| images::decode_file(path, shape, resize, &memory));
        for image in decoded {
            let image = image?;
            for (scaled, channel) in tables.iter().zip(image.chunks((shape[1] * shape[2]).max(1))) {
                batch.features.extend(channel.iter().map(|value| scaled[usize::from(*value)]));
            }
        }
    }
    Ok(batch)
}
