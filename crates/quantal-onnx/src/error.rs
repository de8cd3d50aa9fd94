//! What can be wrong with a model file, said so that a person can act on it.

use quantal_tensor::{DType, OutOfMemory, TensorError};
use std::path::Path;

/// The most characters of a name from a file that a message repeats.
const QUOTED_CHARS: usize = 100;

/// An ONNX file could not be read, understood or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot read {path}: {problem}")]
    Read {
        /// The file, quoted.
        path: String,
        /// What the system said.
        problem: String,
    },
    /// An output could not be written; nothing is left at its path that was not there before.
    #[error("cannot write {path}: {problem}")]
    Write {
        /// The file, quoted.
        path: String,
        /// What the system said.
        problem: String,
    },
    /// The path leads to something that cannot be an ONNX model.
    #[error("{path} is {kind}")]
    NotAModel {
        /// The file, quoted.
        path: String,
        /// What it is instead.
        kind: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// A problem inside a file.
    #[error("{path}: {problem}")]
    InFile {
        /// The file, quoted.
        path: String,
        /// The problem.
        problem: Box<Error>,
    },
    /// The bytes are not a well-formed message.
    #[error("damaged model: {problem} (in {message}, field {field}, at byte {at})")]
    Damaged {
        /// The kind of the message: `node`, `tensor` …
        message: &'static str,
        /// Number of the field; 0 before the first.
        field: u32,
        /// Offset from the start of the model.
        at: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// Messages nest deeper than any real model.
    #[error("messages nest deeper than {0} levels")]
    TooDeep(usize),
    /// So many small parts that holding them would take far more memory than the file.
    #[error("the model has too many parts: describing them takes more than {0} bytes")]
    TooManyParts(usize),
    /// There is nothing to run in it.
    #[error("the model has no graph")]
    NoGraph,
    /// A tensor's description and its data disagree.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its name, quoted.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor of a type that is carried through, but not computed with.
    #[error("tensor {name}: data type {dtype} is unsupported")]
    Unsupported {
        /// Its name, quoted.
        name: String,
        /// The type.
        dtype: DType,
    },
    /// A tensor's external file is refused.
    #[error("tensor {name}: external data {location}: {problem}")]
    External {
        /// Its name, quoted.
        name: String,
        /// The location that the model gives, quoted.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// No memory for a tensor.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAModel { hint, .. } => (!hint.is_empty()).then(|| (*hint).to_owned()),
            Self::InFile { problem, .. } => problem.hint(),
            Self::Damaged { .. } => Some("the file may be cut short, or not an ONNX model; fetch it again".into()),
            Self::NoGraph => Some("the file may not be an ONNX model".into()),
            Self::Unsupported { .. } => Some("convert this tensor to a numeric type".into()),
            Self::External { .. } => {
                Some("external data files must lie in the folder of the model, under the names it gives".into())
            }
            Self::OutOfMemory(_) => Some("raise the memory limit, or use a smaller model".into()),
            Self::Read { .. } | Self::Write { .. } | Self::TooDeep(_) | Self::TooManyParts(_) | Self::Tensor { .. } => {
                None
            }
        }
    }

    pub(crate) fn read(path: &Path, problem: &std::io::Error) -> Self {
        Self::Read { path: quote_path(path), problem: io_text(problem) }
    }

    pub(crate) fn write(path: &Path, problem: &std::io::Error) -> Self {
        Self::Write { path: quote_path(path), problem: io_text(problem) }
    }

    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::NotAModel { .. } | Self::InFile { .. } => self,
            problem => Self::InFile { path: quote_path(path), problem: Box::new(problem) },
        }
    }

    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: tensor_name(name), problem: problem.into() }
    }

    pub(crate) fn from_tensor(name: &str, error: TensorError) -> Self {
        match error {
            TensorError::OutOfMemory(error) => Self::OutOfMemory(error),
            TensorError::Unsupported(dtype) => Self::Unsupported { name: tensor_name(name), dtype },
            error @ (TensorError::TooLarge(_) | TensorError::Length { .. }) => {
                let mut problem = error.to_string();
                problem.truncate(300); // ASCII: a rank of thousands must not fill the screen
                Self::tensor(name, problem)
            }
        }
    }
}

/// The system's words without its error number.
pub(crate) fn io_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

pub(crate) fn quote_path(path: &Path) -> String {
    // A path is the user's own words, and they need all of it: escaped, but not cut short.
    format!("`{}`", path.to_string_lossy().chars().flat_map(escaped).collect::<String>())
}

/// A tensor's name as messages say it; those in attributes rarely have one.
pub(crate) fn tensor_name(name: &str) -> String {
    if name.is_empty() { "without a name".to_owned() } else { quote(name) }
}

/// A name from a file, fit for a message: in backticks, control characters escaped, at most 100 characters.
pub fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (i, c) in text.chars().enumerate() {
        if i == QUOTED_CHARS {
            out.push('…');
            break;
        }
        out.extend(escaped(c));
    }
    out.push('`');
    out
}

/// Control characters, and those that reorder or hide text on a terminal, as `\u{…}`.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let (plain, escape) = if c.is_control() || hides { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_files_cannot_move_the_cursor() {
        assert_eq!(quote("a\x1b[2J\nb\u{202e}"), "`a\\u{1b}[2J\\nb\\u{202e}`");
        assert_eq!(quote(&"é".repeat(5000)).chars().count(), QUOTED_CHARS + 3);
    }
}
