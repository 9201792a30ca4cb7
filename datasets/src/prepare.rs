//! Makes data plans, format by format.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use configs::{Dataset as Config, OnBad, Sampling};

use crate::error::DataError;
use crate::files::{entry_of, find, length, list, read_new};
use crate::format::{Format, Idx, Images, Skipped};
use crate::formats::idx::{LabelledImages, find_images, find_labels};
use crate::formats::images::{self, ImageError};
use crate::labels::{LABELS_MAX, counts, ordered};
use crate::listing::{FileEntry, directory_digest};
use crate::memory_budget::MemoryBudget;
use crate::parallel::{in_parallel, try_in_parallel};
use crate::pixels::{scaling, sums};
use crate::plan::{DataPlan, Output, named};
use crate::quote::quoted;
use crate::rounding::settled;
use crate::split::split;
use crate::survey::{Profile, Survey};

impl DataPlan {
    /// Reads the data and plans: infers rows and labels, splits, and computes statistics over the training split.
    ///
    /// # Errors
    /// If anything is wrong with the data; the error names the file and line, row or byte.
    pub fn prepare(config: &Config, config_dir: Option<&Path>) -> Result<Self, DataError> {
        let (plan, _) = Self::prepare_with_profiles(config, config_dir)?;
        plan.check_memory()?;
        Ok(plan)
    }

    /// Checks that the data will fit in a worker's memory budget, so that users learn it before a run starts.
    fn check_memory(&self) -> Result<(), DataError> {
        let number = match &self.form {
            Format::Csv(_) | Format::Parquet(_) => 4 * self.features() as u64 + crate::rows::ROW_BYTES,
            // Images that don't fit are decoded on demand; idx images fit, since planning has already held them.
            Format::Idx(_) | Format::Images(_) => 0,
            Format::Text(text) if text.tokenizer.is_none() => u64::from(text.window),
            Format::Text(text) => 4 * u64::from(text.window),
        };
        let held = self.memory().hold(self.rows.saturating_mul(number));
        held.map_err(|why| why.of(Path::new(&self.path)))
    }

    /// [`DataPlan::prepare`], with a profile of each column of a table.
    ///
    /// # Errors
    /// As [`DataPlan::prepare`].
    pub fn prepare_with_profiles(
        config: &Config,
        config_dir: Option<&Path>,
    ) -> Result<(Self, Vec<Profile>), DataError> {
        let memory = MemoryBudget::megabytes(config.memory_mb);
        let (path, version) = find(&config.uri, config_dir, &memory)?;
        let file = path.display().to_string();
        let (plan, profiles) = Self::of_form(config, config_dir, path, memory)?;
        if let Some(version) = version {
            version.check_read(&plan.files)?;
        }
        if config.sampling == Sampling::Balanced && plan.labels().is_empty() {
            let problem = "dataset.sampling = \"balanced\", but these data have no labels".to_owned();
            return Err(DataError::File { file, problem });
        }
        Ok((plan, profiles))
    }

    fn of_form(
        config: &Config,
        config_dir: Option<&Path>,
        path: PathBuf,
        memory: MemoryBudget,
    ) -> Result<(Self, Vec<Profile>), DataError> {
        let found = FoundData { config, config_dir, path, memory };
        match config.format.as_str() {
            "csv" | "parquet" => {
                found.check_is_file()?;
                let survey = Survey::take(config, found.path, &found.memory)?;
                Ok((survey.plan()?, survey.profiles()))
            }
            "idx" => Ok((found.idx()?, Vec::new())),
            "images" => Ok((found.images()?, Vec::new())),
            "text" => Ok((found.text()?, Vec::new())),
            other => found.refuse(format!("dataset.format = {other:?}: no such form of data")),
        }
    }
}

/// Data located for planning.
pub(crate) struct FoundData<'a> {
    pub(crate) config: &'a Config,
    /// Fallback folder for relative paths.
    pub(crate) config_dir: Option<&'a Path>,
    pub(crate) path: PathBuf,
    pub(crate) memory: MemoryBudget,
}

/// The format-specific parts of a plan.
pub(crate) struct PlanParts {
    pub(crate) root: PathBuf,
    pub(crate) is_folder: bool,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) rows: u64,
    pub(crate) form: Format,
    pub(crate) output: Output,
    pub(crate) image_shape: Option<[usize; 3]>,
    /// Label counts in the training split.
    pub(crate) label_counts: Vec<u64>,
}

impl FoundData<'_> {
    pub(crate) fn refuse<T>(&self, problem: String) -> Result<T, DataError> {
        Err(DataError::File { file: self.path.display().to_string(), problem })
    }

    fn check_is_file(&self) -> Result<(), DataError> {
        if self.path.is_file() {
            return Ok(());
        }
        let format = &self.config.format;
        self.refuse(format!(
            "this is a folder, dataset.format = \"{format}\" is a file: \"images\", \"idx\" and \"text\" may be folders"
        ))
    }

    pub(crate) fn plan(&self, parts: PlanParts) -> DataPlan {
        let bytes = parts.files.iter().map(|file| file.bytes).sum();
        let digest = match parts.files.as_slice() {
            [file] if !parts.is_folder => file.md5.clone(),
            files => directory_digest(files),
        };
        named(self.config, &self.path, |name, _| DataPlan {
            name,
            uri: self.config.uri.clone(),
            path: parts.root.canonicalize().unwrap_or(parts.root).display().to_string(),
            digest,
            bytes,
            files: parts.files,
            rows: parts.rows,
            form: parts.form,
            output: parts.output,
            validation: settled(self.config.validation),
            split_seed: self.config.split_seed,
            image_shape: parts.image_shape,
            augment: configs::Augment::default(),
            sampling: self.config.sampling,
            label_counts: parts.label_counts,
            memory_mb: self.config.memory_mb,
        })
    }

    /// Rows of the training split, over which statistics are computed.
    fn training(&self, rows: u64) -> Vec<u64> {
        split(rows, settled(self.config.validation), self.config.split_seed).0
    }

    fn idx(&self) -> Result<DataPlan, DataError> {
        // A folder is planned as a whole, so that its digest is the one registries and DVC know.
        let is_folder = self.path.is_dir();
        let (root, images) = if is_folder {
            (self.path.clone(), find_images(&self.path, &list(&self.path)?)?)
        } else {
            parted(&self.path)
        };
        let beside = list_for_labels(&root, is_folder)?;
        let labels = match &self.config.labels {
            Some(labels) if beside.contains(labels) || root.join(labels).is_file() => labels.clone(),
            Some(labels) => {
                return self.refuse(format!("dataset.labels = {labels:?}: no such file beside the images"));
            }
            None => find_labels(&root, &images, &beside)?,
        };
        let read = |name: &str| {
            let path = root.join(name);
            let length = length(&path)?;
            let holding = self.memory.holding(length).map_err(|why| why.of(&path))?;
            read_new(&root, name, length).map(|(bytes, entry)| (path, bytes, entry, holding))
        };
        let (image_path, image_bytes, image_entry, image_memory) = read(&images)?;
        let (label_path, label_bytes, label_entry, label_memory) = read(&labels)?;
        let found =
            LabelledImages::parse((&image_path, &image_bytes), (&label_path, &label_bytes), &self.memory)?;
        drop((image_bytes, label_bytes, image_memory, label_memory));
        let shape = found.shape;
        if !images::CHANNELS.contains(&shape[0]) {
            return self.refuse(format!("{images} has images of {} channels, expected 1, 3 or 4", shape[0]));
        }
        if let Some(asked) = self.config.image_shape.filter(|asked| *asked != shape) {
            return self
                .refuse(format!("dataset.image_shape = {asked:?}, but the images are {shape:?}: remove it"));
        }
        self.check_labels(&found.names)?;
        let rows = found.labels.len() as u64;
        let size = shape.iter().product::<usize>();
        let training = self.training(rows);
        let of_training = training
            .iter()
            .map(|row| sums(&found.pixels[*row as usize * size..(*row as usize + 1) * size], shape));
        let scaling = scaling(shape[0], of_training, self.config.normalise);
        let mut files = vec![image_entry, label_entry];
        for path in beside.iter().filter(|path| is_folder && ![&images, &labels].contains(path)) {
            files.push(entry_of(&root, path)?);
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.plan(PlanParts {
            root,
            is_folder: true,
            files,
            rows,
            form: Format::Idx(Idx { images, labels, scaling }),
            label_counts: counts(found.names.len(), training.iter().map(|row| found.labels[*row as usize])),
            output: Output::Classes { labels: found.names },
            image_shape: Some(shape),
        }))
    }

    fn check_labels(&self, labels: &[String]) -> Result<(), DataError> {
        match labels.len() {
            0 | 1 => {
                let labels: Vec<String> = labels.iter().map(|label| quoted(label)).collect();
                let labels = labels.join(", ");
                self.refuse(format!("there is one label only ([{labels}]): there is nothing to learn"))
            }
            2..=LABELS_MAX => Ok(()),
            count => self.refuse(format!("there are {count} labels, at most {LABELS_MAX}")),
        }
    }

    fn images(&self) -> Result<DataPlan, DataError> {
        if !self.path.is_dir() {
            return self.refuse("images are a folder with a folder for each class".to_owned());
        }
        let all = list(&self.path)?;
        let samples: Vec<&String> = all.iter().filter(|path| images::is_image(path)).collect();
        let labels = self.classes(&samples)?;
        let shape = self.shape(&samples)?;
        let is_sample = |path: &str| images::is_image(path);
        let looked = in_parallel(&all, |path| {
            if !is_sample(path) {
                return entry_of(&self.path, path).map(|entry| (entry, None));
            }
            let whole = self.path.join(path);
            let length = length(&whole)?;
            let lease = self.memory.lease(length).map_err(|why| why.of(&whole))?;
            let (bytes, entry) = read_new(&self.path, path, length)?;
            let decoded = match images::decode(&bytes, lease, shape, self.config.resize, &self.memory) {
                Err(ImageError::Memory(why)) => return Err(why.of(&whole)),
                decoded => decoded,
            };
            Ok((entry, Some(decoded.map(|pixels| sums(&pixels, shape)))))
        });
        let (mut files, mut of_rows, mut skipped) = (Vec::new(), Vec::new(), Skipped::default());
        let mut label_of_rows: Vec<u32> = Vec::new();
        let (mut present, mut of_other_size) = (BTreeSet::new(), 0);
        for looked in looked {
            let (entry, decoded) = looked?;
            match decoded {
                None => {}
                Some(Ok(sums)) => {
                    of_rows.push(sums);
                    let class = images::class(&entry.path);
                    let label = labels.iter().position(|label| Some(label.as_str()) == class).unwrap_or(0);
                    label_of_rows.push(label as u32);
                    present.extend(class.map(str::to_owned));
                }
                Some(Err(why)) if self.config.on_bad == OnBad::Skip => {
                    of_other_size += u64::from(matches!(why, ImageError::Size(_)));
                    skipped.listed.push(entry.path.clone());
                }
                Some(Err(why)) => return Err(images::refusal(&self.path.join(&entry.path), why)),
            }
            files.push(entry);
        }
        skipped.count = skipped.listed.len() as u64;
        if of_other_size > of_rows.len() as u64 {
            return self.refuse(format!(
                "{of_other_size} images are not {} x {} (height x width), only {} are: set dataset.image_shape, or \
                 dataset.resize = true",
                shape[1],
                shape[2],
                of_rows.len()
            ));
        }
        if let Some(empty) = labels.iter().find(|label| !present.contains(*label)) {
            return self.refuse(format!("none of the images of class {} can be used", quoted(empty)));
        }
        let training = self.training(of_rows.len() as u64);
        let of_training = training.iter().map(|row| of_rows[*row as usize].as_slice());
        let scaling = scaling(shape[0], of_training, self.config.normalise);
        Ok(self.plan(PlanParts {
            root: self.path.clone(),
            is_folder: true,
            files,
            rows: of_rows.len() as u64,
            form: Format::Images(Images {
                scaling,
                resize: self.config.resize,
                cache_mb: self.config.cache_mb,
                skipped,
            }),
            label_counts: counts(labels.len(), training.iter().map(|row| label_of_rows[*row as usize])),
            output: Output::Classes { labels },
            image_shape: Some(shape),
        }))
    }

    /// Class names: the non-hidden folders that contain an image.
    fn classes(&self, samples: &[&String]) -> Result<Vec<String>, DataError> {
        let mut classes = BTreeSet::new();
        for path in samples {
            let Some(class) = images::class(path) else {
                return self.refuse(format!("{path} lies in no class's folder: move it into one, or away"));
            };
            classes.insert(class.to_owned());
        }
        let io = |source| DataError::Io { file: self.path.display().to_string(), source };
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && !name.starts_with('.') && !classes.contains(&name) {
                return self.refuse(format!(
                    "the class {name:?} has no images (.png, .jpg, .jpeg): remove its folder, or fill it"
                ));
            }
        }
        if classes.is_empty() {
            return self.refuse("there is no folder with images here: each class has one".to_owned());
        }
        let classes = ordered(classes);
        self.check_labels(&classes)?;
        Ok(classes)
    }

    /// The configured shape, or that of the first readable image.
    fn shape(&self, samples: &[&String]) -> Result<[usize; 3], DataError> {
        if let Some(shape) = self.config.image_shape {
            if !images::CHANNELS.contains(&shape[0]) {
                return self.refuse(format!(
                    "dataset.image_shape = {shape:?}: images have 1 (grey), 3 (colour) or 4 channels (with transparency)"
                ));
            }
            return Ok(shape);
        }
        let probe = |path: &&String| {
            let whole = self.path.join(path);
            match images::probe(&whole, &self.memory) {
                Err(ImageError::Memory(why)) => Err(why.of(&whole)),
                Err(ImageError::Bad(why) | ImageError::Size(why)) => Ok(Err(why)),
                Ok(header) => Ok(Ok(header)),
            }
        };
        let headers = try_in_parallel(samples, probe)?;
        let mut readable = headers.iter().flatten();
        let Some(first) = readable.clone().next() else {
            // Report the first one, whether or not others would be skipped.
            let (path, why) = match (samples.first(), headers.first()) {
                (Some(path), Some(Err(why))) => (path.as_str(), why.as_str()),
                _ => ("", "no image"),
            };
            let file = self.path.join(path).display().to_string();
            return Err(DataError::File { file, problem: format!("the image can't be decoded: {why}") });
        };
        let channels = if readable.any(|header| header.has_colour) { 3 } else { 1 };
        Ok([channels, first.height, first.width])
    }
}

/// Splits a path into folder and file name.
pub(crate) fn parted(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    (parent.unwrap_or(Path::new(".")).to_owned(), name)
}

/// Candidate files of labels: all files of the folder, or only the images' siblings if a file was named.
fn list_for_labels(root: &Path, is_folder: bool) -> Result<Vec<String>, DataError> {
    if is_folder {
        return list(root);
    }
    let io = |source| DataError::Io { file: root.display().to_string(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.path().is_file() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}
