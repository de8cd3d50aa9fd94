//! What can be wrong with data, and what to do about it.

use crate::preprocess::PRESETS;
use quantal_tensor::{DType, OutOfMemory, TensorError};
use std::path::Path;

/// Why data could not be used. Paths and names are stored as text that is safe to print (see [`shown`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system would not let a file be read.
    #[error("cannot read `{path}`: {message}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        message: String,
    },
    /// A folder, device or pipe stands where a file is needed.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// What was named.
        path: String,
    },
    /// A file that is read as a whole is larger than such files are.
    #[error("`{path}`: {what} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// What it is to be: "the recipe".
        what: &'static str,
        /// The most that is read.
        limit: u64,
    },
    /// No sample was found.
    #[error("`{path}` holds no samples{found}")]
    Empty {
        /// The folder or file.
        path: String,
        /// What it holds instead, or nothing.
        found: String,
    },
    /// A folder holds samples of several kinds.
    #[error("`{path}` holds samples of several kinds: {kinds}")]
    Mixed {
        /// The folder.
        path: String,
        /// Count and kind of each.
        kinds: String,
    },
    /// Images were given, but not what to do to them.
    #[error("`{path}` holds images, and nothing says how to turn pixels into the model's input")]
    NeedsPreprocess {
        /// The folder or file.
        path: String,
    },
    /// A preprocessing that is neither a preset nor a file.
    #[error("preprocessing `{name}`: {message}")]
    UnknownPreset {
        /// What was asked for.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A file with a preprocessing that cannot be read or contradicts itself.
    #[error("preprocessing `{path}`{}: {message}", line.as_ref().map(|l| format!(", {l}")).unwrap_or_default())]
    PreprocessFile {
        /// The file.
        path: String,
        /// The line, as [`crate::toml_line`] shows it, where known.
        line: Option<String>,
        /// What is wrong there.
        message: String,
    },
    /// A preprocessing that contradicts itself or the model.
    #[error("preprocessing {name}: {message}")]
    Preprocess {
        /// The field at fault, or the image.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// An image that cannot be decoded or does not fit.
    #[error("image `{path}`: {message}")]
    Image {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// An `.npy`, `.npz`, IDX or raw file that is broken or not supported.
    #[error("`{path}`: {message}")]
    Array {
        /// The file, and the member of an archive.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A small compressed file that claims to unpack to something huge.
    #[error("`{path}` unpacks to {claimed} bytes from {stored}: refused as a decompression bomb")]
    Bomb {
        /// The file.
        path: String,
        /// Bytes after decompression, so far.
        claimed: u64,
        /// Bytes of the file.
        stored: u64,
    },
    /// An input of the model that the arrays do not provide.
    #[error("`{path}` has no array for the model's input `{input}`, it holds {found}")]
    MissingInput {
        /// The file.
        path: String,
        /// The input's name.
        input: String,
        /// The names of the arrays.
        found: String,
    },
    /// Elements that do not fit the input's type.
    #[error("`{path}`: input `{input}` is {wants}, the data is {found}{why}")]
    Type {
        /// The file.
        path: String,
        /// The input's name.
        input: String,
        /// The model's type.
        wants: DType,
        /// The data's type.
        found: DType,
        /// A value that cannot be converted, or nothing.
        why: String,
    },
    /// A shape that does not fit the input's.
    #[error("`{path}`: input `{input}` has shape {wants}, the data has {found:?}")]
    Shape {
        /// The file.
        path: String,
        /// The input's name.
        input: String,
        /// The model's shape, `?` where it is free.
        wants: String,
        /// The data's shape.
        found: Vec<usize>,
    },
    /// This kind of data cannot feed a model with such inputs.
    #[error("{kind} cannot feed this model: {message}")]
    Inputs {
        /// The kind of data.
        kind: &'static str,
        /// Why.
        message: String,
    },
    /// A labels file that cannot be read.
    #[error("labels `{path}`{}: {message}", line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Labels {
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: Option<u64>,
        /// What is wrong.
        message: String,
    },
    /// The labels file names files that are not among the samples, and samples have no label.
    #[error(
        "labels `{path}`: {count} of {total} files are not in the data, the first: {first}; \
         {unlabelled} of {samples} samples have no label"
    )]
    LabelsOfOtherData {
        /// The labels file.
        path: String,
        /// How many names are of no sample.
        count: usize,
        /// Out of how many.
        total: usize,
        /// Up to three of them.
        first: String,
        /// How many samples have no label.
        unlabelled: usize,
        /// Out of how many.
        samples: usize,
    },
    /// A list of samples cannot be used.
    #[error("the list `{path}`: {message}")]
    List {
        /// The list.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Text that cannot be read.
    #[error("text `{path}`, line {line}: {message}")]
    Text {
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A tokenizer is missing, broken or does not fit the model.
    #[error("tokenizer{}: {message}", path.as_ref().map(|p| format!(" `{p}`")).unwrap_or_default())]
    Tokenizer {
        /// The file, if one was given.
        path: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// A tensor could not be made.
    #[error("`{path}`: {source}")]
    Tensor {
        /// The file.
        path: String,
        /// Why.
        source: TensorError,
    },
}

impl Error {
    /// What the user can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Empty { .. } => {
                "give a folder of .jpg/.png images, .npz or .npy arrays or .bin tensors, an IDX file, or a text file"
            }
            Self::Mixed { .. } => "point to a folder that holds one kind only",
            Self::NeedsPreprocess { .. } => {
                return Some(format!("add --preprocess with a preset ({}) or a TOML file", presets()));
            }
            Self::UnknownPreset { .. } | Self::PreprocessFile { .. } | Self::Preprocess { .. } => {
                return Some(format!(
                    "a preprocessing is a preset ({}), a preset with a size such as `imagenet:224`, or a TOML file with scale \
                     (1 for pixels of 0 to 255, 0.00392156862745098 for 0 to 1) and, where they are needed, resize, crop, \
                     channels, layout, mean, std: docs/preprocessing.md says how",
                    presets()
                ));
            }
            Self::Bomb { .. } => "if the data is what it should be, store it uncompressed (numpy.savez)",
            Self::MissingInput { .. } => {
                "name each array as the model names its input: numpy.savez(path, input_name=array)"
            }
            Self::Type { .. } => "convert the array to the model's type before saving it",
            Self::Shape { .. } => {
                "arrays carry the batch dimension first; images have the size of the preprocessing's crop, which is best \
                 left to the model"
            }
            Self::Inputs { .. } => "save one .npz for each sample, with an array for each input",
            Self::Labels { .. } => "a labels file is a CSV with the header `file,label` and integer labels",
            Self::LabelsOfOtherData { .. } => "the names in the first column are relative to the data folder",
            Self::List { .. } => {
                "a list has one name a line, as `check-data --pick N -o FILE` writes them for the same --data"
            }
            Self::Tokenizer { path: None, .. } => "pass --tokenizer tokenizer.json, or put the file beside the model",
            Self::Tensor { source: TensorError::OutOfMemory(_), .. } => "raise --max-memory, or use smaller samples",
            Self::Image { .. } => "remove or replace the file",
            Self::TooLarge { .. } => "is this the file that was meant?",
            Self::Io { .. }
            | Self::NotAFile { .. }
            | Self::Array { .. }
            | Self::Text { .. }
            | Self::Tokenizer { .. }
            | Self::Tensor { .. } => return None,
        };
        Some(hint.to_owned())
    }

    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: shown(path), message: one_line(&error.to_string()) }
    }

    pub(crate) fn image(path: &str, message: impl Into<String>) -> Self {
        Self::Image { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn array(path: &str, message: impl Into<String>) -> Self {
        Self::Array { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn preprocess(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Preprocess { name: name.into(), message: message.into() }
    }

    pub(crate) fn tensor(path: &str) -> impl FnOnce(TensorError) -> Self + '_ {
        |source| Self::Tensor { path: path.to_owned(), source }
    }

    pub(crate) fn memory(path: &str) -> impl FnOnce(OutOfMemory) -> Self + '_ {
        |source| Self::Tensor { path: path.to_owned(), source: source.into() }
    }
}

/// The names of the presets.
fn presets() -> String {
    PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
}

/// The first of some names, for a message.
pub(crate) fn first_names<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().take(3).map(|n| format!("`{}`", one_line(n.as_ref()))).collect::<Vec<_>>().join(", ")
}

/// A path as text for messages: control characters and bytes that are not UTF-8 are escaped.
pub fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// Foreign text (names and messages from files) as one printable line of bounded length.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut line = String::new();
    for c in text.trim().chars() {
        if line.len() >= LONGEST {
            line.push('…');
            break;
        }
        match c {
            '\n' => line.push(' '),
            // Direction overrides would let a name rewrite the message around it.
            c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                line.extend(c.escape_unicode());
            }
            c => line.push(c),
        }
    }
    line
}
