//! What can go wrong while compiling or running, in words that name the node or the input.

use crate::ops::OpError;
use crate::program::StepRow;
use quantal_ir::Node;
use quantal_tensor::{DType, TensorError};

/// Why a graph cannot be compiled or a program cannot run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An operator refused its attributes or its inputs.
    #[error("`{node}` ({op}): {cause}")]
    Node {
        /// The node's name.
        node: String,
        /// Its operator.
        op: String,
        /// What was wrong.
        cause: OpError,
    },
    /// Nodes have operators that are not known here.
    #[error("operators are not known here: {}", operators_text(.operators))]
    UnknownOperators {
        /// Each operator with the number of its nodes and the name of the first one.
        operators: Vec<(String, usize, String)>,
    },
    /// A node reads a value that nothing makes before it.
    #[error("`{reader}` reads `{value}`, which no input, constant or earlier node makes")]
    NoProducer {
        /// The node, or "the graph's outputs".
        reader: String,
        /// The value.
        value: String,
    },
    /// A loop or a run went over its budget.
    #[error("`{node}`: stopped after {done} {what}, the most that one run may take")]
    Budget {
        /// The outermost loop that was running.
        node: String,
        /// How much was done.
        done: u64,
        /// Of what: turns, steps, bytes made or bytes grown.
        what: &'static str,
    },
    /// Subgraphs lie in each other too deep.
    #[error("`{node}`: subgraphs are nested more than {limit} deep")]
    TooDeep {
        /// The innermost node that was looked at.
        node: String,
        /// The limit.
        limit: usize,
    },
    /// An input without a default was not given.
    #[error("input `{input}` is missing; the model's inputs are {}", list(.inputs))]
    MissingInput {
        /// The input.
        input: String,
        /// All inputs of the model.
        inputs: Vec<String>,
    },
    /// A name was given that no input has.
    #[error("the model has no input `{input}`; its inputs are {}", list(.inputs))]
    UnknownInput {
        /// The name.
        input: String,
        /// All inputs of the model.
        inputs: Vec<String>,
    },
    /// An input was given twice.
    #[error("input `{input}` is given twice")]
    RepeatedInput {
        /// The input.
        input: String,
    },
    /// A value was fed in place of an input's default, and the graph does not go together with it.
    #[error("the model cannot run with another value in place of an input's default: {cause}")]
    Override {
        /// What was wrong.
        cause: String,
    },
    /// An input has the wrong element type.
    #[error("input `{input}` must be {wanted}, found {found}")]
    InputType {
        /// The input.
        input: String,
        /// What the model declares.
        wanted: DType,
        /// What was given.
        found: DType,
    },
    /// An input has the wrong rank or a wrong dimension.
    #[error("input `{input}` must have shape {wanted}, found {found:?}")]
    InputShape {
        /// The input.
        input: String,
        /// What the model declares: `[1, 3, H, W]`.
        wanted: String,
        /// What was given.
        found: Vec<usize>,
    },
    /// A value to be observed is not in the program: it was not named when compiling, or nothing makes it.
    #[error("value `{value}` cannot be observed: the program does not keep it")]
    NotObservable {
        /// The value.
        value: String,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Error {
    /// `cause` with the node that it happened in.
    pub fn at(node: &Node, cause: OpError) -> Self {
        Self::Node { node: node.name.escape_debug().to_string(), op: node.op_name(), cause }
    }

    /// `cause` with the step that it happened in.
    pub(crate) fn in_step(row: &StepRow, cause: OpError) -> Self {
        Self::Node { node: row.name.escape_debug().to_string(), op: row.op.to_string(), cause }
    }

    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownOperators { operators } => {
                let of = |domain: &str| operators.iter().any(|(op, ..)| op.starts_with(domain));
                let how = if of("com.microsoft") || of("com.ms.") {
                    "export the model without ONNX Runtime's optimizer, or take the file from before it"
                } else if operators.iter().all(|(op, ..)| !op.contains('.')) {
                    "they are not supported: export the model in other operators, or cut them off it"
                } else {
                    "export the model without operators of its own"
                };
                format!("{how}; `quantal inspect --coverage` lists all nodes")
            }
            Self::Node { op, cause: OpError::Unsupported(_), .. } if op.starts_with("com.microsoft") => {
                "export the model without ONNX Runtime's optimizer, or take the file from before it".to_owned()
            }
            Self::Node { op, cause: OpError::Unsupported(_), .. } => {
                format!("simplify the model so that {op} is gone (constant folding in the exporter often does)")
            }
            Self::Node { cause: OpError::Tensor(TensorError::OutOfMemory(_)), .. }
            | Self::Tensor(TensorError::OutOfMemory(_)) => "raise the memory limit or feed a smaller batch".to_owned(),
            Self::Budget { .. } => "check the condition that should end the loop".to_owned(),
            Self::MissingInput { input, .. } => format!("give a tensor named `{input}`"),
            Self::UnknownInput { inputs, .. } => format!("give only {}", list(inputs)),
            Self::InputType { wanted, .. } => format!("convert the data to {wanted}"),
            Self::NotObservable { .. } => "name the value when the program is compiled".to_owned(),
            Self::Node { .. }
            | Self::NoProducer { .. }
            | Self::TooDeep { .. }
            | Self::RepeatedInput { .. }
            | Self::Override { .. }
            | Self::InputShape { .. }
            | Self::Tensor(_) => return None,
        })
    }
}

/// The result of compiling or running.
pub type Result<T> = std::result::Result<T, Error>;

/// `` `com.a.Foo` (2 nodes, the first is `x`), `Bar` (`y`) ``.
fn operators_text(operators: &[(String, usize, String)]) -> String {
    let one = |(op, count, first): &(String, usize, String)| match count {
        1 => format!("`{op}` (`{first}`)"),
        n => format!("`{op}` ({n} nodes, the first is `{first}`)"),
    };
    operators.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
