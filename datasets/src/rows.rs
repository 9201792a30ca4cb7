//! Files of other samples than those of the run: to predict from, or to measure on.

use std::path::Path;

use crate::dataset::Batch;
use crate::encode::Encoder;
use crate::error::DataError;
use crate::form::Form;
use crate::idx;
use crate::images;
use crate::pixels::tables;
use crate::plan::Plan;
use crate::table::Table;

impl Plan {
    /// Reads samples for prediction.
    ///
    /// - A table: the target column need not be there, columns are found by name. A csv file without a header has all
    ///   columns in the order of the training data, or all but the target.
    /// - Images: a PNG or JPEG file, or a folder of such files, in the order of their names; or a file in idx form.
    ///
    /// # Errors
    /// When the file can't be read, lacks a feature, or has a row that doesn't fit the plan; for text, which is
    /// continued rather than predicted row by row.
    pub fn read_for_prediction(&self, path: &Path) -> Result<Batch, DataError> {
        match &self.form {
            Form::Csv(_) | Form::Parquet(_) => read_rows(self, path, false).map(|read| read.rows),
            Form::Idx(form) => read_idx(self, path, &tables(&form.scaling)),
            Form::Images(form) => read_images(self, path, form.resize, &tables(&form.scaling)),
            Form::Text(_) => Err(no_rows(path, "a text is continued, not predicted row by row")),
        }
    }

    /// The image files of [`Plan::read_for_prediction`], in the order of their rows: their paths below the folder, or the name
    /// of the only one. None for tables and for images in idx form, whose rows have no names.
    ///
    /// # Errors
    /// When the folder can't be read, or has no image.
    pub fn files_for_prediction(&self, path: &Path) -> Result<Vec<String>, DataError> {
        match &self.form {
            Form::Images(_) => image_files(path),
            Form::Csv(_) | Form::Parquet(_) | Form::Idx(_) | Form::Text(_) => Ok(Vec::new()),
        }
    }

    /// Reads a table with its target: all rows, those of another file too.
    ///
    /// # Errors
    /// As [`Plan::read_for_prediction`], and when a target is missing, no number, or a label that the plan doesn't know;
    /// for data that are no table.
    pub fn read_for_evaluation(&self, path: &Path) -> Result<Batch, DataError> {
        match &self.form {
            Form::Csv(_) | Form::Parquet(_) => read_rows(self, path, true).map(|read| read.rows),
            _ => Err(no_rows(path, "only tables are read with their targets from elsewhere")),
        }
    }
}

fn no_rows(path: &Path, problem: &str) -> DataError {
    DataError::File { file: path.display().to_string(), problem: problem.to_owned() }
}

/// A table that was read.
pub(crate) struct Read {
    /// All rows as samples.
    pub(crate) rows: Batch,
    /// How often each is drawn, if the plan has weights.
    pub(crate) weights: Vec<f64>,
    /// The digest of the bytes that were read.
    pub(crate) digest: String,
}

/// All rows of a table as samples.
pub(crate) fn read_rows(plan: &Plan, path: &Path, with_target: bool) -> Result<Read, DataError> {
    let mut table = Table::open(&plan.form, path, with_target)?;
    let encoder = Encoder::new(plan, table.names(), with_target)
        .map_err(|problem| DataError::File { file: path.display().to_string(), problem })?;
    let (mut rows, mut weights) = (Batch::default(), Vec::new());
    while table.advance()? {
        encoder.encode(&table, &mut rows).map_err(|problem| table.error(problem))?;
        weights.extend(encoder.weight(&table));
    }
    let (_, digest, _) = table.finish()?;
    Ok(Read { rows, weights, digest })
}

fn read_idx(plan: &Plan, path: &Path, tables: &[[f32; 256]]) -> Result<Batch, DataError> {
    let io = |source| DataError::Io { file: path.display().to_string(), source };
    let images = idx::Idx::parse(path, &std::fs::read(path).map_err(io)?, idx::Dimensions::Images)?;
    let found = images.shape();
    let shape = plan.image_shape.filter(|shape| *shape == found && tables.len() == shape[0]);
    let Some(shape) = shape else {
        let problem = format!("images of {found:?}, where the model takes {:?}", plan.image_shape);
        return Err(DataError::Byte { file: path.display().to_string(), offset: 8, problem });
    };
    let planes = images.numbers.chunks((shape[1] * shape[2]).max(1)).zip(tables.iter().cycle());
    let scaled = planes.flat_map(|(plane, table)| plane.iter().map(|value| table[usize::from(*value)]));
    let features: Vec<f32> = scaled.collect();
    let count = features.len() / shape.iter().product::<usize>().max(1);
    Ok(Batch { count, features, ..Batch::default() })
}

/// The images below a folder in order, or the one image.
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

fn read_images(plan: &Plan, path: &Path, resize: bool, tables: &[[f32; 256]]) -> Result<Batch, DataError> {
    let Some(shape) = plan.image_shape else { return Err(no_rows(path, "the plan has no image_shape")) };
    let root = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let paths: Vec<_> = image_files(path)?.iter().map(|file| root.join(file)).collect();
    let decoded = crate::spread::spread(&paths, |path| {
        let io = |source| DataError::Io { file: path.display().to_string(), source };
        let bytes = std::fs::read(path).map_err(io)?;
        images::decode(&bytes, shape, resize).map_err(|why| images::refusal(path, why))
    });
    let mut batch = Batch { count: paths.len(), ..Batch::default() };
    for image in decoded {
        let image = image?;
        for (scaled, channel) in tables.iter().zip(image.chunks(shape[1] * shape[2])) {
            batch.features.extend(channel.iter().map(|value| scaled[usize::from(*value)]));
        }
    }
    Ok(batch)
}
