//! Types and shapes of values, from those of the inputs.

use crate::graph::{Graph, NodeId};

/// A contradiction that can never run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InferError(pub String);

/// What is known beside types: the contents of small integer tensors.
#[derive(Debug, Default)]
pub struct Inferer {}

impl Inferer {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets type and shape of what a node makes.
    pub fn node(&mut self, _graph: &mut Graph, _id: NodeId) -> Result<(), InferError> {
        Ok(())
    }
}
