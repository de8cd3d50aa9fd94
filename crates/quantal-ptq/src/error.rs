//! What can go wrong while deciding, in words that name the field, the tensor or the sample.

/// Why a recipe cannot be used or a model cannot be quantized.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] quantal_tensor::TensorError),
    /// There is no built-in recipe of that name.
    #[error("there is no built-in recipe `{}`, and no such file", .name.escape_debug())]
    UnknownPreset {
        /// The name asked for.
        name: String,
    },
    /// A recipe is not TOML, or not of the right form.
    #[error("recipe{}: {message}", place(.line.as_deref()))]
    RecipeText {
        /// The line, as [`quantal_data::toml_line`] shows it, where known.
        line: Option<String>,
        /// What is wrong there.
        message: String,
    },
    /// A number in a recipe lies where it cannot.
    #[error("recipe{}: `{field}`: {problem}", place(.line.as_deref()))]
    RecipeValue {
        /// The line, where the recipe was read from a file.
        line: Option<String>,
        /// The field, with its table.
        field: String,
        /// What it must be, and what was found.
        problem: String,
    },
    /// An exception of a recipe is for no node of the model.
    #[error("recipe: `overrides[{index}].node`: `{}` fits no node of the model", .pattern.escape_debug())]
    FitsNoNode {
        /// The place of the exception, from 0.
        index: usize,
        /// Its pattern.
        pattern: String,
        /// Names of nodes that are like it.
        near: Vec<String>,
    },
    /// A weight or another constant holds NaN or an infinity.
    #[error("the weights `{tensor}` of `{node}` hold NaN or an infinity")]
    WeightsNotFinite {
        /// The tensor.
        tensor: String,
        /// The node that reads it.
        node: String,
    },
    /// A constant that is added or multiplied holds NaN or an infinity.
    #[error("the constant `{tensor}` holds NaN or an infinity")]
    ConstantNotFinite {
        /// The tensor.
        tensor: String,
    },
    /// The model made NaN or an infinity, or was fed one.
    #[error("tensor `{tensor}` holds NaN or an infinity in sample `{sample}`")]
    ActivationsNotFinite {
        /// The tensor.
        tensor: String,
        /// The sample.
        sample: String,
    },
    /// The model holds quantized nodes.
    #[error("the model is quantized already: `{node}` is a {op}")]
    AlreadyQuantized {
        /// The first such node.
        node: String,
        /// Its operator.
        op: String,
    },
    /// There was no sample to calibrate with.
    #[error("there is no calibration sample")]
    NoSamples,
    /// A sample cannot be read.
    #[error(transparent)]
    Data(#[from] quantal_data::Error),
    /// The float model cannot be compiled.
    #[error("the float model cannot be run: {0}")]
    Compile(Box<quantal_runtime::Error>),
    /// The float model failed on a sample.
    #[error("sample `{sample}`: {cause}")]
    Run {
        /// The sample.
        sample: String,
        /// What happened.
        cause: Box<quantal_runtime::Error>,
    },
    /// The decisions cannot be written into the graph.
    #[error(transparent)]
    Qdq(#[from] quantal_ir::qdq::QdqError),
}

impl Error {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownPreset { .. } => {
                format!("give {}, or a file as `--save-recipe` writes it", crate::recipe::PRESETS.join(", "))
            }
            Self::RecipeText { .. } | Self::RecipeValue { .. } => {
                "`quantal quantize … --save-recipe FILE` writes a recipe with every field".to_owned()
            }
            Self::FitsNoNode { near, .. } => {
                let near: Vec<String> = near.iter().map(|name| format!("`{}`", name.escape_debug())).collect();
                let near = if near.is_empty() { String::new() } else { format!("near it: {}; ", near.join(", ")) };
                format!(
                    "{near}`quantal inspect MODEL --coverage --json` lists all nodes, of which batch norms are folded first"
                )
            }
            Self::WeightsNotFinite { .. } | Self::ConstantNotFinite { .. } => {
                "the model is damaged; export it again".to_owned()
            }
            Self::ActivationsNotFinite { .. } => {
                "check the sample and its preprocessing; leave it out if it is damaged".to_owned()
            }
            Self::AlreadyQuantized { .. } => "start from the float model that it was made from".to_owned(),
            Self::NoSamples => "give a folder with at least one sample".to_owned(),
            Self::Data(cause) => return cause.hint(),
            Self::Compile(cause) | Self::Run { cause, .. } => return cause.hint(),
            Self::Qdq(_) | Self::Tensor(_) => return None,
        })
    }
}

fn place(line: Option<&str>) -> String {
    line.map_or_else(String::new, |line| format!(", {line}"))
}

/// The result of deciding.
pub type Result<T, E = Error> = std::result::Result<T, E>;
