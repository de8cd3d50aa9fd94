//! A dataset: what a path holds, checked against the model, and its samples as a stream.

mod crop;
mod figures;
mod list;

use crate::arrays::{Naming, Stack, matched, take_label};
use crate::error::{Error, one_line, shown};
use crate::fit::{InputSpec, batch_of_one, fit, fit_sample};
use crate::image::{Pixels, Plan};
use crate::preprocess::{PRESETS, Preprocess};
use crate::text::Text;
use crate::{files, idx, labels, npz};
pub use crop::SmallCrop;
use quantal_tensor::{DType, Tensor};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Where the data is, and what to do with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataSpec {
    /// A folder, or a file that holds many samples.
    pub path: PathBuf,
    /// The labels: a CSV of `file,label`, or for samples without files a list in their order (CSV, `.npy`, IDX).
    pub labels: Option<PathBuf>,
    /// A list of names, one a line: only these samples are used.
    pub only: Option<PathBuf>,
    /// What is done to images. There is no default for image files: a wrong guess would not be noticed.
    pub preprocess: Option<Preprocess>,
    /// The `tokenizer.json` for text.
    pub tokenizer: Option<PathBuf>,
}

/// One sample: what is fed to the model in one run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The file, or the place in it, for messages.
    pub name: String,
    /// A tensor for each input, in the model's order, of the input's type and shape.
    pub feeds: Vec<(String, Tensor)>,
    /// The class, if it is known.
    pub label: Option<u32>,
}

/// The kinds of data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// JPEG and PNG files.
    Images,
    /// `.npz` archives, an array for each input.
    Npz,
    /// `.npy` arrays.
    Npy,
    /// Little-endian elements without a header (`.bin`, `.raw`).
    Raw,
    /// IDX files of images, as MNIST comes.
    Idx,
    /// Lines of text.
    Text,
}

impl Kind {
    /// The plural that messages use.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Npz => ".npz arrays",
            Self::Npy => ".npy arrays",
            Self::Raw => "raw tensors",
            Self::Idx => "IDX images",
            Self::Text => "sentences",
        }
    }

    fn of(path: &Path) -> Option<Self> {
        if idx::is_images(path) {
            return Some(Self::Idx);
        }
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "jpg" | "jpeg" | "png" => Self::Images,
            "npz" => Self::Npz,
            "npy" => Self::Npy,
            "bin" | "raw" => Self::Raw,
            "txt" | "tsv" => Self::Text,
            _ => return None,
        })
    }
}

enum Source {
    Images(Files, Plan),
    Npz(Files),
    Npy(Files),
    Raw(Files, Vec<usize>),
    Stack(Stack),
    Idx(idx::Idx, Plan),
    Text(Box<Text>),
}

impl Source {
    /// The files, where each is a sample.
    fn files(&self) -> Option<&Files> {
        match self {
            Self::Images(files, _) | Self::Npz(files) | Self::Npy(files) | Self::Raw(files, _) => Some(files),
            Self::Stack(_) | Self::Idx(..) | Self::Text(_) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Images(files, _) | Self::Npz(files) | Self::Npy(files) | Self::Raw(files, _) => files.paths.len(),
            Self::Stack(stack) => stack.rows,
            Self::Idx(images, _) => images.shape[0],
            Self::Text(text) => text.len(),
        }
    }

    /// What messages and lists call a sample of the data at `path`: however that is spelled, as in labels.
    fn name(&self, path: &Path, i: usize) -> String {
        let file = || shown(path.file_name().unwrap_or_default().as_ref());
        match self {
            Self::Images(files, _) | Self::Npz(files) | Self::Npy(files) | Self::Raw(files, _) => shown(&files.name(i)),
            Self::Stack(_) | Self::Idx(..) => format!("{}[{i}]", file()),
            Self::Text(text) => format!("{}:{}", file(), text.line(i)),
        }
    }
}

/// Files in a folder that no sample is read from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: String,
    /// Their extensions, in order, each once.
    pub extensions: Vec<String>,
}

/// One sample a file.
struct Files {
    root: PathBuf,
    /// Relative to `root`.
    paths: Vec<PathBuf>,
}

impl Files {
    fn path(&self, i: usize) -> PathBuf {
        // A file given by itself is listed under no folder; joining an empty path would add a separator.
        if self.paths[i].as_os_str().is_empty() { self.root.clone() } else { self.root.join(&self.paths[i]) }
    }

    /// The name that labels and messages know the file by.
    fn name(&self, i: usize) -> PathBuf {
        if self.paths[i].as_os_str().is_empty() {
            self.root.file_name().map(PathBuf::from).unwrap_or_default()
        } else {
            self.paths[i].clone()
        }
    }
}

/// Samples that fit a model. Nothing but their names and labels is held; each is read when it is asked for.
pub struct Dataset {
    path: PathBuf,
    kind: Kind,
    source: Source,
    inputs: Vec<InputSpec>,
    /// The samples in use: those that a list names, those with a label if a labels file was given. Indices into `source`.
    members: Vec<usize>,
    labels: Option<Vec<u32>>,
    unlabelled: usize,
    skipped: Option<Skipped>,
    about: String,
    /// Samples decoded at a time.
    chunk: usize,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({}: {})", shown(&self.path), self.about)
    }
}

/// Samples that are decoded at a time may take this many bytes together.
const CHUNK_BYTES: usize = 256 << 20;

impl Dataset {
    /// Finds out what `spec.path` holds and lists its samples, by name. The labels are joined and the first sample is
    /// loaded and checked against `inputs`, so that what is wrong with all samples shows before any compute.
    ///
    /// With a labels file, samples that it does not list are left out, and it may list more than there are; both at once
    /// is an error.
    pub fn open(spec: &DataSpec, inputs: &[InputSpec]) -> Result<Self, Error> {
        if inputs.is_empty() {
            let message = "it has no inputs".to_owned();
            return Err(Error::Inputs { kind: "data", message });
        }
        let metadata = std::fs::metadata(&spec.path).map_err(|e| Error::io(&spec.path, &e))?;
        let (kind, files, skipped) = if metadata.is_dir() {
            folder(&spec.path)?
        } else {
            let (kind, files) = file(&spec.path)?;
            (kind, files, None)
        };
        let dataset = Self::open_files(spec, inputs, kind, files, !metadata.is_dir())?;
        Ok(Self { skipped, ..dataset })
    }

    fn open_files(
        spec: &DataSpec,
        inputs: &[InputSpec],
        kind: Kind,
        files: Files,
        single: bool,
    ) -> Result<Self, Error> {
        // One file of many samples is the same data, in its folder or by itself.
        let in_file = || DataSpec { path: files.path(0), ..spec.clone() };
        let source = match kind {
            Kind::Images => {
                let Some(preprocess) = &spec.preprocess else {
                    return Err(Error::NeedsPreprocess { path: shown(&spec.path) });
                };
                let plan = Plan::new(preprocess, inputs)?;
                Source::Images(files, plan)
            }
            Kind::Npz | Kind::Npy if single => Source::Stack(Stack::open(&spec.path, inputs, kind == Kind::Npz)?),
            Kind::Npz => Source::Npz(files),
            Kind::Npy => Source::Npy(files),
            Kind::Raw => Source::Raw(files, raw_shape(inputs)?),
            Kind::Idx => {
                let [_] = files.paths.as_slice() else {
                    let names: Vec<String> = files.paths.iter().map(|p| shown(p)).collect();
                    return Err(Error::Mixed {
                        path: shown(&spec.path),
                        kinds: format!("IDX files {}", names.join(", ")),
                    });
                };
                return Self::open_idx(&in_file(), inputs);
            }
            Kind::Text => {
                let spec = in_file();
                let text = Text::open(&spec.path, spec.tokenizer.as_deref(), inputs)?;
                return Self::assemble(&spec, inputs, kind, Source::Text(Box::new(text)), None);
            }
        };
        Self::assemble(spec, inputs, kind, source, None)
    }

    fn open_idx(spec: &DataSpec, inputs: &[InputSpec]) -> Result<Self, Error> {
        let path = &spec.path;
        let plain = || PRESETS.iter().find(|p| p.name == "mnist").expect("the preset exists").preprocess();
        let plan = Plan::new(&spec.preprocess.clone().unwrap_or_else(plain), inputs)?;
        let images = idx::read(path, 3)?;
        if images.shape.contains(&0) {
            return Err(Error::Empty { path: shown(path), found: format!(": its sizes are {:?}", images.shape) });
        }
        let beside = match &spec.labels {
            Some(_) => None,
            None => idx::labels_beside(path),
        };
        let labels = beside.map(|p| labels::in_order(&p, images.shape[0])).transpose()?;
        Self::assemble(spec, inputs, Kind::Idx, Source::Idx(images, plan), labels)
    }

    /// Images and labels as gzipped IDX that the program holds itself; values 0 to 255 as they are.
    pub fn embedded_idx(images: &[u8], labels: &[u8], inputs: &[InputSpec]) -> Result<Self, Error> {
        let plain = PRESETS.iter().find(|p| p.name == "mnist").expect("the preset exists").preprocess();
        let plan = Plan::new(&plain, inputs)?;
        let images = idx::read_embedded("embedded images", images, 3)?;
        let labels = idx::read_embedded("embedded labels", labels, 1)?;
        let spec = DataSpec { path: "embedded images".into(), ..DataSpec::default() };
        let labels: Vec<u32> = labels.bytes.iter().map(|&b| b.into()).collect();
        if labels.len() != images.shape[0] {
            return Err(Error::array("embedded labels", format!("{} for {} images", labels.len(), images.shape[0])));
        }
        Self::assemble(&spec, inputs, Kind::Idx, Source::Idx(images, plan), Some(labels))
    }

    fn assemble(
        spec: &DataSpec,
        inputs: &[InputSpec],
        kind: Kind,
        source: Source,
        beside: Option<Vec<u32>>,
    ) -> Result<Self, Error> {
        let all = 0..source.len();
        let mut members: Vec<usize> = match &spec.only {
            None => all.collect(),
            Some(list) => list::members(list, all.map(|i| source.name(&spec.path, i)))?,
        };
        let count = members.len();
        let labels: Option<Vec<u32>> = if let (Some(path), Some(files)) = (&spec.labels, source.files()) {
            let names: Vec<PathBuf> = members.iter().map(|&i| files.name(i)).collect();
            let found = members.iter().zip(labels::for_files(path, &names)?);
            let (labelled, labels) = found.filter_map(|(&i, label)| Some((i, label?))).unzip();
            members = labelled;
            Some(labels)
        } else {
            let all = match (&spec.labels, &source) {
                (Some(path), _) => Some(labels::in_order(path, source.len())?),
                (None, Source::Stack(stack)) => stack.labels.clone(),
                (None, Source::Text(text)) => text.labels.clone(),
                (None, _) => beside,
            };
            all.map(|all| members.iter().map(|&i| all[i]).collect())
        };
        if members.is_empty() {
            return Err(Error::Empty { path: shown(&spec.path), found: String::new() });
        }
        let noun = if members.len() == 1 { kind.noun().trim_end_matches('s') } else { kind.noun() };
        let listed = spec.only.as_ref().map_or_else(String::new, |list| format!(" that {} names", shown(list)));
        let labelled = if members.len() < count { format!(" with a label of {count}") } else { String::new() };
        let treated = match (&source, &spec.preprocess) {
            (Source::Images(..) | Source::Idx(..), Some(p)) => format!(", {} preprocessing", p.name()),
            (Source::Idx(..), None) => ", values 0 to 255".to_owned(),
            _ => String::new(),
        };
        let about = format!("{} {noun}{listed}{labelled}{treated}", members.len());
        let (path, inputs, unlabelled) = (spec.path.clone(), inputs.to_vec(), count - members.len());
        let mut dataset =
            Self { path, kind, source, inputs, members, labels, unlabelled, skipped: None, about, chunk: 1 };
        let first = dataset.sample(0)?;
        let bytes: usize = first.feeds.iter().map(|(_, t)| t.bytes().len()).sum();
        dataset.chunk = (CHUNK_BYTES / bytes.max(1)).clamp(1, (2 * rayon::current_num_threads()).min(32));
        Ok(dataset)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Number of samples that are left out because a labels file does not list them.
    pub fn unlabelled(&self) -> usize {
        self.unlabelled
    }

    /// Files in the folder that no sample is read from, though they may have been meant to be some: of a kind that is not
    /// known, but notes, tables and settings.
    pub fn skipped(&self) -> Option<&Skipped> {
        self.skipped.as_ref()
    }

    /// Never: a dataset without samples does not open.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// `n` of the samples (all, if there are fewer), in order: evenly spaced for seed 0, else drawn by the seed.
    pub fn pick(&self, n: usize, seed: u64) -> Vec<usize> {
        pick(self.len(), n, seed)
    }

    /// The samples of these indices, in this order, decoded in parallel a few at a time. After an error the stream goes
    /// on with the next sample.
    pub fn stream<'a>(&'a self, indices: &'a [usize]) -> impl Iterator<Item = Result<Sample, Error>> + 'a {
        indices
            .chunks(self.chunk)
            .flat_map(|chunk| chunk.par_iter().map(|&i| self.sample(i)).collect::<Vec<Result<Sample, Error>>>())
    }

    /// The class of each sample, where they are known without reading the samples. Labels that lie inside the files of
    /// a folder of `.npz` come with each [`Sample`].
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// What the samples are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// One line for a report: `256 images, imagenet preprocessing`.
    pub fn describe(&self) -> String {
        self.about.clone()
    }

    /// One sample by index.
    pub fn sample(&self, index: usize) -> Result<Sample, Error> {
        let Some(&i) = self.members.get(index) else {
            return Err(Error::array(&shown(&self.path), format!("no sample {index}, there are {}", self.len())));
        };
        let mut label = self.labels.as_ref().map(|l| l[index]);
        let only = |feed: Tensor| vec![(self.inputs[0].name.clone(), feed)];
        let name = self.source.name(&self.path, i);
        let feeds = match &self.source {
            Source::Images(files, plan) => only(plan.load(&files.path(i))?),
            Source::Npz(files) => {
                let path = shown(&files.path(i));
                let mut arrays = npz::read_npz(&files.path(i))?;
                let inside = take_label(&mut arrays, &self.inputs);
                let inside = inside.map(|t| labels::from_tensor(&path, &t)).transpose()?;
                label = label.or(inside.as_deref().and_then(|l| if let &[one] = l { Some(one) } else { None }));
                let feed = |(input, tensor): (InputSpec, Tensor)| Ok((input.name.clone(), fit(&path, &input, tensor)?));
                matched(&path, arrays, &self.inputs, Naming::Strict)?
                    .into_iter()
                    .map(feed)
                    .collect::<Result<_, Error>>()?
            }
            Source::Npy(files) => {
                let path = shown(&files.path(i));
                let array = vec![(String::new(), npz::read_npy(&files.path(i))?)];
                let feed =
                    |(input, tensor): (InputSpec, Tensor)| Ok((input.name.clone(), fit_sample(&path, &input, tensor)?));
                matched(&path, array, &self.inputs, Naming::Strict)?
                    .into_iter()
                    .map(feed)
                    .collect::<Result<_, Error>>()?
            }
            Source::Raw(files, shape) => only(raw(&files.path(i), self.inputs[0].dtype, shape)?),
            Source::Stack(stack) => stack.row(&name, i)?,
            Source::Idx(images, plan) => {
                let (h, w) = (images.shape[1], images.shape[2]);
                let data = images.bytes[i * h * w..][..h * w].to_vec();
                only(plan.tensor(&name, Pixels { h, w, channels: 1, data })?)
            }
            Source::Text(text) => text.row(&shown(&self.path), i)?,
        };
        Ok(Sample { name, feeds, label })
    }
}

/// The samples of a folder.
fn folder(path: &Path) -> Result<(Kind, Files, Option<Skipped>), Error> {
    let all = files::list(path, |f| Kind::of(f).is_some())?;
    let mut counts: std::collections::BTreeMap<Kind, usize> = std::collections::BTreeMap::new();
    for kind in all.iter().filter_map(|f| Kind::of(f)) {
        *counts.entry(kind).or_default() += 1;
    }
    // Notes beside the samples are common, so text counts only where there is nothing else.
    if counts.len() > 1 {
        counts.remove(&Kind::Text);
    }
    let mut kinds = counts.iter();
    let Some((&kind, _)) = kinds.next() else {
        let found = match all.first() {
            None => ": it is empty".to_owned(),
            Some(file) => format!(": {} files of other kinds, the first `{}`", all.len(), shown(file)),
        };
        return Err(Error::Empty { path: shown(path), found });
    };
    let several_texts = kind == Kind::Text && counts[&kind] > 1;
    if kinds.next().is_some() || several_texts {
        let list: Vec<String> = counts
            .iter()
            .map(|(k, n)| if several_texts { format!("{n} text files") } else { format!("{n} {}", k.noun()) })
            .collect();
        return Err(Error::Mixed { path: shown(path), kinds: list.join(", ") });
    }
    let skipped = skipped(&all);
    let paths = all.into_iter().filter(|f| Kind::of(f) == Some(kind)).collect();
    Ok((kind, Files { root: path.to_path_buf(), paths }, skipped))
}

/// Those of the files that may have been meant to be samples, and are of no kind that is known.
fn skipped(all: &[PathBuf]) -> Option<Skipped> {
    const BESIDE: &[&str] =
        &["csv", "json", "jsonl", "log", "md", "onnx", "pdf", "py", "rst", "sh", "toml", "xml", "yaml", "yml"];
    let extension = |f: &PathBuf| f.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let other: Vec<(&PathBuf, String)> = all
        .iter()
        .filter(|f| Kind::of(f).is_none())
        .filter_map(|f| Some((f, extension(f).filter(|e| !BESIDE.contains(&e.as_str()))?)))
        .collect();
    let (first, _) = other.first()?;
    let extensions: std::collections::BTreeSet<String> =
        other.iter().map(|(_, e)| format!(".{}", one_line(e))).collect();
    Some(Skipped { count: other.len(), first: shown(first), extensions: extensions.into_iter().collect() })
}

/// A file by itself.
fn file(path: &Path) -> Result<(Kind, Files), Error> {
    files::open(path)?;
    let kind = Kind::of(path)
        .ok_or_else(|| Error::Empty { path: shown(path), found: ": its extension is none that is known".to_owned() })?;
    Ok((kind, Files { root: path.to_path_buf(), paths: vec![PathBuf::new()] }))
}

/// The shape of a raw tensor: that of the only input, a free batch dimension taken as 1.
fn raw_shape(inputs: &[InputSpec]) -> Result<Vec<usize>, Error> {
    let refuse = |message: String| Error::Inputs { kind: "a raw tensor", message };
    let [input] = inputs else {
        return Err(refuse(format!("it has {} inputs, and a file without a header feeds one", inputs.len())));
    };
    batch_of_one(input)?;
    let dims = input.shape.iter().enumerate().map(|(i, &d)| if i == 0 { Some(1) } else { d });
    let shape: Option<Vec<usize>> = dims.collect();
    shape.ok_or_else(|| {
        refuse(format!("input `{}` leaves dimensions free: {}", one_line(&input.name), input.shape_text()))
    })
}

fn raw(path: &Path, dtype: DType, shape: &[usize]) -> Result<Tensor, Error> {
    let name = shown(path);
    let needed = quantal_tensor::tensor::element_count(shape).and_then(|n| n.checked_mul(dtype.size()));
    let (_, len) = files::open(path)?;
    // The length is checked before the file is read: it may be of any size.
    match needed {
        Some(n) if n as u64 == len => {}
        _ => {
            let wanted = needed.map_or_else(|| "too many".to_owned(), |n| n.to_string());
            return Err(Error::array(&name, format!("{dtype} of {shape:?} takes {wanted} bytes, found {len}")));
        }
    }
    let tensor = Tensor::from_bytes(dtype, shape, files::read_bytes(path)?).map_err(Error::tensor(&name))?;
    if dtype == DType::Bool && tensor.bytes().iter().any(|&b| b > 1) {
        return Err(Error::array(&name, "a bool is neither 0 nor 1"));
    }
    Ok(tensor)
}

/// `n` of `len` indices, sorted: evenly spaced for seed 0, else the first of a shuffle by the seed.
fn pick(len: usize, n: usize, seed: u64) -> Vec<usize> {
    if n >= len {
        return (0..len).collect();
    }
    if seed == 0 {
        return (0..n).map(|i| (i as u128 * len as u128 / n as u128) as usize).collect();
    }
    let mut state = seed;
    let mut indices: Vec<usize> = (0..len).collect();
    for i in 0..n {
        let j = i + ((u128::from(splitmix64(&mut state)) * (len - i) as u128) >> 64) as usize;
        indices.swap(i, j);
    }
    indices.truncate(n);
    indices.sort_unstable();
    indices
}

/// Steele, Lea, Flood 2014: a generator whose sequence is part of what a seed means here.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
