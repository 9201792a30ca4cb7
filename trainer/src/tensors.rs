//! Parameters and optimizer state as safetensors, and their digests.
//!
//! Names are those of the module; Linear weights are `[out, in]`, PyTorch's orientation, in both files and digests, so
//! that a digest can be verified from the file. An optimizer's tensor is named `exp_avg/hidden.0.weight`.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};

use crate::error::TrainerError;
use crate::layout::{Layout, Parameter};
use crate::names::listed;
use crate::optimizer::HostOptimizer;

/// Metadata of a file: key-value pairs of text.
pub type Metadata = BTreeMap<String, String>;

/// Serialises the parameters as safetensors.
#[must_use]
pub fn encode_model(layout: &Layout, parameters: &[f32], metadata: &Metadata) -> Vec<u8> {
    model_file(layout, parameters, metadata).into_bytes()
}

/// Serialises the optimizer's state as safetensors.
#[must_use]
pub fn encode_optimizer(optimizer: &HostOptimizer, metadata: &Metadata) -> Vec<u8> {
    optimizer_file(optimizer, metadata).into_bytes()
}

/// A safetensors file that is streamed: its size is known in advance and it is never held in memory.
pub struct TensorFile<'a> {
    head: Vec<u8>,
    entries: Vec<Entry<'a>>,
}

/// [`encode_model`] as a stream.
#[must_use]
pub fn model_file<'a>(layout: &'a Layout, parameters: &'a [f32], metadata: &Metadata) -> TensorFile<'a> {
    TensorFile::new(model_entries(layout, parameters), metadata)
}

/// [`encode_optimizer`] as a stream.
#[must_use]
pub fn optimizer_file<'a>(optimizer: &'a HostOptimizer, metadata: &Metadata) -> TensorFile<'a> {
    TensorFile::new(optimizer_entries(optimizer), metadata)
}

impl<'a> TensorFile<'a> {
    /// Writes the header itself: the safetensors crate keeps metadata in a hash map, but equal states must have equal
    /// bytes, and so equal hashes in the manifest.
    fn new(entries: Vec<Entry<'a>>, metadata: &Metadata) -> Self {
        let entries = sorted(entries);
        let mut header = serde_json::Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
        }
        let mut end = 0;
        for entry in &entries {
            let start = end;
            end += entry.values.len() * 4;
            let shape = entry.parameter.file_shape();
            header.insert(
                entry.name.clone(),
                serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }),
            );
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut head = (header.len() as u64).to_le_bytes().to_vec();
        head.append(&mut header);
        Self { head, entries }
    }

    /// Size of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.head.len() as u64 + self.entries.iter().map(|entry| entry.values.len() as u64 * 4).sum::<u64>()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn write(&self, sink: &mut dyn std::io::Write) -> std::io::Result<()> {
        let mut result = sink.write_all(&self.head);
        for entry in &self.entries {
            entry.write(|bytes| {
                if result.is_ok() {
                    result = sink.write_all(bytes);
                }
            });
        }
        result
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.size() as usize);
        file.extend_from_slice(&self.head);
        for entry in &self.entries {
            entry.write(|bytes| file.extend_from_slice(bytes));
        }
        file
    }
}

/// Header of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Key-value pairs of text.
    pub metadata: Metadata,
    /// Shapes of the tensors by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Parses a file's header.
///
/// # Errors
/// If it isn't safetensors.
pub fn header(bytes: &[u8]) -> Result<Header, TrainerError> {
    let file = File::open(bytes, "model")?;
    let shapes = file.tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
    Ok(Header { metadata: file.metadata, shapes })
}

/// Loads the parameters from a file and returns its metadata.
///
/// # Errors
/// If it isn't safetensors, or its tensors aren't exactly those of the layout. `parameters` may be partly overwritten.
pub fn decode_model(bytes: &[u8], layout: &Layout, parameters: &mut [f32]) -> Result<Metadata, TrainerError> {
    let file = File::open(bytes, "model")?;
    file.check_count(layout.parameters.len())?;
    for parameter in &layout.parameters {
        let region = &mut parameters[parameter.offset..parameter.offset + parameter.len];
        file.read(&parameter.name, parameter, region)?;
    }
    Ok(file.metadata)
}

/// Loads the parameters, by name, from a file of another run or program.
///
/// Parameters for which `may_differ` is true keep their values if the file lacks them or has another shape, and extra
/// tensors in the file with such names are ignored. Returns the number of parameters loaded.
///
/// # Errors
/// If it isn't safetensors, or a tensor is missing, superfluous, or of another shape or type: the message lists them,
/// and `parameters` are unchanged.
pub fn adopt_model(
    bytes: &[u8],
    layout: &Layout,
    parameters: &mut [f32],
    may_differ: impl Fn(&str) -> bool,
) -> Result<usize, TrainerError> {
    let file = File::open(bytes, "model")?;
    let (mut taken, mut missing, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for parameter in &layout.parameters {
        let name = &parameter.name;
        match file.tensors.tensor(name) {
            Ok(view) if view.dtype() == Dtype::F32 && view.shape() == parameter.file_shape() => {
                taken.push(parameter);
            }
            _ if may_differ(name) => {}
            Ok(view) => other.push(format!(
                "{name} (F32 {:?} here, {:?} {:?} there)",
                parameter.file_shape(),
                view.dtype(),
                view.shape()
            )),
            Err(_) => missing.push(name.clone()),
        }
    }
    let is_known = |name: &str| layout.parameters.iter().any(|parameter| parameter.name == name);
    let names = file.tensors.names().into_iter();
    let mut beyond: Vec<&str> = names.filter(|name| !is_known(name) && !may_differ(name)).collect();
    beyond.sort_unstable();
    let problems: Vec<String> = [
        ("the file lacks", listed(&missing)),
        ("of another shape or type are", listed(&other)),
        ("the model has no", listed(&beyond)),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what} {names}"))
    .collect();
    if !problems.is_empty() {
        return Err(TrainerError::Tensors(format!(
            "the tensors don't fit the model: {}",
            problems.join("; ")
        )));
    }
    for parameter in &taken {
        let region = &mut parameters[parameter.offset..parameter.offset + parameter.len];
        file.read(&parameter.name, parameter, region)?;
    }
    Ok(taken.len())
}

/// Loads the optimizer's state from a file and returns its metadata.
///
/// # Errors
/// As [`decode_model`].
pub fn decode_optimizer(bytes: &[u8], optimizer: &mut HostOptimizer) -> Result<Metadata, TrainerError> {
    let file = File::open(bytes, "optimizer")?;
    let layout = optimizer.layout().clone();
    file.check_count(layout.parameters.len() * optimizer.moments().len())?;
    for moment in optimizer.moments_mut() {
        for parameter in &layout.parameters {
            let region = &mut moment.values[parameter.offset..parameter.offset + parameter.len];
            file.read(&moment_name(moment.name, parameter), parameter, region)?;
        }
    }
    Ok(file.metadata)
}

/// `final.digest`: BLAKE3 over the model's tensors sorted bytewise by name; each as u32le length of the name, name,
/// u32le rank, u64le dimensions, little-endian f32 data.
#[must_use]
pub fn model_digest(layout: &Layout, parameters: &[f32]) -> [u8; 32] {
    digest(model_entries(layout, parameters))
}

/// The state digest: as [`model_digest`], over the tensors of both model and optimizer.
#[must_use]
pub fn state_digest(parameters: &[f32], optimizer: &HostOptimizer) -> [u8; 32] {
    let mut entries = model_entries(optimizer.layout(), parameters);
    entries.extend(optimizer_entries(optimizer));
    digest(entries)
}

struct Entry<'a> {
    name: String,
    parameter: &'a Parameter,
    values: &'a [f32],
}

fn model_entries<'a>(layout: &'a Layout, parameters: &'a [f32]) -> Vec<Entry<'a>> {
    assert!(parameters.len() == layout.elements, "parameters as long as their layout");
    let entry = |parameter: &'a Parameter| Entry {
        name: parameter.name.clone(),
        parameter,
        values: &parameters[parameter.offset..parameter.offset + parameter.len],
    };
    layout.parameters.iter().map(entry).collect()
}

fn optimizer_entries(optimizer: &HostOptimizer) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for moment in optimizer.moments() {
        entries.extend(optimizer.layout().parameters.iter().map(|parameter| Entry {
            name: moment_name(moment.name, parameter),
            parameter,
            values: &moment.values[parameter.offset..parameter.offset + parameter.len],
        }));
    }
    entries
}

fn moment_name(moment: &str, parameter: &Parameter) -> String {
    format!("{moment}/{}", parameter.name)
}

fn sorted(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    entries
}

impl Entry<'_> {
    /// Writes the values in file order, little-endian, in pieces.
    fn write(&self, mut out: impl FnMut(&[u8])) {
        let mut piece = Vec::with_capacity(PIECE * 4);
        let mut push = |value: &f32| {
            piece.extend_from_slice(&value.to_le_bytes());
            if piece.len() == PIECE * 4 {
                out(&piece);
                piece.clear();
            }
        };
        if self.parameter.transposed {
            let columns = self.parameter.shape[1];
            for column in 0..columns {
                self.values.iter().skip(column).step_by(columns).for_each(&mut push);
            }
        } else {
            self.values.iter().for_each(&mut push);
        }
        out(&piece);
    }
}

/// Elements written at once.
const PIECE: usize = 4096;

fn digest(entries: Vec<Entry<'_>>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for entry in sorted(entries) {
        let shape = entry.parameter.file_shape();
        hasher.update(&(entry.name.len() as u32).to_le_bytes());
        hasher.update(entry.name.as_bytes());
        hasher.update(&(shape.len() as u32).to_le_bytes());
        for dimension in shape {
            hasher.update(&(dimension as u64).to_le_bytes());
        }
        entry.write(|bytes| {
            hasher.update(bytes);
        });
    }
    *hasher.finalize().as_bytes()
}

struct File<'a> {
    kind: &'static str,
    tensors: SafeTensors<'a>,
    metadata: Metadata,
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8], kind: &'static str) -> Result<Self, TrainerError> {
        let wrong = |error: safetensors::SafeTensorError| {
            TrainerError::Tensors(format!("the {kind}'s tensors can't be read: {error}"))
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { kind, tensors: SafeTensors::deserialize(bytes).map_err(wrong)?, metadata })
    }

    fn check_count(&self, expected: usize) -> Result<(), TrainerError> {
        let found = self.tensors.len();
        if found == expected {
            return Ok(());
        }
        Err(TrainerError::Tensors(format!(
            "the {}'s file holds {found} tensors, this configuration has {expected}",
            self.kind
        )))
    }

    fn read(&self, name: &str, parameter: &Parameter, out: &mut [f32]) -> Result<(), TrainerError> {
        let wrong =
            |what: String| TrainerError::Tensors(format!("the {}'s tensor {name:?} {what}", self.kind));
        let view = self.tensors.tensor(name).map_err(|_| wrong("is missing".to_owned()))?;
        let expected = parameter.file_shape();
        if view.dtype() != Dtype::F32 || view.shape() != expected {
            return Err(wrong(format!(
                "is {:?} {:?}, this configuration has F32 {expected:?}",
                view.dtype(),
                view.shape()
            )));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        if parameter.transposed {
            let [rows, columns] = [parameter.shape[0], parameter.shape[1]];
            for (index, value) in values.enumerate() {
                out[(index % rows) * columns + index / rows] = value;
            }
        } else {
            for (slot, value) in out.iter_mut().zip(values) {
                *slot = value;
            }
        }
        Ok(())
    }
}
