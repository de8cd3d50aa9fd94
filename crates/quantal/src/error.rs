//! What can go wrong in a job. Messages name the file, the node or the sample; [`Error::hint`] says what to do.

use quantal_kernels::isa::UnknownIsa;
use std::path::Path;

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file.
    #[error(transparent)]
    File(#[from] quantal_onnx::Error),
    /// The model's graph.
    #[error("{path}: {cause}")]
    Import {
        /// The model.
        path: String,
        /// What is wrong with it.
        cause: quantal_ir::ImportError,
    },
    /// A rewrite of the graph.
    #[error(transparent)]
    Pass(#[from] quantal_ir::passes::PassError),
    /// Quantized nodes of the graph.
    #[error(transparent)]
    Qdq(#[from] quantal_ir::qdq::QdqError),
    /// Compiling or running.
    #[error(transparent)]
    Run(#[from] quantal_runtime::Error),
    /// The data.
    #[error(transparent)]
    Data(#[from] quantal_data::Error),
    /// Deciding and calibrating.
    #[error(transparent)]
    Ptq(#[from] quantal_ptq::Error),
    /// A recipe in a file.
    #[error("{path}: {cause}")]
    Recipe {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: quantal_ptq::Error,
    },
    /// The instruction set asked for.
    #[error(transparent)]
    Isa(#[from] UnknownIsa),
    /// A bug of ours.
    #[error("internal error: {message}")]
    Internal {
        /// What happened.
        message: String,
    },
    /// Options that do not go together.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// The data and the model do not go together, or an option does not apply.
    #[error("{message}")]
    Job {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Error {
    /// An [`Error::Job`]; an empty hint is none.
    pub fn job(message: impl Into<String>, hint: &str) -> Self {
        Self::Job { message: message.into(), hint: (!hint.is_empty()).then(|| hint.to_owned()) }
    }

    /// An [`Error::Usage`].
    pub fn usage(message: impl Into<String>, hint: &'static str) -> Self {
        Self::Usage { message: message.into(), hint }
    }

    /// Whether what was asked for has no meaning or lacks something, in options or in the files that stand for options
    /// (recipes, preprocessings), rather than in the model or the data.
    pub fn is_usage(&self) -> bool {
        use quantal_data::Error as Data;
        matches!(
            self,
            Self::Usage { .. }
                | Self::Recipe { .. }
                | Self::Ptq(quantal_ptq::Error::UnknownPreset { .. })
                | Self::Data(
                    Data::UnknownPreset { .. }
                        | Data::PreprocessFile { .. }
                        | Data::NeedsPreprocess { .. }
                        | Data::Tokenizer { path: None, .. }
                )
        )
    }

    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(e) => e.hint(),
            Self::Import { cause, .. } => cause.hint(),
            Self::Run(e) => e.hint(),
            Self::Data(e) => e.hint(),
            Self::Ptq(e) | Self::Recipe { cause: e, .. } => e.hint(),
            Self::Usage { hint, .. } => Some((*hint).to_owned()),
            Self::Job { hint, .. } => hint.clone(),
            Self::Isa(_) => Some("unset QUANTAL_ISA to use the best that this CPU has".to_owned()),
            Self::Internal { .. } => {
                Some("this is a bug in quantal: please report it with the command and the model".to_owned())
            }
            Self::Pass(_) | Self::Qdq(_) => None,
        }
    }
}

/// A path as messages show it.
pub(crate) fn shown(path: &Path) -> String {
    quantal_data::shown(path)
}
