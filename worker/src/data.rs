//! The run's data at this worker: located by digest, and converted from rows to the engine's batches.

use std::path::{Path, PathBuf};

use datasets::{AugmentKey, Batch, DataError, DataPlan, Dataset, Output};
use protocol::ids::Phase;
use protocol::messages::Failure;
use trainer::{Categories, DataSpec, HostBatch, HostData, OutputSpec, Precision, Target};

use crate::failure::{WorkError, fail};
use crate::transfer::{Remote, Transfer};

/// The rows of both splits, ready to be gathered.
pub(crate) struct Samples {
    dataset: Dataset,
    spec: DataSpec,
}

/// Intermediate buffers between rows and a batch; reused with it.
pub(crate) struct Scratch(Batch);

impl Samples {
    /// Opens the dataset at the plan's path if its bytes match; otherwise fetches it by digest. Batches carry
    /// `precision`, in which training is computed.
    pub(crate) fn open(
        plan: &DataPlan,
        precision: Precision,
        transfer: &Transfer,
    ) -> Result<Self, WorkError> {
        let dataset = match Dataset::open(plan, Path::new(&plan.path)) {
            Ok(dataset) => dataset,
            // Another copy would need as much memory.
            Err(why @ DataError::Memory { .. }) => return Err(fail(3, why.to_string()).into()),
            Err(why) => {
                tracing::info!("{why}; asking the coordinator for {}", plan.version());
                open_copy(plan, transfer)?
            }
        };
        Ok(Self { dataset, spec: spec(plan, precision) })
    }

    /// The data's shape, for which the model is built.
    pub(crate) fn spec(&self) -> &DataSpec {
        &self.spec
    }

    /// The text of the tokenizer's file, if the data were tokenized.
    pub(crate) fn tokenizer_json(&self) -> Option<&str> {
        self.dataset.tokenizer_json()
    }

    pub(crate) fn training_len(&self) -> u64 {
        self.dataset.training_len()
    }

    pub(crate) fn evaluation_len(&self) -> u64 {
        self.dataset.evaluation_len()
    }

    /// Empty buffers of the right types.
    pub(crate) fn buffers(&self) -> (HostBatch, Scratch) {
        (HostBatch::empty(&self.spec), Scratch(Batch::default()))
    }

    /// Fills a batch with these samples of a split. Training samples are augmented by the key.
    pub(crate) fn gather(
        &self,
        phase: Phase,
        key: AugmentKey,
        ordinals: &[u64],
        scratch: &mut Scratch,
        batch: &mut HostBatch,
    ) -> Result<(), DataError> {
        let rows = &mut scratch.0;
        // The features are gathered straight into the batch's own vector.
        if let HostData::F32(features) = &mut batch.x.data {
            std::mem::swap(features, &mut rows.features);
        }
        match phase {
            Phase::Train => self.dataset.gather_training(key, ordinals, rows)?,
            Phase::Evaluate => self.dataset.gather_evaluation(ordinals, rows)?,
        }
        if let HostData::F32(features) = &mut batch.x.data {
            std::mem::swap(features, &mut rows.features);
        }
        if let HostData::I64(tokens) = &mut batch.x.data {
            tokens.clear();
            tokens.extend(rows.tokens.iter().map(|token| i64::from(*token)));
        }
        match &mut batch.y {
            Target::Labels(labels) | Target::Tokens(labels) => {
                labels.clear();
                labels.extend(rows.labels.iter().map(|label| i64::from(*label)));
            }
            Target::Values { data, .. } => std::mem::swap(data, &mut rows.values),
            Target::Unknown => {}
        }
        batch.set_count(rows.count);
        Ok(())
    }
}

/// Opens this machine's cached copy of a dataset from a coordinator, or fetches it. A copy is named by its digest,
/// and gets that name only once it is complete.
fn open_copy(plan: &DataPlan, transfer: &Transfer) -> Result<Dataset, WorkError> {
    let folder = cache_folder();
    let failed = |what: &Path, error: &std::io::Error| fail(3, format!("{}: {error}", what.display()));
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
    let place = folder.join(file_name(&plan.digest)?);
    if let Some(tokenizer) = plan.tokenizer() {
        fetch_tokenizer(transfer, &folder.join(file_name(&tokenizer.md5)?), plan)?;
    }
    match Dataset::open(plan, &place) {
        Ok(dataset) => return Ok(dataset),
        Err(why @ DataError::Memory { .. }) => return Err(fail(3, why.to_string()).into()),
        Err(_) => {}
    }
    // Another worker may be fetching the same data: each writes its own file until the final rename.
    let partial = folder.join(format!(".{}.{}", plan.digest, std::process::id()));
    // Opened before and after the rename: later reads use the final name.
    let fetched = fetch(plan, transfer, &partial).and_then(|()| {
        Dataset::open(plan, &partial).map_err(|error| fail(3, error.to_string()))?;
        match std::fs::rename(&partial, &place) {
            Ok(()) => Ok(()),
            // An existing folder is another worker's complete copy.
            Err(_) if plan.is_folder() && place.is_dir() => Ok(()),
            Err(error) => Err(failed(&place, &error)),
        }?;
        Ok(Dataset::open(plan, &place).map_err(|error| fail(3, error.to_string()))?)
    });
    // Partial files are useless.
    let _ = if plan.is_folder() { std::fs::remove_dir_all(&partial) } else { std::fs::remove_file(&partial) };
    fetched
}

/// Stores the plan's tokenizer next to the data, under its digest, unless it exists.
fn fetch_tokenizer(transfer: &Transfer, place: &Path, plan: &DataPlan) -> Result<(), WorkError> {
    if plan.read_tokenizer(place).is_ok() {
        return Ok(());
    }
    let Some(tokenizer) = plan.tokenizer() else { return Ok(()) };
    let digest = file_name(&tokenizer.md5)?;
    let partial = place.with_file_name(format!(".{digest}.{}", std::process::id()));
    let fetched = fetch_file(transfer, digest, tokenizer.bytes, &partial).and_then(|()| {
        plan.read_tokenizer(&partial).map_err(|error| fail(3, error.to_string()))?;
        Ok(std::fs::rename(&partial, place)
            .map_err(|error| fail(3, format!("{}: {error}", place.display())))?)
    });
    let _ = std::fs::remove_file(&partial);
    fetched
}

/// Downloads the plan's file, or all files of its folder.
fn fetch(plan: &DataPlan, transfer: &Transfer, partial: &Path) -> Result<(), WorkError> {
    if !plan.is_folder() {
        return fetch_file(transfer, &plan.digest, plan.bytes, partial);
    }
    for entry in plan.files() {
        let place = datasets::place(partial, entry).map_err(|error| fail(3, error.to_string()))?;
        let folder = place.parent().unwrap_or(partial);
        std::fs::create_dir_all(folder).map_err(|error| fail(3, format!("{}: {error}", folder.display())))?;
        fetch_file(transfer, &entry.md5, entry.bytes, &place)?;
    }
    Ok(())
}

/// Downloads a file of exactly `bytes` bytes.
fn fetch_file(transfer: &Transfer, digest: &str, bytes: u64, place: &Path) -> Result<(), WorkError> {
    let failed = |error: &std::io::Error| fail(3, format!("{}: {error}", place.display()));
    let file = std::fs::File::create(place).map_err(|error| failed(&error))?;
    let mut sink = LimitedFile { file, left: bytes };
    transfer.download(&Remote::Dataset { digest }, &mut sink)?;
    Ok(sink.file.sync_all().map_err(|error| failed(&error))?)
}

/// A file that accepts exactly this many bytes: the sender is not trusted, not even about where the file ends.
struct LimitedFile {
    file: std::fs::File,
    left: u64,
}

impl std::io::Write for LimitedFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(std::io::Error::other("the coordinator sent more bytes than the plan has"));
        }
        let written = self.file.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Validates a digest as a file name that stays in its folder.
fn file_name(digest: &str) -> Result<&str, Failure> {
    // A folder's digest ends in .dir.
    let hexadecimal = digest.strip_suffix(".dir").unwrap_or(digest);
    let is_hexadecimal = hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hexadecimal.is_empty() && hexadecimal.len() <= 128 && is_hexadecimal {
        return Ok(digest);
    }
    Err(fail(3, format!("the dataset's digest {digest:?} is not hexadecimal")))
}

fn cache_folder() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("bonfire/datasets")
}

/// Shapes and names, in the trainer's terms.
pub(crate) fn spec(plan: &DataPlan, precision: Precision) -> DataSpec {
    let input = match (&plan.output, plan.image_shape) {
        (Output::Tokens { window, .. }, _) => vec![*window as usize],
        (_, Some(shape)) => shape.to_vec(),
        (_, None) => vec![plan.features()],
    };
    let output = match &plan.output {
        Output::Classes { labels } => OutputSpec::Classes(labels.clone()),
        Output::Values { .. } => OutputSpec::Values(plan.targets()),
        Output::Tokens { vocabulary, .. } => OutputSpec::Tokens { vocabulary: *vocabulary as usize },
    };
    let categories = plan.categories().into_iter();
    let categories = categories.map(|(place, codes)| Categories { place, codes }).collect();
    DataSpec { input, output, categories, precision }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_download_has_the_bytes_of_its_plan_at_most() {
        let file = tempfile::tempfile().expect("a file");
        let mut sink = LimitedFile { file, left: 5 };
        sink.write_all(b"abc").expect("within");
        assert!(sink.write_all(b"def").expect_err("beyond").to_string().contains("more bytes than the plan"));
        sink.write_all(b"de").expect("the last ones");
    }

    /// A table of `rows` rows with one feature, the row's number, and two alternating labels.
    pub(crate) fn samples(rows: usize) -> Samples {
        of_form("csv", rows, |_| {}).0
    }

    /// `rows` rows in a format, and their path. The first number of each row is its index (for images a 255th of it).
    /// `set` changes the configuration. Each row or image has an invalid neighbour, which `on_bad` may leave out.
    pub(crate) fn of_form(
        form: &str,
        rows: usize,
        set: impl FnOnce(&mut configs::Dataset),
    ) -> (Samples, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = configs::Dataset {
            format: form.to_owned(),
            validation: 0.3,
            normalise: configs::Normalise::None,
            window: 2,
            ..Default::default()
        };
        set(&mut config);
        let is_weighted = config.sampling == configs::Sampling::Weighted;
        let path = match form {
            "idx" => write_idx(dir.path(), rows),
            "images" => write_images(dir.path(), rows),
            "parquet" => write_parquet(dir.path(), rows, is_weighted),
            "text" if config.tokenizer.is_some() => {
                // A word for each row, and one after it.
                let words = (0..rows).map(|row| (row.to_string(), row)).chain([("and".to_owned(), 200)]);
                let vocabulary: serde_json::Map<_, _> = words.map(|(word, id)| (word, id.into())).collect();
                let model =
                    serde_json::json!({ "type": "WordLevel", "vocab": vocabulary, "unk_token": "and" });
                let json = serde_json::json!({
                    "version": "1.0", "pre_tokenizer": { "type": "Whitespace" }, "model": model,
                });
                config.tokenizer = Some(write(dir.path(), "words.json", json.to_string().as_bytes()));
                let text: String = (0..rows).map(|row| format!("{row} and ")).collect();
                write(dir.path(), "t.txt", format!("{text}0").as_bytes())
            }
            "text" => {
                // Windows of two tokens, and the token after the last one.
                let bytes: Vec<u8> = (0..rows).flat_map(|row| [row as u8, 200]).chain([0]).collect();
                write(dir.path(), "t.txt", &bytes)
            }
            _ => {
                let bad = if config.on_bad == configs::OnBad::Skip { "7,too,many\n" } else { "" };
                let weight = |row| if is_weighted { format!("{},", weight(row)) } else { String::new() };
                let line = |row| format!("{row},{}{}\n", weight(row), ["a", "b"][row % 2]);
                let lines: String = (0..rows).map(line).collect();
                let head = if is_weighted { "x,w,label" } else { "x,label" };
                write(dir.path(), "table.csv", format!("{head}\n{bad}{lines}").as_bytes())
            }
        };
        config.uri = path.display().to_string();
        let plan = DataPlan::prepare(&config, None).expect("a plan");
        let dataset = Dataset::open(&plan, Path::new(&plan.path)).expect("the file of the plan");
        (Samples { dataset, spec: spec(&plan, Precision::F32) }, dir)
    }

    /// A column of weights, for weighted sampling.
    fn weight(row: usize) -> i64 {
        row as i64 % 4
    }

    fn write(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn write_idx(root: &Path, rows: usize) -> PathBuf {
        let sizes = |sizes: &[u32]| sizes.iter().flat_map(|size| size.to_be_bytes()).collect::<Vec<u8>>();
        let pixels: Vec<u8> = (0..rows).flat_map(|row| [row as u8, 9, 9, 9]).collect();
        let images = [vec![0, 0, 8, 3], sizes(&[rows as u32, 2, 2]), pixels].concat();
        write(root, "x-images-idx3-ubyte", &images);
        let labels: Vec<u8> = (0..rows).map(|row| row as u8 % 2).collect();
        write(root, "x-labels-idx1-ubyte", &[vec![0, 0, 8, 1], sizes(&[rows as u32]), labels].concat());
        root.to_owned()
    }

    /// Grey PNG files of 2 x 2 pixels in two classes, and one invalid file.
    fn write_images(root: &Path, rows: usize) -> PathBuf {
        for row in 0..rows {
            let pixels = vec![row as u8, 9, 9, 9];
            let image = image::GrayImage::from_raw(2, 2, pixels).expect("pixels");
            let mut png = std::io::Cursor::new(Vec::new());
            image.write_to(&mut png, image::ImageFormat::Png).expect("encoded");
            write(root, &format!("{}/{row:03}.png", ["a", "b"][row % 2]), png.get_ref());
        }
        write(root, "a/bad.png", b"no image");
        root.to_owned()
    }

    /// Several row groups that the rows don't divide evenly.
    fn write_parquet(root: &Path, rows: usize, is_weighted: bool) -> PathBuf {
        use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
        let weights = if is_weighted { "required int64 w; " } else { "" };
        let schema = format!("message table {{ required int64 x; {weights}required binary label (UTF8); }}");
        let schema =
            std::sync::Arc::new(parquet::schema::parser::parse_message_type(&schema).expect("a schema"));
        let mut bytes = Vec::new();
        let mut writer =
            parquet::file::writer::SerializedFileWriter::new(&mut bytes, schema, std::sync::Arc::default())
                .expect("a writer");
        for group in (0..rows as i64).collect::<Vec<_>>().chunks(40) {
            let mut columns = writer.next_row_group().expect("a group");
            let of_weights: Vec<i64> = group.iter().map(|row| weight(*row as usize)).collect();
            for numbers in std::iter::once(group).chain(is_weighted.then_some(of_weights.as_slice())) {
                let mut column = columns.next_column().expect("read").expect("a column");
                column.typed::<Int64Type>().write_batch(numbers, None, None).expect("written");
                column.close().expect("closed");
            }
            let labels: Vec<ByteArray> =
                group.iter().map(|row| ByteArray::from(["a", "b"][*row as usize % 2])).collect();
            let mut column = columns.next_column().expect("read").expect("label");
            column.typed::<ByteArrayType>().write_batch(&labels, None, None).expect("written");
            column.close().expect("closed");
            columns.close().expect("closed");
        }
        writer.close().expect("closed");
        write(root, "t.parquet", &bytes)
    }

    #[test]
    fn only_a_digest_names_a_copy() {
        assert!(file_name("d41d8cd98f00b204e9800998ecf8427e").is_ok());
        assert!(file_name("d41d8cd98f00b204e9800998ecf8427e.dir").is_ok());
        for wrong in ["", ".dir", "../x", "abc/def", "xyz", &"a".repeat(200)] {
            assert_eq!(file_name(wrong).expect_err(wrong).code, 3);
        }
    }
}
